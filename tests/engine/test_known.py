"""A node remembers what it has found at the path of its backing directory, and does not begin anew by mistake."""

import json
from pathlib import Path

import pytest

from dsfs.model.errors import BackingError
from dsfs.storage.backing import MARK, BackingDirectory
from dsfs.storage.known import FILE, refuse_if_gone, remember
from tests.engine.stopping import stopping_at


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def backing(tmp_path: Path, state_dir: Path) -> Path:
    """A backing directory the node has used."""
    path = tmp_path / "nfs" / "dsfs"
    path.parent.mkdir()
    remember(state_dir, path, BackingDirectory(path).cluster)
    return path


def test_directory_that_is_still_there_is_no_trouble(state_dir: Path, backing: Path) -> None:
    refuse_if_gone(state_dir, backing)
    cluster = BackingDirectory(backing).cluster
    assert json.loads((state_dir / FILE).read_text()) == {str(backing): cluster}


def test_empty_or_missing_directory_where_one_was_is_refused(state_dir: Path, backing: Path) -> None:
    """It is the mountpoint, or its parent is, of an NFS that is not mounted."""
    cluster = BackingDirectory(backing).cluster
    away = backing.parent.rename(backing.parent.with_name("away"))
    for made in (None, backing.parent, backing):
        if made is not None:
            made.mkdir()
        with pytest.raises(BackingError, match=f"cluster id {cluster} before: is the NFS not mounted.* --force"):
            refuse_if_gone(state_dir, backing)
    assert list(backing.iterdir()) == []
    backing.rmdir()
    backing.parent.rmdir()
    away.rename(backing.parent)
    refuse_if_gone(state_dir, backing)


def test_path_where_nothing_was_is_no_trouble(state_dir: Path, backing: Path) -> None:
    refuse_if_gone(state_dir, backing.with_name("new"))


def test_each_path_is_remembered(state_dir: Path, backing: Path) -> None:
    second = backing.with_name("second")
    remember(state_dir, second, BackingDirectory(second).cluster)
    (backing / MARK).unlink()
    with pytest.raises(BackingError):
        refuse_if_gone(state_dir, backing)
    refuse_if_gone(state_dir, second)


def test_other_directory_at_the_path_is_remembered_instead(state_dir: Path, backing: Path) -> None:
    backing.rename(backing.with_name("away"))
    remember(state_dir, backing, BackingDirectory(backing).cluster)
    cluster = BackingDirectory(backing).cluster
    (backing / MARK).unlink()
    with pytest.raises(BackingError, match=cluster):
        refuse_if_gone(state_dir, backing)


def test_what_cannot_be_looked_at_is_left_to_who_opens_it(state_dir: Path, backing: Path) -> None:
    backing.rename(backing.with_name("away"))
    backing.write_text("no directory")
    refuse_if_gone(state_dir, backing)
    with pytest.raises(BackingError):
        BackingDirectory(backing)


@pytest.mark.expects_log("which backing directories this node has used is not known any more")
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff"])
def test_damaged_memory_is_one_warning_and_is_made_anew(state_dir: Path, backing: Path, content: bytes) -> None:
    (state_dir / FILE).write_bytes(content)
    refuse_if_gone(state_dir, backing)
    remember(state_dir, backing, "cluster")
    assert json.loads((state_dir / FILE).read_text()) == {str(backing): "cluster"}


def test_local_disk_that_does_not_take_it_is_a_clear_error(state_dir: Path, backing: Path) -> None:
    remember(state_dir, backing, BackingDirectory(backing).cluster)  # nothing to write
    with stopping_at(1, OSError(28, "No space left on device")), pytest.raises(BackingError, match=r"json: No space"):
        remember(state_dir, backing, "other")
    (backing / MARK).unlink()
    with pytest.raises(BackingError, match="cluster id"):
        refuse_if_gone(state_dir, backing)
