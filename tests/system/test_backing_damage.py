"""Files of the backing directory flipped, cut or removed: noticed before a byte is used, and fetched again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, forget_pages, make_version, read_at
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

Damage = Callable[[Path], None]
FILE_BYTES = 5 * MIB
NOTICED = (
    "segment [0-9a-f]{40}",  # what was found, and that the origin is asked
    "is left out of the index",
    "catalog|generation",
)


def flip(path: Path) -> None:
    """One bit of the first record, or a third into the file."""
    at = 4096 + 2 if path.suffix in (".map", ".sum") else path.stat().st_size // 3
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def flip_first(path: Path) -> None:
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 0x10]))


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: list[Damage] = [flip, flip_first, halve, empty, remove]


@pytest.fixture(scope="module")
def version(s3: S3Server) -> SourceVersion:
    """One large file for each damage, and two packs' worth of small ones."""
    sizes = [FILE_BYTES + number for number in range(len(DAMAGES))]
    return make_version(s3.bucket("lake"), "damaged/v1", small_files=20, large_sizes_bytes=sizes, seed=7)


def touch_every_file(node: Node, version: SourceVersion) -> list[int]:
    """Have the daemon open every segment; the descriptors keep them open."""
    held = []
    for name in version.digests:
        path = version.tree(node.mountpoint) / name
        forget_pages(path)
        held.append(os.open(path, os.O_RDONLY))
        read_at(path, BLOCK * 2, 1)
    return held


def damage_segments(node: Node, version: SourceVersion, suffix: str) -> int:
    """Another damage to the file with that suffix of each large segment; how many there were."""
    folder = node.backing / "segments"
    identities = [
        node.ask("why", path=f"{version.name}/{name}")["segment"]["identity"] for name in version.large
    ]
    paths = [folder / identity[:2] / f"{identity}{suffix}" for identity in identities]
    for damage, path in zip(DAMAGES, paths, strict=True):
        damage(path)
    return len(paths)


def fill_partly(node: Node, version: SourceVersion) -> None:
    """The first blocks of every large file become resident."""
    for name in version.large:
        for block in range(4):
            read_at(version.tree(node.mountpoint) / name, block * BLOCK, 4096)
    wait_until(lambda: len(node.segment_files(".map")) == len(version.large), what="the segments being begun")


def assert_all_right(node: Node, version: SourceVersion) -> None:
    """Right bytes, now and after a restart, and then everything is sealed again."""
    assert version.wrong_files(node.mountpoint) == []
    node.restart()
    assert version.wrong_files(node.mountpoint) == []
    wait_until(lambda: len(node.segment_files()) == len(version.large) + 1, what="every segment being sealed again")
    assert not node.segment_files(".part")


@pytest.mark.expects_log(*NOTICED)
@pytest.mark.parametrize("is_mounted", [True, False], ids=["while mounted", "while down"])
@pytest.mark.parametrize("suffix", [".part", ".map"])
def test_damage_to_a_segment_being_filled_is_noticed(
    suffix: str, is_mounted: bool, node: Node, version: SourceVersion
) -> None:
    node.start()
    fill_partly(node, version)
    node.restart()  # nothing is in memory any more
    held = touch_every_file(node, version) if is_mounted else []
    damage_segments(node, version, suffix)
    if not is_mounted:
        node.restart()
    assert_all_right_and_close(node, version, held)


@pytest.mark.expects_log(*NOTICED)
@pytest.mark.parametrize("is_mounted", [True, False], ids=["while mounted", "while down"])
@pytest.mark.parametrize("suffix", ["", ".sum"])
def test_damage_to_a_sealed_segment_is_noticed(
    suffix: str, is_mounted: bool, node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    node.restart()
    held = touch_every_file(node, version) if is_mounted else []
    proxy.reset()
    damage_segments(node, version, suffix)
    if not is_mounted:
        node.restart()
    assert_all_right_and_close(node, version, held)
    assert proxy.data_bytes <= len(version.large) * (FILE_BYTES + MIB)  # no undamaged segment was fetched again


def assert_all_right_and_close(node: Node, version: SourceVersion, held: list[int]) -> None:
    try:
        assert version.wrong_files(node.mountpoint) == []
    finally:
        for fd in held:
            os.close(fd)
    assert_all_right(node, version)


@pytest.mark.expects_log(*NOTICED)
@pytest.mark.parametrize(
    ("file", "damage", "has_local"),
    [
        *(("catalog.mdb", damage, False) for damage in DAMAGES),
        *(("summary.json", damage, False) for damage in (flip_first, empty, remove)),
        ("catalog.mdb", remove, True),
    ],
)
def test_damaged_catalog_in_the_backing_directory_costs_a_listing_at_most(
    file: str, damage: Damage, has_local: bool, resident: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    (path,) = resident.backing.glob(f"versions/{version.name}/*/{file}")
    damage(path)
    if not has_local:
        for local in resident.state_dir.glob("catalogs/*/*/*/*"):
            local.unlink()
    resident.start()
    assert version.wrong_files(resident.mountpoint, version.large) == []
    assert proxy.data_bytes == 0


@pytest.mark.parametrize("damage", [flip, empty, remove])
def test_damaged_mark_stops_the_start_with_one_line(damage: Damage, node: Node, version: SourceVersion) -> None:
    node.start()
    damage(node.backing / "dsfs.json")  # no reader needs it
    assert version.wrong_files(node.mountpoint, version.large[:1]) == []
    assert node.stop() == 0
    refused = node.command("mount", "--foreground")
    assert refused.returncode == 1
    assert "dsfs.json" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not node.is_mounted()
