"""Two nodes meet by files: in whatever order they come, and whatever dead runs have left."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dsfs.doctor.check import NotCheckedError
from dsfs.doctor.meeting import FOLDER, Meeting, NobodyCameError

T = TypeVar("T")

WAIT_S = 20.0


def at_once(*functions: Callable[[], T]) -> list[T]:
    """Their results; each runs in a thread of its own."""
    results: dict[int, T] = {}

    def run(number: int, function: Callable[[], T]) -> None:
        results[number] = function()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[number] for number in range(len(functions))]


def met(place: Path) -> tuple[Meeting, Meeting]:
    one, two = Meeting(place, "one.example.org", "two"), Meeting(place, "two", "one")
    at_once(lambda: one.meet(WAIT_S), lambda: two.meet(WAIT_S))
    return one, two


def test_two_meet_talk_and_leave_nothing(tmp_path: Path) -> None:
    one, two = met(tmp_path)
    assert one.is_first != two.is_first
    assert at_once(lambda: one.exchange("a", 1), lambda: two.exchange("a", [2])) == [[2], 1]
    assert one.work("x") == two.work("x")
    at_once(one.leave, two.leave)
    assert os.listdir(tmp_path) == []


def test_what_the_first_has_said_is_there_for_the_last(tmp_path: Path) -> None:
    one, two = met(tmp_path)
    one.say("end", "goodbye")
    one.leave()
    assert two.hear("end") == "goodbye"
    two.leave()
    assert os.listdir(tmp_path) == []


def test_dead_runs_of_both_and_others_are_not_met(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    left = ["hello-two-0123456789ab", "hello-one-ba9876543210", "met-two-0123456789ab-ba9876543210", "hello-two-too-9a"]
    for name in left:
        (folder / name).touch()
    one, two = met(tmp_path)
    assert at_once(lambda: one.exchange("a", 1), lambda: two.exchange("a", 2)) == [2, 1]
    at_once(one.leave, two.leave)
    assert sorted(os.listdir(folder)) == sorted(left)


def test_what_is_old_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    (folder / "aaa-bbb").mkdir(parents=True)
    (folder / "hello-two-0123456789ab").touch()
    for path in list(folder.iterdir()):
        os.utime(path, (time.time() - 7200,) * 2)
    one, two = met(tmp_path)
    at_once(one.leave, two.leave)
    assert os.listdir(tmp_path) == []


def test_nobody_comes(tmp_path: Path) -> None:
    one = Meeting(tmp_path, "one", "two")
    with pytest.raises(NobodyCameError, match="two did not come within 0 s"):
        one.meet(0)
    one.leave()
    assert os.listdir(tmp_path) == []


def test_one_that_stops_answering_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    one, two = met(tmp_path)
    with pytest.raises(NobodyCameError, match="two does not answer any more"):
        one.hear("a", timeout_s=0)
    at_once(one.leave, two.leave)


def test_a_step_that_failed_on_one_is_given_up_by_the_other(tmp_path: Path) -> None:
    one, two = met(tmp_path)
    two.give_up("locks")
    with pytest.raises(NotCheckedError, match="it failed on two"):
        one.hear("locks-1-3")
    assert at_once(lambda: one.exchange("names-1-1", 1), lambda: two.exchange("names-1-1", 2)) == [2, 1]
    at_once(one.leave, two.leave)
