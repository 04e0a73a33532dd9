"""The backing directory on a file system that is full, or read-only: real ones, mounted for the test."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK
from dsfs.model.errors import BackingError, NoRoomError
from dsfs.model.retention import Amount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.segment import State
from tests.engine.backing_sample import Clock, room_of, segment_of
from tests.engine.segment_sample import IDENTITY

MIB = 1024 * 1024


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", *options, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_removed_segment_leaves_no_file(tmp_path: Path) -> None:
    backing = BackingDirectory(tmp_path)
    sample, file = segment_of(backing)
    sample.complete(file)
    sample.close()
    backing.remove_segment(IDENTITY)
    assert not sample.names()
    backing.remove_segment(IDENTITY)  # not there: no error
    assert list(backing.segment_files()) == []


@pytest.mark.needs("root")
def test_full_file_system_is_reported_and_filled_again_once_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as path:
        clock = Clock()
        backing = BackingDirectory(path)
        room = room_of(backing, clock=clock)
        sample, file = segment_of(backing, blocks=50)
        ballast = path / "ballast"
        ballast.write_bytes(bytes(4 * MIB))
        written = 0
        with pytest.raises(OSError, match="No space left") as caught:  # noqa: PT012
            while True:
                sample.fill(file, written, written + 1)
                written += 1
        assert 20 < written < 40
        room.failed(caught.value)
        assert "no room" in room.why_not_filling()
        sample.assert_right_or_lost(file)
        assert file.presence.resident == written
        sample.close()
        file = sample.file()
        assert file.presence.resident == written
        sample.assert_right_or_lost(file)
        ballast.unlink()
        with pytest.raises(NoRoomError):
            room.reserve(Amount(BLOCK))
        clock.now_s += 11
        room.reserve(Amount(BLOCK))
        sample.complete(file)
        room.succeeded()
        assert room.why_not_filling() == ""
        sample.close()


@pytest.mark.needs("root")
def test_full_file_system_at_the_seal_loses_nothing(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as path:
        sample, file = segment_of(BackingDirectory(path))
        sample.fill(file, 0, 4)
        ballast = path / "ballast"
        with ballast.open("wb", buffering=0) as out, suppress(OSError):
            while True:
                out.write(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            file.seal()
        assert file.is_complete
        sample.assert_right_or_lost(file)
        ballast.unlink()
        assert file.seal()
        sample.complete(file)
        sample.close()


@pytest.mark.needs("root")
@pytest.mark.expects_log("was changed after|cannot be taken back, .*Read-only")
def test_read_only_directory_serves_what_is_sealed(tmp_path: Path) -> None:
    sample, file = segment_of(BackingDirectory(tmp_path / "backing"))
    sample.complete(file)
    sample.close()
    with mounted(tmp_path / "view", "--bind", str(tmp_path / "backing")) as path:
        subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        backing = BackingDirectory(path)
        sample, file = segment_of(backing)
        sample.assert_right_or_lost(file)
        assert file.state is State.SEALED
        with pytest.raises(OSError, match="Read-only"):
            file.drop()
        assert file.read_sealed(0, 100) == sample.content[:100]
        sample.close()
        os.utime(tmp_path / "backing" / "segments" / IDENTITY[:2] / IDENTITY)
        sample, file = segment_of(backing)
        assert file.state is State.ABSENT  # it cannot be taken back here, and is not believed
        with pytest.raises(OSError, match="Read-only"):
            sample.fill(file, 0, 1)
        sample.close()


@pytest.mark.needs("root")
def test_new_read_only_directory_is_refused(tmp_path: Path) -> None:
    new = mounted(tmp_path / "view", "-t", "tmpfs", "-o", "ro", "tmpfs")
    with new as path, pytest.raises(BackingError, match="Read-only file system"):
        BackingDirectory(path)


def test_kind_of_the_file_system_is_known(tmp_path: Path) -> None:
    backing = BackingDirectory(tmp_path)
    assert backing.file_system.kind
    assert not backing.file_system.is_network
