"""The backing directory turns read-only, is unmounted or removed while mounted: readers lose nothing but speed."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dsfs.metrics import SKIPPED
from dsfs.storage.backing import BackingDirectory
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, read_at
from tests.rig.segmentdir import files_below
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]
SIZE_BYTES = 96 * MIB
TROUBLE = ("a (fill|claim) failed", "resident bytes could not be used", "segment [0-9a-f]{40}", "cannot be put into")


def wait_paused(node: Node) -> str:
    """Why nothing is filled."""
    return str(wait_until(lambda: node.ask("status")["backing"]["reason"], what="the fault being noticed"))


def assert_refused(node: Node) -> None:
    """The daemon does not start, and says why in one line."""
    refused = node.command("mount", "--foreground")
    assert refused.returncode == 1
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("dsfs: ")]
    assert f"{node.backing} has no dsfs.json, and was the backing directory with cluster id" in line
    assert "is the NFS not mounted?" in line
    assert "dsfs mount --force" in line


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


@pytest.mark.expects_log(*TROUBLE, "made anew: it describes another backing directory")
def test_removed_directory_costs_only_speed(node: Node, version: SourceVersion) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint, version.large[:1]) == []
    wait_until(node.segment_files, what="the seal")
    # Renamed first: the daemon replaces files there all the time, which would stop the removal half-way.
    shutil.rmtree(node.backing.rename(node.work / "removed"))
    assert version.wrong_files(node.mountpoint) == []
    assert wait_paused(node)
    assert node.stop() == 0
    assert_refused(node)
    assert not node.backing.exists()
    node.start("--force")
    assert version.wrong_files(node.mountpoint) == []
    wait_until(lambda: node.version(version.name)["resident_bytes"] == version.size_bytes, what="fills going on")


@pytest.mark.expects_log(*TROUBLE)
def test_mark_that_is_removed_is_named_and_no_figure_is_made_up(node: Node, version: SourceVersion) -> None:
    node.start()
    (node.backing / "dsfs.json").rename(node.backing / "elsewhere")
    assert version.wrong_files(node.mountpoint) == []
    assert "dsfs.json is gone" in wait_paused(node)
    metrics = node.ask("metrics")["text"].splitlines()
    assert not [line for line in metrics if line.startswith("dsfs_backing_free_bytes ")]
    reasons = {match[1] for line in metrics if (match := re.search(r'skipped_bytes_total{reason="(.*?)"}', line))}
    assert reasons == set(SKIPPED)
    page = node.command("status").stdout
    assert " free" not in page
    assert "never taken" not in page
    (node.backing / "elsewhere").rename(node.backing / "dsfs.json")
    wait_until(lambda: node.metric("dsfs_backing_free_bytes"), what="the directory being itself again")
    assert node.stop() == 0


@pytest.mark.needs("mkfs.ext4")
def test_file_system_that_is_not_mounted_is_not_taken_for_an_empty_directory(
    tmp_path: Path, new_node: NewNode, proxy: FaultProxy, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", SIZE_BYTES) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        assert version.wrong_files(node.mountpoint) == []
        assert node.stop() == 0
        small.detach()
        assert_refused(node)
        assert list(small.path.iterdir()) == []
        small.mount()
        proxy.reset()
        node.start()
        assert version.wrong_files(node.mountpoint) == []
        assert proxy.data_bytes == 0
        assert node.stop() == 0


@pytest.mark.expects_log(*TROUBLE, "made anew: it describes another backing directory")
def test_other_backing_directory_in_its_place_is_not_filled_before_the_next_start(
    tmp_path: Path, new_node: NewNode, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", SIZE_BYTES) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        assert version.wrong_files(node.mountpoint, version.large[:1]) == []
        wait_until(node.segment_files, what="the seal")
        small.detach()
        small.mount()
        BackingDirectory(small.path)
        assert "another dsfs.json is there" in wait_paused(node)
        assert version.wrong_files(node.mountpoint) == []
        assert node.ask("status")["backing"]["unfilled_bytes"] > 0
        assert files_below(small.path / "segments") == []
        assert node.stop() == 0
        node.start()
        assert node.ask("status")["backing"]["used_bytes"] < MIB
        assert version.wrong_files(node.mountpoint) == []
        wait_until(lambda: node.version(version.name)["resident_bytes"] == version.size_bytes, what="the fills")
        assert node.stop() == 0


@pytest.mark.expects_log("made anew: it describes another backing directory")
def test_node_that_is_pointed_at_another_directory_tells_what_that_one_holds(
    tmp_path: Path, new_node: NewNode, proxy: FaultProxy, version: SourceVersion
) -> None:
    filler = new_node(settings=PATIENT, backing=tmp_path / "full").start()
    assert version.wrong_files(filler.mountpoint) == []
    wait_until(lambda: filler.version(version.name)["resident_bytes"] == version.size_bytes, what="the fills")
    used_bytes = filler.ask("status")["backing"]["used_bytes"]
    assert filler.stop() == 0
    node = new_node(settings=PATIENT).start()
    assert version.wrong_files(node.mountpoint, version.large[:1]) == []
    assert node.stop() == 0
    node.config.write_text(node.config.read_text().replace(str(node.backing), str(tmp_path / "full")))
    proxy.reset()
    node.start()
    # Seals that ended after the first look have freed their maps.
    assert node.ask("status")["backing"]["used_bytes"] == pytest.approx(used_bytes, rel=0.01)
    assert node.version(version.name)["resident_bytes"] == version.size_bytes
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes == 0
    assert node.stop() == 0
