"""The backing directory: whose it is, how much room there is in it, and what happens when there is none."""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK
from dsfs.model.errors import BackingError, NoRoomError
from dsfs.storage import faultpoint
from tests.engine.backing_sample import Clock, directory, segment_of
from tests.engine.stopping import DiedError, stopping_at
from tests.rig.segmentdir import age

MIB = 1024 * 1024
WAIT_S = 30
MADE = ["dsfs.json", "events", "nodes", "pins", "segments", "turns", "uses", "versions"]


# ---------------------------------------------------------------- whose it is


def test_empty_or_missing_directory_becomes_ours(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        directory(path)
        assert sorted(os.listdir(path)) == MADE
        described = json.loads((path / "dsfs.json").read_text())
        assert described["format"] == 1


def test_second_node_keeps_the_mark_of_the_first(tmp_path: Path) -> None:
    directory(tmp_path)
    before = (tmp_path / "dsfs.json").read_text()
    directory(tmp_path)
    assert (tmp_path / "dsfs.json").read_text() == before


def test_nodes_that_begin_at_once_agree_on_one_mark(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / str(number)
        path.mkdir()
        barrier = threading.Barrier(6)

        def begin(path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(WAIT_S)
            directory(path)

        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(begin) for _ in range(6)]:
                future.result(WAIT_S)
        assert sorted(os.listdir(path)) == MADE


def test_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BackingError, match=r"not empty \('thesis\.tex'\), and there is no dsfs\.json"):
        directory(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("name", [".snapshot", "lost+found", ".nfs0001", "dsfs.json.new-0123456789ab"])
def test_what_file_systems_and_crashes_leave_does_not_make_it_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    directory(tmp_path)
    assert (tmp_path / "dsfs.json").exists()
    assert (tmp_path / name).exists(), "another node may be about to complete it"
    age(tmp_path)
    directory(tmp_path)
    assert (tmp_path / name).exists() == (".new-" not in name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "format 2; this version of dsfs knows format 1 only"),
        ('{"format": "1"}', "format '1'"),
        ("{}", "format None"),
        ("[]", "format None"),
        ('{"format": 1}', "has no cluster id"),
        ('{"format": 1, "cluster": 7}', "has no cluster id"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_unknown_format_is_refused_in_clear_words(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dsfs.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BackingError, match=message):
        directory(tmp_path)
    assert os.listdir(tmp_path) == ["dsfs.json"]


def test_absent_parent_is_refused(tmp_path: Path) -> None:
    """Usually the NFS is not mounted: nothing is made on the disk below."""
    with pytest.raises(BackingError, match="No such file or directory"):
        directory(tmp_path / "nfs" / "dsfs")
    assert os.listdir(tmp_path) == []


def test_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backing").write_text("")
    with pytest.raises(BackingError):
        directory(tmp_path / "backing")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "sick"), DiedError()], ids=repr)
def test_beginning_that_stops_at_any_step_can_be_begun_again(tmp_path: Path, error: BaseException) -> None:
    for step in count(1):
        path = tmp_path / str(step)
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(BackingError):
            directory(path)
        backing = directory(path)
        backing.reserve(1)
        assert sorted(name for name in os.listdir(path) if ".new-" not in name) == MADE
        if not stop.was_reached:
            assert step > 5
            break


# ---------------------------------------------------------------- room


def test_reservations_are_held_against_the_limit(tmp_path: Path) -> None:
    backing = directory(tmp_path, limit_bytes=100)
    backing.reserve(60)
    with pytest.raises(NoRoomError, match=r"backing\.limit is reached"):
        backing.reserve(41)
    backing.reserve(40)
    backing.account(60)
    backing.release(60)
    with pytest.raises(NoRoomError):
        backing.reserve(1)
    backing.release(40)  # that one was not written
    backing.reserve(40)
    backing.account(-60)
    backing.reserve(60)
    assert backing.used_bytes == 0


def test_reservations_are_held_against_the_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = give_statvfs(monkeypatch, total=1000, free=500)
    clock = Clock()
    backing = directory(tmp_path, floor_bytes=300, clock=clock)
    backing.reserve(150)
    with pytest.raises(NoRoomError, match=r"below backing\.floor"):
        backing.reserve(51)
    backing.account(150)  # written: the free space that was measured before it is less by that
    backing.release(150)
    with pytest.raises(NoRoomError):
        backing.reserve(51)
    backing.reserve(50)
    backing.release(50)
    free[0] = 900
    with pytest.raises(NoRoomError):
        backing.reserve(51)  # measured a moment ago
    clock.now_s += 2
    backing.reserve(600)
    assert backing.space() == (1000, 900, 300)


def test_space_that_was_freed_counts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = give_statvfs(monkeypatch, total=1000, free=0)
    backing = directory(tmp_path)
    with pytest.raises(NoRoomError):
        backing.reserve(1)
    free[0] = 100
    backing.account(-100)
    backing.reserve(100)


