"""What an NFS client believes about names: asked as storage asks, it sees what another has just made or removed."""

import os
import time
from pathlib import Path

import pytest

from dsfs.storage.filesystem import file_system_of, open_existing
from dsfs.storage.segmentnames import remove_all
from tests.nfs.conftest import oldest_and_newest
from tests.rig.background import in_background
from tests.rig.bell import Bell
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.server import export_path

LARGE = export_path("large")
ROUNDS = 50
TIMEOUT_S = 60


def make_when_told(folder: Path, bells: Path, pause_s: float) -> None:
    """Each time that the bell rings make the next file, after a pause, and ring the other."""
    told, made = Bell(bells / "told"), Bell(bells / "made")
    for number in range(ROUNDS):
        told.wait(TIMEOUT_S)
        time.sleep(pause_s)
        (folder / str(number)).touch()
        made.ring()


def count_unseen(folder: Path, bells: Path) -> int:
    """How many files are not seen right after they were made, by who had looked for them right before."""
    unseen = 0
    fs = file_system_of(folder)
    told, made = Bell(bells / "told"), Bell(bells / "made")
    for number in range(ROUNDS):
        path = folder / str(number)
        assert open_existing(path, fs) is None
        told.ring()
        made.wait(TIMEOUT_S)
        fd = open_existing(path, fs)
        if fd is None:
            unseen += 1
        else:
            os.close(fd)
    return unseen


@pytest.mark.parametrize(("nfs_version", "pause_s"), [("3", 0.03), ("4.1", 0.0), ("4.2", 0.0)])
@pytest.mark.parametrize("options", ["", "actimeo=600"])
def test_file_that_was_looked_for_a_moment_too_early_is_seen(
    a: NfsClient, b: NfsClient, tmp_path: Path, nfs_version: str, pause_s: float, options: str
) -> None:
    """NFSv3 tells of a change by a ctime that moves with the ticks of the server's clock: not of two within one."""
    for client in (a, b):
        client.mount("large", nfs_version, options)
    folder = LARGE / "names"
    a.check("mkdir", str(folder))
    making = in_background(lambda: a.call(make_when_told, folder, tmp_path, pause_s))
    assert b.call(count_unseen, folder, tmp_path) == 0
    making.result(TIMEOUT_S)


def look_for(folder: Path) -> None:
    for suffix in ("", ".sum", ".map", ".part"):
        assert not (folder / f"name{suffix}").exists()


def remove(folder: Path) -> None:
    remove_all(folder / "name", file_system_of(folder))


@oldest_and_newest
def test_files_of_another_node_are_removed_by_who_believes_that_there_are_none(
    a: NfsClient, b: NfsClient, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    folder = LARGE / "names"
    a.check("mkdir", str(folder))
    b.call(look_for, folder)
    a.check("touch", *(str(folder / f"name{suffix}") for suffix in (".part", ".map")))
    b.call(remove, folder)
    assert a.check("ls", str(folder)) == ""
