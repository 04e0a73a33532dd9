"""One guest for this folder: an NFS server, four clients, an origin; daemons on the clients share a directory.

What a test breaks is mended behind it, and the exports are emptied.  The log of each daemon is read at the end of its
test: what is at WARNING or above, and not declared by `expects_log(regex)`, fails the test.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig.daemonlog import judge
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer, export_path
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, make_version

NewNode = Callable[..., Node]

oldest_and_newest = pytest.mark.parametrize("nfs_version", ["3", "4.2"])

ORDINARY: dict[str, Any] = {"small_files": 20, "large_sizes_bytes": (9 * MIB + 12_345,)}  # see make_lake

_serial = itertools.count(1)


@pytest.fixture(scope="session")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NfsRig]:
    with NfsRig(tmp_path_factory.getbasetemp(), ("a", "b", "c", "d")) as running:
        yield running


@pytest.fixture
def rig(booted: NfsRig) -> Iterator[NfsRig]:
    yield booted
    booted.reset()


@pytest.fixture
def server(rig: NfsRig) -> NfsServer:
    return rig.server


@pytest.fixture
def a(rig: NfsRig) -> NfsClient:
    return rig.clients[0]


@pytest.fixture
def b(rig: NfsRig) -> NfsClient:
    return rig.clients[1]


@pytest.fixture
def c(rig: NfsRig) -> NfsClient:
    return rig.clients[2]


@pytest.fixture
def proxy(rig: NfsRig) -> FaultProxy:
    return rig.origin.proxy


@pytest.fixture(scope="session")
def version(booted: NfsRig) -> SourceVersion:
    """A pack, an object of a few runs, and an empty one: about 10 MB."""
    return make_version(booted.origin.store.bucket("lake"), "photos/v1", **ORDINARY)


@pytest.fixture
def new_node(request: pytest.FixtureRequest, tmp_path: Path, rig: NfsRig) -> Iterator[NewNode]:
    """Makes dsfs nodes, not started yet, on a client; all that a test makes share a directory on the large export.

    Ends them, whatever they are in, and reads their logs afterwards.
    """
    nodes: list[Node] = []
    directory = f"backing-{next(_serial)}"

    def make(client: NfsClient, *, export: str = "large", **options: object) -> Node:
        node = Node(
            tmp_path / f"{client.name}-{len(nodes)}",
            rig.origin.endpoint_url,
            rig.origin.store.env(),
            machine=client,
            backing=export_path(export) / directory,
            **{"settings": PATIENT, **options},  # type: ignore[arg-type]
        )
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.kill()
    judge(nodes, request)