def give_statvfs(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> list[int]:
    left = [free]

    def statvfs(path: Path) -> os.statvfs_result:
        return os.statvfs_result((1, 1, total, 0, left[0], 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    return left


def test_concurrent_reservations_never_take_more_than_there_is(tmp_path: Path) -> None:
    limit = 10_000
    backing = directory(tmp_path, limit_bytes=limit)
    barrier = threading.Barrier(8)
    taken: list[int] = []

    def take(size: int) -> None:
        barrier.wait(WAIT_S)
        while True:
            try:
                backing.reserve(size)
            except NoRoomError:
                return
            taken.append(size)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(take, size) for size in (1, 2, 3, 5, 7, 11, 13, 17)]:
            future.result(WAIT_S)
    assert sum(taken) == limit


def test_books_are_kept_while_the_file_system_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trio thread keeps them: it must not wait for a server that is gone."""
    backing = directory(tmp_path)
    asked, answered = threading.Event(), threading.Event()

    def hang(point: str) -> None:
        if point == "backing.statvfs":
            asked.set()
            assert answered.wait(WAIT_S)

    monkeypatch.setattr(faultpoint, "hook", hang)
    with ThreadPoolExecutor(1) as pool:
        reservation = pool.submit(backing.reserve, 10)
        assert asked.wait(WAIT_S)
        backing.account(5)
        backing.not_filled(3)
        backing.succeeded()
        backing.failed(OSError(errno.EIO, "sick"))
        assert not reservation.done()
        answered.set()
        reservation.result(WAIT_S)
    assert (backing.used_bytes, backing.unfilled_bytes) == (5, 3)


@pytest.mark.parametrize(
    ("number", "what"), [(errno.ENOSPC, "no room"), (errno.EDQUOT, "no room"), (errno.EIO, "not usable")]
)
def test_fault_pauses_the_fills_and_says_why(tmp_path: Path, number: int, what: str) -> None:
    clock = Clock()
    backing = directory(tmp_path, clock=clock)
    assert backing.why_not_filling() == ""
    backing.failed(OSError(number, os.strerror(number)))
    with pytest.raises(NoRoomError, match=what):
        backing.reserve(1)
    assert backing.why_not_filling() == f"backing directory {what}: {os.strerror(number)}"
    clock.now_s += 11
    backing.reserve(1)  # one that tries
    assert what in backing.why_not_filling()
    backing.succeeded()
    assert backing.why_not_filling() == ""


def test_file_system_that_cannot_be_asked_pauses_the_fills(tmp_path: Path) -> None:
    clock = Clock()
    backing = directory(tmp_path, clock=clock)
    gone = OSError(errno.ESTALE, "Stale file handle")
    with stopping_at(1, gone), pytest.raises(NoRoomError, match="not usable: Stale file handle"):
        backing.reserve(1)
    with pytest.raises(NoRoomError, match="not usable: Stale file handle"):
        backing.reserve(1)
    with stopping_at(1, OSError(errno.ESTALE, "Stale file handle")):
        assert backing.why_not_filling() == "backing directory not usable: Stale file handle"
    clock.now_s += 11
    backing.reserve(1)


def test_folders_that_somebody_removed_are_made_again(tmp_path: Path) -> None:
    clock = Clock()
    backing = directory(tmp_path, clock=clock)
    sample, file = segment_of(backing)
    (tmp_path / "segments").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        sample.fill(file, 0, 1)
    backing.failed(caught.value)
    clock.now_s += 11
    backing.reserve(BLOCK)
    sample.complete(file)
    sample.close()


def test_nothing_is_filled_or_made_where_the_mark_is_gone(tmp_path: Path) -> None:
    """As when the NFS was unmounted and the empty mountpoint is left."""
    clock = Clock()
    backing = directory(tmp_path, clock=clock)
    backing.failed(OSError(errno.EIO, "sick"))
    for name in MADE[1:]:
        (tmp_path / name).rmdir()
    (tmp_path / "dsfs.json").unlink()
    clock.now_s += 11
    with pytest.raises(NoRoomError, match=r"dsfs\.json is gone, is it still mounted\?"):
        backing.reserve(1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("is_doubtful", [True, False])
def test_other_directory_in_its_place_is_not_filled_until_the_right_one_is_back(
    tmp_path: Path, is_doubtful: bool
) -> None:
    """As when another export was mounted there, with or without a fault that somebody noticed."""
    clock = Clock()
    path, away = tmp_path / "backing", tmp_path / "away"
    backing = directory(path, clock=clock)
    if is_doubtful:
        backing.failed(OSError(errno.EIO, "sick"))
        clock.now_s += 11
    path.rename(away)
    other = directory(path)
    (path / "segments").rmdir()
    reason = f"another dsfs.json is there instead of that of cluster id {backing.cluster}"
    with pytest.raises(NoRoomError, match=reason):
        backing.reserve(1)
    assert reason in backing.why_not_filling()
    assert not (path / "segments").exists()
    assert backing.was_away
    assert not other.was_away
    path.rename(tmp_path / "other")
    away.rename(path)
    clock.now_s += 21
    backing.reserve(1)
    backing.succeeded()
    assert backing.why_not_filling() == ""
    assert backing.was_away, "what was seen meanwhile is in the books"
