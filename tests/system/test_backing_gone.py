"""The backing directory turns read-only, is unmounted or removed while mounted: readers lose nothing but speed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, read_at
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]
SIZE_BYTES = 96 * MIB
TROUBLE = ("a fill failed", "resident bytes could not be used", "segment [0-9a-f]{40}", "cannot be put into")


def wait_paused(node: Node) -> str:
    """Why nothing is filled."""
    return str(wait_until(lambda: node.ask("status")["backing"]["reason"], what="the fault being noticed"))


@pytest.mark.expects_log(*TROUBLE)
def test_read_only_file_system_costs_only_speed(tmp_path: Path, new_node: NewNode, version: SourceVersion) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", SIZE_BYTES) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        assert version.wrong_files(node.mountpoint, version.large[:1]) == []
        wait_until(node.segment_files, what="the seal")
        node.restart()  # nothing is open for writing, which would forbid it
        small.remount("ro")
        assert version.wrong_files(node.mountpoint) == []
        assert "Read-only file system" in wait_paused(node)
        assert node.metric("dsfs_fill_skipped_bytes_total") > 0
        node.restart()  # it starts on a read-only directory, too
        assert version.wrong_files(node.mountpoint) == []
        small.remount("rw")
        node.restart()
        assert version.wrong_files(node.mountpoint) == []
        wait_until(lambda: node.version(version.name)["resident_bytes"] == version.size_bytes, what="fills going on")
        assert node.stop() == 0


@pytest.mark.needs("mkfs.ext4")
@pytest.mark.expects_log(*TROUBLE, "cannot be sealed")
def test_file_system_that_gives_up_in_the_middle_costs_only_speed(
    tmp_path: Path, new_node: NewNode, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", SIZE_BYTES) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        read_at(version.tree(node.mountpoint) / version.large[0], 0, 1)
        wait_until(lambda: node.segment_files(".part"), what="a segment being begun")
        small.remount("abort")  # as the kernel does when the device fails: read-only, with files open for writing
        assert version.wrong_files(node.mountpoint) == []
        assert wait_paused(node)
        assert version.wrong_files(node.mountpoint) == []
        assert node.stop() == 0


@pytest.mark.expects_log(*TROUBLE)
def test_unmounted_file_system_costs_only_speed_and_nothing_is_written_below_it(
    tmp_path: Path, new_node: NewNode, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", SIZE_BYTES) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        assert version.wrong_files(node.mountpoint, version.large[:1]) == []
        wait_until(node.segment_files, what="the seal")
        small.detach()
        assert version.wrong_files(node.mountpoint) == []
        assert wait_paused(node)
        assert node.ask("status")["backing"]["unfilled_bytes"] > 0
        assert node.stop() == 0
        assert list(small.path.iterdir()) == []


@pytest.mark.expects_log(*TROUBLE)
def test_removed_directory_costs_only_speed(node: Node, version: SourceVersion) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint, version.large[:1]) == []
    wait_until(node.segment_files, what="the seal")
    shutil.rmtree(node.backing)
    assert version.wrong_files(node.mountpoint) == []
    assert wait_paused(node)
    assert node.stop() == 0
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    wait_until(lambda: node.version(version.name)["resident_bytes"] == version.size_bytes, what="fills going on")
