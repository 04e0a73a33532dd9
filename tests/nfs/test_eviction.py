"""Eviction on real NFS clients: readers of more than there is room for, evictors that die, a clock that is set.

What lies in the directory is looked at on the server.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random

import pytest

from dsfs.model.account import Account
from dsfs.model.trashname import stamp_in
from dsfs.model.versionname import name_of
from dsfs.storage.account import ACCOUNT
from dsfs.storage.accountfile import account_in
from tests.nfs.conftest import NewNode
from tests.nfs.test_many_nodes import SETTINGS
from tests.nfs.test_nodes import open_files_seen_by
from tests.nfs.test_one_node import digests_on, wait_for_files
from tests.rig.background import in_background
from tests.rig.filler import most_seen
from tests.rig.lake import MIB, digest_file, make_lake
from tests.rig.nfs.client import VERSIONS, NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, forget_pages
from tests.rig.segmentdir import whole_segments
from tests.rig.wait import wait_until

LIMIT = 36 * MIB
LOOK_S = 1.0
WAIT_S = 60.0
HOUR_S = 3600
LONG_AGO_S = 30 * 86_400


def make_versions(rig: NfsRig, dataset: str, sizes: Sequence[int]) -> list[SourceVersion]:
    """Three of about these sizes."""
    found = []
    for number in range(3):
        source = rig.origin.store.bucket("lake") / "datasets" / dataset / f"v{number}"
        lake = make_lake(source, small_files=10, large_sizes_bytes=sizes, seed=20 + number)
        found.append(SourceVersion(f"{dataset}/v{number}", source, lake))
    return found


@pytest.fixture(scope="module")
def epochs(booted: NfsRig) -> list[SourceVersion]:
    """Together they are twice the limit, and more than the nodes have memory."""
    return make_versions(booted, "epochs", [4 * MIB + 4_321 * number for number in range(1, 7)])


@pytest.fixture(scope="module")
def versions(booted: NfsRig) -> list[SourceVersion]:
    return make_versions(booted, "kept", [5 * MIB + 4_321])


def settings(limit_bytes: int = LIMIT) -> Mapping[str, Mapping[str, object]]:
    backing = {**SETTINGS["backing"], "limit": f"{limit_bytes // MIB}MiB"}
    return {**SETTINGS, "backing": backing, "retention": {"grace": "0s", "keep_newest": 0}}


# ---------------------------------------------------------------- readers


def read_again(trees: Mapping[str, Mapping[str, str]], seed: int, stop: Path) -> int:
    """Read all files of these trees, shuffled, again and again until the file `stop` is there; how many."""
    names = [(os.path.join(tree, name), digest) for tree, digests in trees.items() for name, digest in digests.items()]
    random, count = Random(seed), 0
    while True:
        random.shuffle(names)
        for name, digest in names:
            if stop.exists():
                return count
            forget_pages(Path(name))
            assert digest_file(Path(name)) == digest, name
            count += 1


class SteadyReaders:
    """Programs on the nodes that read these versions until `finish`."""

    def __init__(self, nodes: Sequence[Node], versions: Sequence[SourceVersion], place: Path) -> None:
        self._stop = place / "stop"
        self._running = [self._start(node, versions, number) for number, node in enumerate(nodes)]

    def _start(self, node: Node, versions: Sequence[SourceVersion], seed: int) -> "Future[int]":
        client = node.machine
        assert isinstance(client, NfsClient)
        trees = {str(version.tree(node.mountpoint)): dict(version.digests) for version in versions}
        return in_background(lambda: client.call_within(2 * WAIT_S, read_again, trees, seed, self._stop))

    def check(self) -> None:
        """None has ended, which one does that reads anything wrong."""
        for running in self._running:
            assert not running.done() or running.result() is None

    def finish(self) -> list[int]:
        """How many files each has read; all were right."""
        self._stop.touch()
        return [running.result(WAIT_S) for running in self._running]


# ---------------------------------------------------------------- what lies there


def evict(node: Node, need_bytes: int = 0) -> list[dict[str, object]]:
    """As `dsfs evict` does; what has left."""
    return list(node.ask("evict", need_bytes=need_bytes)["leaves"])


def hidden_in(backing: Path) -> list[str]:
    return [path.name for path in backing.glob("segments/*/*") if stamp_in(path.name) is not None]


def account_of(backing: Path) -> Account:
    account = account_in((backing / ACCOUNT).read_bytes())
    assert account is not None
    return account


def used_in(export: Path) -> int:
    """What `df` says is used of the file system."""
    os.sync()
    found = os.statvfs(export)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_readers_of_twice_the_limit_have_right_bytes_and_never_more_lies_there(
    rig: NfsRig, server: NfsServer, new_node: NewNode, epochs: list[SourceVersion], tmp_path: Path
) -> None:
    nodes = []
    for client, nfs_version in zip(rig.clients, VERSIONS, strict=False):
        client.mount("large", nfs_version)
        nodes.append(new_node(client, settings=settings()))
    backing = nodes[0].backing
    used_before = server.call(used_in, backing.parent)
    for node in nodes:
        node.start()
    readers = SteadyReaders(nodes, epochs, tmp_path)
    most, end_s = 0, time.monotonic() + WAIT_S
    while not (nodes[1].metric("dsfs_evict_deleted_bytes_total") and server.call(account_of, backing).counted > 1):
        assert time.monotonic() < end_s, "nothing was deleted, or counted"
        most = max(most, server.call_within(WAIT_S, most_seen, backing, LOOK_S))
        readers.check()
        evict(nodes[1])
    assert min(readers.finish()) > 10
    assert 0.8 * LIMIT < most <= LIMIT
    for node in (nodes[0], nodes[2]):
        assert node.stop() == 0

    def is_counted() -> bool:
        evict(nodes[1])
        used = nodes[1].ask("status")["backing"]["used_bytes"]
        there = server.call(used_in, backing.parent) - used_before
        return bool(abs(there - used) <= LIMIT / 100)

    wait_until(is_counted, WAIT_S, "used_bytes being what the file system says")


# ---------------------------------------------------------------- who evicts


def make_old(backing: Path, *versions: str) -> None:
    """At the server: nobody has used these versions for a month."""
    for version in versions:
        dataset, _, name = version.partition("/")
        catalogs = backing.glob(f"versions/{version}/*/catalog.mdb")
        for path in (backing / "uses" / name_of(dataset, name), *catalogs):
            at_ns = path.stat().st_mtime_ns - LONG_AGO_S * 10**9
            os.utime(path, ns=(at_ns, at_ns))


def fill(node: Node, *versions: SourceVersion) -> None:
    """Have these versions there, and in use by nobody."""
    client = node.start().machine
    assert isinstance(client, NfsClient)
    wanted: list[str] = []
    for version in versions:
        assert digests_on(client, version.tree(node.mountpoint)) == version.digests
        (catalog,) = node.state_dir.glob(f"catalogs/{version.name}/*/catalog.mdb")
        wanted += whole_segments(catalog)
    client.call(wait_for_files, node.backing / "segments", sorted(wanted))
    assert node.stop() == 0


def versions_there(backing: Path) -> set[str]:
    """The versions of which a sealed segment is there."""
    there = {path.name for path in backing.glob("segments/*/*") if not path.suffix}
    found = set()
    for file in backing.glob("versions/*/*/*/segments"):
        content = file.read_bytes()
        if any(content[at : at + 20].hex() in there for at in range(0, len(content), 20)):
            found.add("/".join(file.parts[-4:-2]))
    return found


def start_hurried(node: Node) -> None:
    """With rounds every second, see tests/rig/hurried.py."""
    node.module = "tests.rig.hurried"
    node.start()


def wait_evicted(server: NfsServer, backing: Path, version: SourceVersion) -> None:
    wait_until(lambda: version.name not in server.call(versions_there, backing), WAIT_S, f"{version.name} leaving")


@pytest.mark.parametrize(("how", "nfs_version"), [("killed", "3"), ("frozen", "4.2")])
def test_another_node_evicts_when_the_one_whose_turn_it_was_is_gone(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion], how: str, nfs_version: str
) -> None:
    a, b, c, d = rig.clients
    for client in rig.clients:
        client.mount("large", nfs_version)
    roomy = settings(1024 * MIB)
    first, second, third = versions
    fill(new_node(d, settings=roomy), *versions)
    ill, other, asked = (new_node(client, settings=roomy) for client in (a, b, c))
    backing = ill.backing
    server.call(make_old, backing, first.name)
    start_hurried(ill)
    wait_evicted(server, backing, first)
    assert ill.process is not None
    ill.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    server.call(make_old, backing, second.name)
    start_hurried(other)
    wait_evicted(server, backing, second)
    server.call(make_old, backing, third.name)  # which the other one does not look at for minutes
    evict(asked.start())  # without the turn
    assert server.call(versions_there, backing) == set()


# ---------------------------------------------------------------- the server's clock


def test_clock_of_the_server_that_is_set_lets_nothing_go_that_is_open_and_rounds_go_on(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion]
) -> None:
    a, b, c = rig.clients[:3]
    for client, nfs_version in ((a, "3"), (b, "4.2"), (c, "4.2")):
        client.mount("large", nfs_version)
    roomy = settings(1024 * MIB)
    open_one, *others = versions
    fill(new_node(c, settings=roomy), *versions)
    reader, evicting = (new_node(client, settings=roomy) for client in (a, b))
    backing = reader.backing
    server.call(make_old, backing, *(version.name for version in others))
    reader.start()
    path = open_one.tree(reader.mountpoint) / open_one.large[0]
    a.start("tail", "-f", str(path), log=reader.work / "tail.log")
    evicting.start()
    wait_until(lambda: open_files_seen_by(evicting), what="an open file")
    server.call(make_old, backing, open_one.name)
    server.set_clock(HOUR_S)
    wait_until(lambda: evict(evicting), WAIT_S, "a round in which something leaves")
    assert server.call(versions_there, backing) == {open_one.name}
    assert server.call(hidden_in, backing)
    server.set_clock(0)
    is_gone = lambda: not evict(evicting) and not server.call(hidden_in, backing)  # noqa: E731
    wait_until(is_gone, WAIT_S, "what has left being deleted")
    assert server.call(versions_there, backing) == {open_one.name}
    assert a.call(digest_file, path) == open_one.digests[open_one.large[0]]
