"""Room in a backing directory that fails, was emptied, or is another one."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import Amount
from dsfs.storage.backing import BackingDirectory
from tests.engine.backing_sample import Clock, room_of, segment_of
from tests.engine.stopping import stopping_at

ONE = Amount(1)


@pytest.mark.parametrize(
    ("number", "what"), [(errno.ENOSPC, "no room"), (errno.EDQUOT, "no room"), (errno.EIO, "not usable")]
)
def test_fault_pauses_the_fills_and_says_why(backing: BackingDirectory, clock: Clock, number: int, what: str) -> None:
    room = room_of(backing, clock=clock)
    assert room.why_not_filling() == ""
    room.failed(OSError(number, os.strerror(number)))
    with pytest.raises(NoRoomError, match=what):
        room.reserve(ONE)
    assert room.why_not_filling() == f"backing directory {what}: {os.strerror(number)}"
    clock.now_s += 11
    room.reserve(ONE)  # one that tries
    assert what in room.why_not_filling()
    room.succeeded()
    assert room.why_not_filling() == ""


def test_file_system_that_cannot_be_asked_pauses_the_fills(backing: BackingDirectory, clock: Clock) -> None:
    room = room_of(backing, clock=clock)
    gone = OSError(errno.ESTALE, "Stale file handle")
    with stopping_at(1, gone), pytest.raises(NoRoomError, match="not usable: Stale file handle"):
        room.reserve(ONE)
    with pytest.raises(NoRoomError, match="not usable: Stale file handle"):
        room.reserve(ONE)
    with stopping_at(1, gone):
        assert room.why_not_filling() == "backing directory not usable: Stale file handle"
    clock.now_s += 11
    room.reserve(ONE)


def test_what_is_written_while_the_file_system_is_asked_is_no_longer_free(
    backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that is slow to take up the answer may find that another one has written and settled meanwhile."""
    room, written = room_of(backing, clock=clock), Amount(BLOCK, 1)
    answer = backing.statvfs()
    monkeypatch.setattr(BackingDirectory, "statvfs", lambda _: answer)
    room.reserve(written)
    before = room.there().free

    def answer_late(_: BackingDirectory) -> os.statvfs_result:
        room.settle(written, written)
        return answer

    monkeypatch.setattr(BackingDirectory, "statvfs", answer_late)
    assert room.there().free == before - written
    monkeypatch.setattr(BackingDirectory, "statvfs", lambda _: answer)
    assert room.there().free == before


def test_folders_that_somebody_removed_are_made_again(tmp_path: Path, backing: BackingDirectory, clock: Clock) -> None:
    room = room_of(backing, clock=clock)
    sample, file = segment_of(backing)
    (tmp_path / "segments").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        sample.fill(file, 0, 1)
    room.failed(caught.value)
    clock.now_s += 11
    room.reserve(Amount(BLOCK))
    sample.complete(file)
    sample.close()


def test_nothing_is_filled_or_made_where_the_mark_is_gone(
    tmp_path: Path, backing: BackingDirectory, clock: Clock
) -> None:
    """As when the NFS was unmounted and the empty mountpoint is left."""
    room = room_of(backing, clock=clock)
    room.failed(OSError(errno.EIO, "sick"))
    for path in tmp_path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    clock.now_s += 11
    with pytest.raises(NoRoomError, match=r"dsfs\.json is gone, is it still mounted\?"):
        room.reserve(ONE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("is_doubtful", [True, False])
def test_other_directory_in_its_place_is_not_filled_until_the_right_one_is_back(
    tmp_path: Path, clock: Clock, is_doubtful: bool
) -> None:
    """As when another export was mounted there, with or without a fault that somebody noticed."""
    path, away = tmp_path / "backing", tmp_path / "away"
    backing = BackingDirectory(path)
    room = room_of(backing, clock=clock)
    if is_doubtful:
        room.failed(OSError(errno.EIO, "sick"))
        clock.now_s += 11
    path.rename(away)
    other = BackingDirectory(path)
    (path / "segments").rmdir()
    reason = f"another dsfs.json is there instead of that of cluster id {backing.cluster}"
    with pytest.raises(NoRoomError, match=reason):
        room.reserve(ONE)
    assert reason in room.why_not_filling()
    assert not (path / "segments").exists()
    assert backing.was_away
    assert not other.was_away
    path.rename(tmp_path / "other")
    away.rename(path)
    clock.now_s += 21
    room.reserve(ONE)
    room.succeeded()
    assert room.why_not_filling() == ""
    assert backing.was_away, "what was seen meanwhile is in the books"
