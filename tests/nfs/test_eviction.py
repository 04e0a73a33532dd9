"""Eviction on real NFS clients: readers of more than there is room for, a server's clock that is set, evictors that die.

What lies in the directory is looked at on the server.
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random

import pytest

from dsfs.model.account import Account
from dsfs.model.trashname import stamp_in
from dsfs.storage.account import ACCOUNT
from dsfs.storage.accountfile import account_in
from tests.nfs.conftest import NewNode
from tests.nfs.test_many_nodes import SETTINGS
from tests.rig.background import in_background
from tests.rig.filler import most_seen
from tests.rig.lake import MIB, digest_file, make_lake
from tests.rig.nfs.client import VERSIONS, NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, forget_pages

LIMIT = 16 * MIB
LOOK_S = 1.0
WAIT_S = 60.0
HOUR_S = 3600
LONG_AGO_S = 30 * 86_400


@pytest.fixture(scope="module")
def versions(booted: NfsRig) -> list[SourceVersion]:
    """Three, which together are twice the limit."""
    found = []
    for number in range(3):
        source = booted.origin.store.bucket("lake") / "datasets" / "epochs" / f"v{number}"
        sizes = [MIB + 4_321 * n for n in range(10)]
        lake = make_lake(source, small_files=10, large_sizes_bytes=sizes, seed=20 + number)
        found.append(SourceVersion(f"epochs/v{number}", source, lake))
    return found


def settings(limit_bytes: int = LIMIT) -> Mapping[str, Mapping[str, object]]:
    backing = {**SETTINGS["backing"], "limit": f"{limit_bytes // MIB}MiB"}
    return {**SETTINGS, "backing": backing, "retention": {"grace": "0s", "keep_newest": 0}}


# ---------------------------------------------------------------- readers


def read_again(trees: Mapping[str, Mapping[str, str]], seed: int, stop: Path) -> int:
    """Read all files of these trees, shuffled, again and again until the file `stop` is there; how often."""
    names = [(os.path.join(tree, name), digest) for tree, digests in trees.items() for name, digest in digests.items()]
    random, epochs = Random(seed), 0
    while True:
        random.shuffle(names)
        for name, digest in names:
            if stop.exists():
                return epochs
            forget_pages(Path(name))
            assert digest_file(Path(name)) == digest, name
        epochs += 1


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
        """How often each has read everything; all was right."""
        self._stop.touch()
        return [running.result(WAIT_S) for running in self._running]


# ---------------------------------------------------------------- what lies there


def evict(node: Node, need_bytes: int = 0) -> list[dict[str, object]]:
    """As `dsfs evict` does; what has left."""
    return list(node.ask("evict", need_bytes=need_bytes)["leaves"])


def hidden_in(backing: Path) -> list[str]:
    return [path.name for path in backing.glob("segments/*/*") if stamp_in(path.name) is not None]


def account_of(backing: Path) -> Account:
    return account_in((backing / ACCOUNT).read_bytes())


def used_in(export: Path) -> int:
    """What `df` says is used of the file system."""
    os.sync()
    found = os.statvfs(export)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def test_readers_of_twice_the_limit_have_right_bytes_and_never_more_lies_there(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion], tmp_path: Path
) -> None:
    nodes = []
    for client, nfs_version in zip(rig.clients, VERSIONS, strict=False):
        client.mount("large", nfs_version)
        nodes.append(new_node(client, settings=settings()))
    backing = nodes[0].backing
    used_before = server.call(used_in, backing.parent)
    for node in nodes:
        node.start()
    readers = SteadyReaders(nodes, versions, tmp_path)
    most, left = 0, 0
    import time
    t0 = time.monotonic()
    while True:
        most = max(most, server.call_within(WAIT_S, most_seen, backing, LOOK_S))
        readers.check()
        l = evict(nodes[1])
        left += len(l)
        acc = server.call(account_of, backing)
        print(f"{time.monotonic()-t0:.1f}", most, [(x["version"], x["rule"], x["bytes"]) for x in l], len(server.call(hidden_in, backing)), acc.counted, acc.used.size_bytes, acc.unspent.size_bytes)
        if left > 3 and acc.counted > 1:
            break
        assert time.monotonic() - t0 < 60
    epochs = readers.finish()
    print(epochs)
    assert 0.8 * LIMIT < most <= LIMIT
    for node in nodes:
        assert node.stop() == 0
    used = nodes[0].start().ask("status")["backing"]["used_bytes"]
    print(used, server.call(used_in, backing.parent) - used_before, server.call(most_seen, backing, 0.1))
    assert abs(server.call(used_in, backing.parent) - used_before - used) <= LIMIT / 100
