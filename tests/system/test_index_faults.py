"""The state directory of a node damaged while its daemon is down: made anew from the backing directory, never fatal."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rig.faultproxy import FaultProxy
from tests.rig.node import Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    path.write_bytes(b"garbage " * (path.stat().st_size // 8))


def flip_meta(path: Path) -> None:
    """Both meta pages point to nowhere."""
    with path.open("r+b") as file:
        for page in (0, 4096):
            file.seek(page + 16 + 8)
            file.write(b"\xff" * 96)


def flip_inside(path: Path) -> None:
    """Every page but the two that lead to them is noise."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * (size - 8192))


def remove(path: Path) -> None:
    path.unlink()


Damage = Callable[[Path], None]


@pytest.mark.expects_log("residency index cannot be used")
@pytest.mark.parametrize("damage", [remove, empty, truncate, overwrite, flip_meta, flip_inside])
def test_residency_index_is_made_anew_from_the_backing_directory(
    damage: Damage, resident: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    damage(resident.state_dir / "residency.mdb")
    resident.start()
    assert resident.version(version.name)["resident_bytes"] == version.size_bytes
    used = resident.ask("status")["backing"]["used_bytes"]
    assert version.wrong_files(resident.mountpoint) == []
    assert proxy.data_bytes == 0
    assert abs(used - resident.ask("status")["backing"]["used_bytes"]) == 0
    assert resident.stop() == 0


@pytest.mark.expects_log("is damaged and left out", "describes no generation")
@pytest.mark.parametrize("damage", [remove, empty, truncate, overwrite, flip_inside])
@pytest.mark.parametrize("file", ["catalog.mdb", "summary.json"])
def test_damaged_local_catalog_is_taken_from_the_backing_directory(
    damage: Damage, file: str, resident: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    (path,) = resident.state_dir.glob(f"catalogs/{version.name}/*/{file}")
    damage(path)
    resident.start()
    assert version.wrong_files(resident.mountpoint) == []
    assert proxy.count("GET") == 0
    assert proxy.count("LIST", "*") == 0 or all("photos%2Fv1" not in request.query for request in proxy.requests)


def test_lost_local_catalogs_are_taken_from_the_backing_directory(
    resident: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    shutil.rmtree(resident.state_dir / "catalogs")
    resident.start()
    assert version.wrong_files(resident.mountpoint) == []
    assert resident.ask("status")["origins"][0]["requests"] == 0
    assert proxy.count() == 0


def test_catalogs_lost_in_both_places_are_listed_again_and_the_bytes_stay_resident(
    resident: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    shutil.rmtree(resident.state_dir / "catalogs")
    shutil.rmtree(resident.backing / "versions")
    resident.start()
    assert version.wrong_files(resident.mountpoint) == []
    assert proxy.count("GET") == 0
    assert proxy.count("LIST") > 0
    assert list(resident.backing.glob(f"versions/{version.name}/*/catalog.mdb"))


def test_lost_state_directory_costs_only_a_listing_of_nothing(
    resident: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    shutil.rmtree(resident.state_dir)
    resident.start()
    assert version.wrong_files(resident.mountpoint) == []
    assert proxy.data_bytes == 0
    wait_until(lambda: resident.version(version.name)["resident_bytes"] == version.size_bytes, what="the index")
