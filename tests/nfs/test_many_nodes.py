"""Several dsfs nodes, each a real NFS client with a daemon and a mount of its own, over one backing directory.

The one number that matters: bytes that all nodes together have from the origin, divided by the bytes there are.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from urllib.parse import unquote

import pytest

from tests.nfs.conftest import ORDINARY, NewNode
from tests.nfs.test_one_node import digests_on, forget_pages_on, wait_sealed
from tests.rig.background import in_background
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB, digest_file
from tests.rig.nfs.client import VERSIONS, NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, make_version
from tests.rig.wait import wait_until

READ_TIMEOUT_S = 120
START_S = 60  # until a reader on a busy machine has come to its first fetch
# So that a busy machine is taken neither for a silent server nor for a node that stands still.
SETTINGS = {**PATIENT, "memory": {"limit": "64MiB"}, "backing": {"timeout": "50s"}}
# A reader waits for another node a third of `origin.timeout` at most, and then for the origin itself.
LONGEST_WAIT_S = 60 / 3 + 10

# What an NFS client believes, and for how long, is its own affair: so the nodes of a scene are mounted each in its way,
# or all in the one that believes the longest.
MIXED = ("", "actimeo=600", "actimeo=600,lookupcache=positive", "actimeo=0")
BELIEVING = ("actimeo=600",) * 4
MOUNTS = {f"{version}-mixed": (version, MIXED) for version in VERSIONS} | {"3-believing": ("3", BELIEVING)}


@pytest.fixture(scope="module")
def other_version(booted: NfsRig) -> SourceVersion:
    """Like the usual one, of other bytes."""
    return make_version(booted.origin.store.bucket("lake"), "photos/v2", **ORDINARY, seed=2)


@dataclass(frozen=True)
class Outcome:
    """The SHA-256 of each file, and how long the longest single read took."""

    digests: dict[str, str]
    longest_s: float


def read_parts(tree: Path, sizes: Mapping[str, int], seed: int | None) -> Outcome:
    """Read every file in parts of a mebibyte: in order, or all parts of all files shuffled."""
    parts = [(name, offset) for name, size in sizes.items() for offset in range(0, max(size, 1), MIB)]
    if seed is not None:
        Random(seed).shuffle(parts)
    got: dict[str, dict[int, bytes]] = {name: {} for name in sizes}
    longest_s = 0.0
    for name, offset in parts:
        began = time.monotonic()
        fd = os.open(tree / name, os.O_RDONLY)
        try:
            got[name][offset] = os.pread(fd, MIB, offset)
        finally:
            os.close(fd)
        longest_s = max(longest_s, time.monotonic() - began)
    digests = {name: sha256(b"".join(found[at] for at in sorted(found))).hexdigest() for name, found in got.items()}
    return Outcome(digests, longest_s)


class Readers:
    """Programs on the nodes that read the version, or these files of it, all at once."""

    def __init__(self, version: SourceVersion, names: Sequence[str] | None = None) -> None:
        self._version = version
        self._digests = {name: version.digests[name] for name in names or version.digests}
        self._sizes = {name: version.size_of(name) for name in self._digests}
        self._running: list[Future[Outcome]] = []

    def start(self, node: Node, seed: int | None = None) -> None:
        client, tree = node.machine, self._version.tree(node.mountpoint)
        assert isinstance(client, NfsClient)
        work = lambda: client.call_within(READ_TIMEOUT_S, read_parts, tree, self._sizes, seed)  # noqa: E731
        self._running.append(in_background(work))

    def finish(self) -> float:
        """All have read the right bytes; the longest read of all, in seconds."""
        outcomes = [running.result(READ_TIMEOUT_S) for running in self._running]
        assert all(outcome.digests == self._digests for outcome in outcomes)
        return max(outcome.longest_s for outcome in outcomes)


def assert_fetched_once(proxy: FaultProxy, version: SourceVersion, nodes: Sequence[Node]) -> None:
    figures = [line for node in nodes for line in node.ask("metrics")["text"].splitlines()]
    claims = [line for line in figures if line.startswith("dsfs_claims")]
    assert proxy.data_bytes <= 1.01 * version.size_bytes, claims
    gets = Counter((request.key, request.range) for request in proxy.requests if request.method == "GET")
    assert not {what: count for what, count in gets.items() if count > 1}
    queries = [unquote(request.query) for request in proxy.requests if request.method == "LIST"]
    lists = Counter(query for query in queries if f"/{version.name}/" in query)
    assert set(lists.values()) == {1}, lists


@pytest.mark.parametrize(("nfs_version", "ways"), MOUNTS.values(), ids=MOUNTS)
def test_nodes_that_read_one_version_at_once_fetch_it_once(
    rig: NfsRig, new_node: NewNode, version: SourceVersion, other_version: SourceVersion, proxy: FaultProxy,
    nfs_version: str, ways: tuple[str, ...],
) -> None:  # fmt: skip
    for client, options in zip(rig.clients, ways, strict=True):
        client.mount("large", nfs_version, options)
    nodes = [new_node(client, settings=SETTINGS).start() for client in rig.clients]
    for read, seeds in ((version, (None,) * len(nodes)), (other_version, range(len(nodes)))):  # in order, each its own
        proxy.reset()
        readers = Readers(read)
        for node, seed in zip(nodes, seeds, strict=True):
            readers.start(node, seed)
        readers.finish()
        assert_fetched_once(proxy, read, nodes)


@pytest.mark.parametrize(("nfs_version", "options"), [("4.2", ""), ("3", ""), ("4.2", "actimeo=600")])
def test_node_that_comes_later_needs_no_origin(
    a: NfsClient, b: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy,
    nfs_version: str, options: str,
) -> None:  # fmt: skip
    for client in (a, b):
        client.mount("large", nfs_version, options)
    first = new_node(a, settings=SETTINGS).start()
    assert digests_on(a, version.tree(first.mountpoint)) == version.digests
    wait_sealed(first, version)
    b.cut("origin")
    proxy.reset()
    second = new_node(b, settings=SETTINGS).start()
    readers = Readers(version)
    readers.start(second)
    readers.finish()
    assert proxy.requests == []


# What is said of the segment: the one that is cut off may yet write to what the others have sealed without it, which is
# checked then, and perhaps fetched once more.
LATE_WRITE = pytest.mark.expects_log("segment [0-9a-f]{40} was changed after it was sealed")


@pytest.mark.parametrize("how", ["killed", "frozen", pytest.param("cut off", marks=LATE_WRITE)])
@pytest.mark.parametrize("nfs_version", ["4.2", "3"])
def test_node_that_stops_in_the_middle_of_a_fetch_holds_the_others_up_for_a_moment_only(
    a: NfsClient, b: NfsClient, c: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy,
    how: str, nfs_version: str,
) -> None:  # fmt: skip
    for client in (a, b, c):
        client.mount("large", nfs_version)
    ill, *others = [new_node(client, settings=SETTINGS).start() for client in (a, b, c)]
    (large,) = version.large
    proxy.add(Fault("stall", key=f"*/{large}", times=1))
    in_background(lambda: digests_on(a, version.tree(ill.mountpoint)))
    wait_until(lambda: proxy.stalled == 1, START_S, "a fetch that stands still")
    assert ill.process is not None
    if how == "killed":
        ill.process.kill()
    elif how == "frozen":
        ill.process.send_signal(signal.SIGSTOP)
    else:
        a.cut("storage")
        a.cut("origin")
    readers = Readers(version)
    for number, node in enumerate(others):
        readers.start(node, number)
    try:
        assert readers.finish() < LONGEST_WAIT_S
    finally:
        proxy.release()
        for network in ("storage", "origin"):  # a process that has claims does not die while they cannot be given up
            a.mend(network)


def starts_of_gets(proxy: FaultProxy) -> Counter[tuple[str, str]]:
    """How often each object was asked for from each byte on."""
    gets = [request for request in proxy.requests if request.method == "GET"]
    return Counter((request.key, str(request.range).partition("-")[0]) for request in gets)


def is_sealed_after_reading(node: Node, version: SourceVersion) -> bool:
    """Once more, past what the node has in memory: where nodes write late, some of it may have to be filled again."""
    assert isinstance(node.machine, NfsClient)
    forget_pages_on(node.machine, node)
    readers = Readers(version)
    readers.start(node)
    readers.finish()
    try:
        wait_sealed(node, version)
    except AssertionError:
        return False
    return True


# `nolock`: each client grants locks by itself, so that all claims of all nodes are granted.  Without it the one's claim
# is ignored by the other, whose patience with it is over.  What is said of the segment: the one may still write to what
# the other has sealed, which is checked then, and perhaps fetched once more.
@pytest.mark.expects_log("segment [0-9a-f]{40}")
@pytest.mark.parametrize(("nfs_version", "options"), [("3", "nolock"), ("4.2", "")])
def test_nodes_that_fill_the_same_blocks_at_once_seal_right_bytes(
    a: NfsClient, b: NfsClient, c: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy,
    nfs_version: str, options: str,
) -> None:  # fmt: skip
    for client in (a, b, c):
        client.mount("large", nfs_version, options)
    nodes = [new_node(client, settings=SETTINGS).start() for client in (a, b)]
    (large,) = version.large
    proxy.add(Fault("stall", key=f"*/{large}"))
    readers = Readers(version)
    for node in nodes:
        readers.start(node)
    # Both have the same bytes under way, and get them at the same moment.
    wait_until(lambda: 2 in starts_of_gets(proxy).values(), LONGEST_WAIT_S, "both nodes asking for the same bytes")
    proxy.clear()
    proxy.release()
    readers.finish()
    if options == "nolock":  # a late write may have cost a block
        wait_until(partial(is_sealed_after_reading, nodes[0], version), LONGEST_WAIT_S, "all being sealed")
    wait_sealed(nodes[0], version)
    identity = nodes[0].ask("why", path=f"{version.name}/{large}")["segment"]["identity"]
    sealed = nodes[0].backing / "segments" / identity[:2] / identity
    # As the server has it: the client may go on believing that there is no such name, as it has seen in the middle.
    assert a.server.call(digest_file, sealed) == version.digests[large]
    c.cut("origin")
    later = Readers(version)
    later.start(new_node(c, settings=SETTINGS).start())
    later.finish()
