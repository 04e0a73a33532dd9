"""Sealed segments changed by hand while two nodes read them: nobody gets wrong bytes, or an error.

Each damage is done on the server, and by another client, to a file of its own.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nfs.conftest import NewNode
from tests.nfs.test_many_nodes import LONGEST_WAIT_S, SETTINGS, Readers
from tests.nfs.test_one_node import wait_sealed
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.machine import GuestMachine
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer
from tests.rig.nfs.steadyreader import SteadyReader
from tests.rig.reading import SourceVersion, make_version

Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    """Every 128 KiB one bit, in place."""
    with path.open("r+b") as file:
        for at in range(0, path.stat().st_size, 128 * 1024):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0x10]))


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: list[Damage] = [flip, halve, remove]


@pytest.fixture(scope="module")
def version(booted: NfsRig) -> SourceVersion:
    """A large file for each damage at each place."""
    bucket = booted.origin.store.bucket("lake")
    sizes = [4 * MIB + 4097 + number for number in range(2 * len(DAMAGES))]
    return make_version(bucket, "damaged/v1", small_files=0, empty_files=0, large_sizes_bytes=sizes, seed=7)


@pytest.mark.expects_log("segment [0-9a-f]{40}")
# Mounted with noatime, a client does not by itself ask for attributes after a read, but believes those it has.
@pytest.mark.parametrize(
    ("nfs_version", "options"), [("4.2", ""), ("4.2", "noatime,actimeo=600"), ("3", "noatime,actimeo=600")]
)
def test_segment_changed_by_hand_while_it_is_read_is_noticed_and_fetched_again(
    a: NfsClient, b: NfsClient, c: NfsClient, server: NfsServer, new_node: NewNode, tmp_path: Path,
    version: SourceVersion, proxy: FaultProxy, nfs_version: str, options: str,
) -> None:  # fmt: skip
    server.set_delegations(False)
    for client in (a, b, c):
        client.mount("large", nfs_version, options)
    nodes = [new_node(client, settings=SETTINGS).start() for client in (a, b)]
    readers = Readers(version)
    readers.start(nodes[0])
    readers.finish()
    wait_sealed(nodes[0], version)
    steady = [SteadyReader(node, tmp_path / f"notes-{number}", version) for number, node in enumerate(nodes)]
    for reader in steady:
        reader.wait_rounds(1)
    proxy.reset()
    places: list[GuestMachine] = [server, c]
    for name, (machine, damage) in zip(version.large, itertools.product(places, DAMAGES), strict=True):
        identity = nodes[0].ask("why", path=f"{version.name}/{name}")["segment"]["identity"]
        machine.call(damage, nodes[0].backing / "segments" / identity[:2] / identity)
    for reader in steady:
        reader.wait_rounds(2)
    outcomes = [reader.finish() for reader in steady]
    assert [outcome.wrong for outcome in outcomes] == [[], []]
    assert max(outcome.longest_s for outcome in outcomes) < LONGEST_WAIT_S
    assert all(proxy.count("GET", f"*/{name}") for name in version.large)
    wait_sealed(nodes[0], version)
