"""Files that appear complete, and files that pass the page cache by."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

import pytest

from dsfs.model.blocks import PAGE
from dsfs.storage.filesystem import NEW, DirectFile, FileSystem, file_system_of, is_unfinished, remove, replace_file
from tests.engine.faults import Faults
from tests.engine.segment_sample import medium, page_aligned
from tests.engine.stopping import DiedError, stopping_at

CONTENT = Random(2).randbytes(5 * PAGE)


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with medium(request.param, tmp_path) as place:
        yield place


@pytest.fixture
def file(folder: Path) -> Iterator[DirectFile]:
    made = DirectFile(folder / "file", size=8 * PAGE)
    yield made
    os.close(made.fd)


def buffer_with(content: bytes) -> memoryview:
    buffer = page_aligned(len(content))
    buffer[: len(content)] = content
    return buffer


@pytest.mark.parametrize("length", [1, PAGE - 1, PAGE, PAGE + 1, 5 * PAGE])
def test_what_is_written_is_read_whatever_its_length(folder: Path, file: DirectFile, length: int) -> None:
    was_direct = file.is_direct
    file.write(buffer_with(CONTENT[:length]), length, 2 * PAGE)
    buffer = page_aligned(5 * PAGE)
    assert file.read(buffer, length, 2 * PAGE) == length
    assert bytes(buffer[:length]) == CONTENT[:length]
    assert (folder / "file").read_bytes()[2 * PAGE : 2 * PAGE + length] == CONTENT[:length]
    assert file.is_direct == was_direct


def test_read_ends_with_the_file(file: DirectFile) -> None:
    file.resize(PAGE + 10)
    assert file.read(page_aligned(3 * PAGE), 3 * PAGE, 0) == PAGE + 10
    assert file.read(page_aligned(PAGE), PAGE, 4 * PAGE) == 0


def test_file_system_that_refuses_o_direct_only_when_it_is_used_gets_it_buffered(
    folder: Path, file: DirectFile
) -> None:
    """Shown by an offset that no local file system takes."""
    file.write(buffer_with(CONTENT[:PAGE]), PAGE, 100)
    assert (folder / "file").read_bytes()[100 : 100 + PAGE] == CONTENT[:PAGE]
    other = DirectFile(folder / "file")
    buffer = page_aligned(PAGE)
    assert other.read(buffer, PAGE, 100) == PAGE
    assert bytes(buffer) == CONTENT[:PAGE]
    other.write(buffer_with(CONTENT), 5 * PAGE, PAGE)
    assert (folder / "file").read_bytes()[PAGE : 6 * PAGE] == CONTENT
    os.close(other.fd)


def test_buffered_file_is_flushed_by_every_write(file: DirectFile, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    file.is_direct = False
    file.write(buffer_with(CONTENT), 5 * PAGE, 0)
    assert flushed == [file.fd]


def test_error_of_the_medium_is_no_refusal_of_o_direct(file: DirectFile) -> None:
    for number in (errno.EIO, errno.ENOSPC):
        with stopping_at(1, OSError(number, "sick")), pytest.raises(OSError, match="sick"):
            file.write(buffer_with(CONTENT), 5 * PAGE, 0)
    assert file.is_direct


def test_invalid_argument_of_a_buffered_file_is_an_error(file: DirectFile) -> None:
    file.is_direct = False
    with stopping_at(1, OSError(errno.EINVAL, "really")), pytest.raises(OSError, match="really"):
        file.write(buffer_with(CONTENT), 5 * PAGE, 0)


def test_file_that_cannot_be_given_its_size_is_not_left_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Faults(monkeypatch).fail("direct.resize", errno.ENOSPC)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="No space"):
        DirectFile(folder / "other", size=PAGE)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), DiedError()], ids=repr)
def test_file_that_is_replaced_is_the_old_or_the_new_one_at_every_step(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    for step in count(1):
        path.write_bytes(b"old")
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(OSError):
            replace_file(path, CONTENT)
        assert path.read_bytes() in ((b"old", CONTENT) if stop.was_reached else (CONTENT,))
        if not isinstance(error, DiedError):
            assert os.listdir(tmp_path) == ["file"]
        if not stop.was_reached:
            assert step > 5
            break


def test_removal_of_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    remove(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        remove(tmp_path / "folder")


def test_what_another_process_has_not_completed_is_told_by_its_name() -> None:
    assert is_unfinished("catalog.new-0123456789ab")
    assert not is_unfinished("catalog" + NEW)
    assert not is_unfinished("catalog")


@pytest.mark.parametrize(
    ("kind", "is_network", "is_nfs"),
    [
        ("ext4", False, False),
        ("nfs4", True, True),
        ("nfs", True, True),
        ("fuse.sshfs", True, False),
        ("lustre", True, False),
    ],
)
def test_kinds_that_other_nodes_may_share_are_known(kind: str, *, is_network: bool, is_nfs: bool) -> None:
    assert (FileSystem(kind).is_network, FileSystem(kind).is_nfs) == (is_network, is_nfs)


def test_kind_of_a_path_is_that_of_its_mount(tmp_path: Path) -> None:
    with medium("tmpfs", tmp_path) as folder:
        assert file_system_of(folder).kind == "tmpfs"
        (tmp_path / "link").symlink_to(folder)
        assert file_system_of(tmp_path / "link").kind == "tmpfs"
