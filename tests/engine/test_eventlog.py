"""Events in the backing directory: whole lines of all nodes by their time, however they were torn, and not too many."""

import errno
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.event import Event
from dsfs.storage import eventlog
from dsfs.storage.eventlog import FULL_BYTES, EventLog
from dsfs.storage.filesystem import file_system_of
from tests.engine.faults import Faults
from tests.engine.stopping import DiedError, stopping_at

A, B = "a" * 16, "b" * 16
SECOND_NS = 10**9
FUTURE_NS = 4 * 10**18  # later than any mtime


def event(second: int, node: str = A, why: str = "") -> Event:
    return Event(FUTURE_NS + second * SECOND_NS, "dropped", "photos", "v1", 5, why, node, "gpu1")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    path.mkdir()
    return path


@pytest.fixture
def events(place: Path) -> EventLog:
    return EventLog(place, file_system_of(place))


def seconds(found: Sequence[Event]) -> list[int]:
    return [(each.at_ns - FUTURE_NS) // SECOND_NS for each in found]


def test_events_of_all_nodes_come_in_the_order_of_their_times(events: EventLog) -> None:
    events.append(A, [event(1), event(4)])
    events.append(B, [event(2, B)])
    events.append(A, [event(3)])
    excerpt = events.read({}, 0)
    assert (seconds(excerpt.events), excerpt.damaged_lines) == ([1, 2, 3, 4], 0)
    assert excerpt.events[1] == event(2, B)


def test_who_follows_gets_each_event_once(events: EventLog) -> None:
    events.append(A, [event(1)])
    first = events.read({}, 0)
    assert events.read(first.read_until, 0).events == []
    events.append(B, [event(2, B)])
    events.append(A, [event(3)])
    second = events.read(first.read_until, 0)
    assert seconds(second.events) == [2, 3]
    assert events.read(second.read_until, 0).events == []


def test_what_happened_before_is_left_out(events: EventLog, place: Path) -> None:
    events.append(A, [event(1), event(2)])
    events.append(B, [event(3, B)])
    for path in place.iterdir():
        os.utime(path, ns=(FUTURE_NS, FUTURE_NS + 10 * SECOND_NS))
    os.utime(place / f"{B}.1.jsonl", ns=(0, 0))  # so nothing in it can be newer
    assert seconds(events.read({}, FUTURE_NS + 2 * SECOND_NS).events) == [2]


def test_full_file_is_followed_by_another_and_two_are_kept(events: EventLog, place: Path) -> None:
    batch = [event(0, why="x" * 400)] * 32
    read_until: dict[str, int] = {}
    written = got = 0
    for _ in range(100):
        events.append(A, batch)
        written += len(batch)
        excerpt = events.read(read_until, 0)
        read_until = excerpt.read_until
        got += len(excerpt.events)
    assert got == written  # also of files that are gone by now
    sizes = {path.name: path.stat().st_size for path in place.iterdir()}
    assert len(sizes) == 2
    assert max(sizes.values()) < FULL_BYTES + 32 * 1024
    assert excerpt.damaged_lines == 0
    assert f"{A}.1.jsonl" not in sizes
    assert set(read_until) == set(sizes)


@pytest.mark.parametrize("torn", [b'\n{"format":1,"at_n', b"\n", b"\0" * 4096, b"\xff\xfe\n", b"\n[]\n"])
def test_torn_line_spoils_no_other(events: EventLog, place: Path, torn: bytes) -> None:
    events.append(A, [event(1)])
    with (place / f"{A}.1.jsonl").open("ab") as file:
        file.write(torn)
    assert seconds(events.read({}, 0).events) == [1]
    events.append(A, [event(2)])
    excerpt = events.read({}, 0)
    assert (seconds(excerpt.events), excerpt.damaged_lines) == ([1, 2], 0 if torn == b"\n" else 1)


@pytest.mark.parametrize("torn", [False, True])
def test_crash_at_any_step_of_a_write_leaves_what_was_there(tmp_path: Path, *, torn: bool) -> None:
    for step in count(1):
        place = tmp_path / str(step)
        place.mkdir()
        events = EventLog(place, file_system_of(place))
        events.append(A, [event(1)])
        with stopping_at(step, DiedError(), torn=torn) as stop:
            events.append(A, [event(2), event(3)])
        events.append(A, [event(4)])
        excerpt = events.read({}, 0)
        assert seconds(excerpt.events) in ([1, 4], [1, 2, 4], [1, 2, 3, 4])
        assert excerpt.damaged_lines <= torn
        if not stop.was_reached:
            break
    assert seconds(excerpt.events) == [1, 2, 3, 4]


def test_oldest_files_of_too_many_nodes_are_removed(
    events: EventLog, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "MOST_FILES", 3)
    for number in range(5):
        node = f"{number:016x}"
        events.append(node, [event(number, node)])
        os.utime(place / f"{node}.1.jsonl", (number, number))
    events.forget()
    assert seconds(events.read({}, 0).events) == [2, 3, 4]
    events.forget()
    assert len(list(place.iterdir())) == 3


def test_what_is_none_of_ours_is_left_alone(events: EventLog, place: Path) -> None:
    for name in (".nfs0012", "README", f"{A}.jsonl", f"{A}.1.jsonl~", f"{A}.-1.jsonl"):
        (place / name).write_text("anything\n")
    assert events.read({}, 0) == eventlog.Excerpt([], {}, 0)
    events.append(A, [event(1)])
    assert seconds(events.read({"gone.1.jsonl": 5}, 0).events) == [1]


def test_file_that_was_cut_short_is_read_again_once_it_has_grown(events: EventLog, place: Path) -> None:
    events.append(A, [event(1), event(2)])
    read_until = events.read({}, 0).read_until
    os.truncate(place / f"{A}.1.jsonl", 0)
    assert events.read(read_until, 0).events == []


def test_folder_that_is_gone_is_said_so(events: EventLog, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faults(monkeypatch).fail("events.write", errno.EROFS)
    with pytest.raises(OSError, match="Read-only"):
        events.append(A, [event(1)])
    (place / f"{A}.1.jsonl").unlink()
    place.rmdir()
    with pytest.raises(FileNotFoundError):
        events.append(A, [event(1)])
    with pytest.raises(FileNotFoundError):
        events.read({}, 0)
