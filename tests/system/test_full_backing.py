"""A backing directory without room: readers are served, `status` says why nothing is filled, and fills go on later."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK, PAGE, pages
from dsfs.storage.room import MOST_FULL_BELIEVED_S
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until

SIZE_BYTES = 32 * MIB

NewNode = Callable[..., Node]


@pytest.fixture(params=["tmpfs", pytest.param("ext4", marks=pytest.mark.needs("mkfs.ext4"))])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallFilesystem]:
    with SmallFilesystem(tmp_path / "small", request.param, SIZE_BYTES) as mounted:
        yield mounted


def backing_of(node: Node) -> dict[str, int | str]:
    return dict(node.ask("status")["backing"])


def is_room_reason(text: str) -> bool:
    """Whether the text says that there is no room; ext4 needs some of what is free for itself."""
    return "backing.floor" in text or "No space left" in text


def skipped_bytes(node: Node) -> float:
    return sum(
        float(line.rpartition(" ")[2])
        for line in node.ask("metrics")["text"].splitlines()
        if line.startswith("dsfs_fill_skipped_bytes_total{")
    )


def wait_filled(node: Node, version: SourceVersion, name: str, timeout_s: float = 10) -> None:
    """Read the file past the page cache until all of it is resident."""

    def is_filled() -> bool:
        assert version.wrong_files(node.mountpoint, [name]) == []
        blocks = node.ask("why", path=f"{version.name}/{name}")["blocks"]
        return bool(blocks["resident"] == blocks["total"])

    wait_until(is_filled, timeout_s, f"{name} being filled")


@pytest.mark.expects_log("No space left")
def test_full_file_system_costs_readers_nothing_and_fills_go_on_when_there_is_room(
    small: SmallFilesystem, new_node: NewNode, version: SourceVersion
) -> None:
    node = new_node(settings=PATIENT, backing=small.path).start()
    assert version.wrong_files(node.mountpoint) == []
    wait_until(lambda: backing_of(node)["state"] == "paused", what="the room being used up")
    assert is_room_reason(str(backing_of(node)["reason"]))
    assert backing_of(node)["unfilled_bytes"] == skipped_bytes(node) > 0
    assert int(backing_of(node)["used_bytes"]) <= SIZE_BYTES

    def is_told() -> bool:
        """Small runs may find room between two large ones that do not: what does not fit is asked for again."""
        assert version.wrong_files(node.mountpoint) == []
        return is_room_reason(" ".join(node.command("status").stdout.split()))

    wait_until(is_told, what="the reason in the text")
    node.restart()  # so that nothing is in memory any more
    dropped = node.ask("drop", target=version.name)
    assert dropped["dropped_bytes"] > SIZE_BYTES // 2
    wait_filled(node, version, version.large[0])
    assert backing_of(node)["state"] == "ok"
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0


def test_file_system_without_inodes_costs_readers_nothing_and_fills_go_on_when_there_are_some(
    tmp_path: Path, new_node: NewNode, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", 0, options="size=256m,nr_inodes=64") as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        (version.tree(node.mountpoint) / version.large[0]).stat()
        ballast = take_all_inodes(small.path)
        assert version.wrong_files(node.mountpoint, version.large[:1]) == []
        wait_until(lambda: backing_of(node)["state"] == "paused", what="the inodes being missed")
        assert node.metric("dsfs_fill_skipped_bytes_total") > 0
        assert version.wrong_files(node.mountpoint, version.large[:1]) == []
        for path in ballast:
            path.unlink()
        # What is read while it is believed that there is no room stays in memory, unfilled: so another file, and later.
        end_s = time.monotonic() + MOST_FULL_BELIEVED_S
        wait_until(lambda: time.monotonic() > end_s, 2 * MOST_FULL_BELIEVED_S, "the refusal being forgotten")
        wait_filled(node, version, version.large[1])
        assert backing_of(node)["state"] == "ok"
        assert node.stop() == 0


def take_all_inodes(folder: Path) -> list[Path]:
    taken: list[Path] = []
    for number in range(1000):
        path = folder / f".inode-{number}"
        try:
            path.touch()
        except OSError:
            return taken
        taken.append(path)
    raise AssertionError("the file system has no end of inodes")


@pytest.mark.expects_log("cannot be sealed", "a (fill|claim) failed", "No space left")
def test_segment_whose_checksums_do_not_fit_stays_readable_and_is_sealed_later(
    tmp_path: Path, new_node: NewNode, proxy: FaultProxy, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", 64 * MIB) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        name = version.large[0]
        (version.tree(node.mountpoint) / name).stat()
        size = version.size_of(name)
        records = pages(4096 + 8 * -(-size // BLOCK))
        # The last that is written without being asked for, but for what takes the place of something.
        wait_until((small.path / "uses" / version.name.replace("/", ",")).exists, what="the use being told")
        # And a page for those, a moment each; the checksums take as much as the map, which is two.
        ballast = small.fill_up(leaving_bytes=pages(size) + records + PAGE)
        wait_filled(node, version, name)
        assert node.segment_files() == []
        assert backing_of(node)["state"] == "paused"
        proxy.reset()
        assert version.wrong_files(node.mountpoint, [name]) == []
        assert proxy.data_bytes == 0
        ballast.unlink()
        node.restart()
        assert version.wrong_files(node.mountpoint, [name]) == []
        wait_until(node.segment_files, what="the seal")
        assert proxy.data_bytes == 0


def test_limit_holds_and_drop_makes_room(new_node: NewNode, proxy: FaultProxy, version: SourceVersion) -> None:
    limit = 20 * MIB
    node = new_node(settings={**PATIENT, "backing": {"limit": "20MiB"}}).start()
    assert version.wrong_files(node.mountpoint) == []
    wait_until(lambda: backing_of(node)["state"] == "paused" or skipped_bytes(node) > 0, what="the limit being reached")
    assert int(backing_of(node)["used_bytes"]) <= limit
    assert sum(path.stat().st_blocks * 512 for path in node.backing.rglob("segments/*/*")) <= limit
    assert node.metric('dsfs_fill_skipped_bytes_total{reason="limit"}') > 0
    assert int(backing_of(node)["unfilled_bytes"]) > 0
    node.restart()
    proxy.reset()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes >= version.size_bytes - limit - MIB
    node.restart()
    node.ask("drop", target=version.name)
    assert int(backing_of(node)["used_bytes"]) < MIB
    wait_filled(node, version, version.large[0])
    assert node.stop() == 0


def test_floor_keeps_free_space_for_others(tmp_path: Path, new_node: NewNode, version: SourceVersion) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", 64 * MIB) as small:
        node = new_node(settings={**PATIENT, "backing": {"floor": "50%"}}, backing=small.path).start()
        assert version.wrong_files(node.mountpoint) == []
        wait_until(lambda: skipped_bytes(node) > 0, what="the floor being reached")
        assert small.free_bytes >= 32 * MIB - 128 * 1024  # what nodes tell each other is not reserved
        assert node.metric('dsfs_fill_skipped_bytes_total{reason="floor"}') > 0
        assert version.wrong_files(node.mountpoint) == []
