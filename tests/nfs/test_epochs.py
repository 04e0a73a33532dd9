"""Readers of twice as much as there is room for, over and over, on real NFS clients; looked at on the server."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from random import Random

import pytest

from tests.nfs.conftest import NewNode
from tests.nfs.test_many_nodes import SETTINGS
from tests.rig import hurried
from tests.rig.background import in_background
from tests.rig.lake import MIB, digest_file
from tests.rig.nfs.client import VERSIONS, NfsClient
from tests.rig.nfs.lookout import Lookout
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, forget_pages, make_version
from tests.rig.wait import wait_until

LIMIT = 15 * MIB
# What was hidden is deleted when its files are closed, as with the defaults: open ones give no room back.
GRACE_S = 2 * hurried.OPEN_S + 1
BACKING = {**SETTINGS["backing"], "limit": f"{LIMIT // MIB}MiB"}
NODE = {**SETTINGS, "backing": BACKING, "retention": {"grace": f"{GRACE_S:g}s", "keep_newest": 0}}
STEPS = int(os.environ.get("RIG_EPOCHS", "2"))  # in each of which others are read; more for a long run
STEP_S = 60.0
END_S = 60.0
WHOLE_S = (STEPS + 1) * STEP_S


@pytest.fixture(scope="module")
def versions(booted: NfsRig) -> list[SourceVersion]:
    """Three, together twice the limit."""
    bucket, sizes = booted.origin.store.bucket("lake"), [2 * MIB + 4_321 * place for place in range(5)]
    found = [
        make_version(bucket, f"epochs/v{number}", small_files=10, large_sizes_bytes=sizes, seed=30 + number)
        for number in range(3)
    ]
    assert sum(version.size_bytes for version in found) >= 2 * LIMIT
    return found


# ---------------------------------------------------------------- readers


def read_again(trees: Sequence[Path], digests: Sequence[dict[str, str]], notes: Path, seed: int) -> int:
    """Read all files of the trees that `notes`/now names, shuffled, over and over until it names none; how many.

    After each time there is a file `notes`/STEP.SEED.
    """
    random, count = Random(seed), 0
    while True:
        step, *numbers = map(int, (notes / "now").read_text().split())
        if not numbers:
            return count
        names = [(number, name) for number in numbers for name in digests[number]]
        random.shuffle(names)
        for number, name in names:
            path = trees[number] / name
            forget_pages(path)
            assert digest_file(path) == digests[number][name], path
        count += len(names)
        (notes / f"{step}.{seed}").touch()


class EpochReaders:
    """Programs on the nodes that read the same versions over and over."""

    def __init__(self, nodes: Sequence[Node], versions: Sequence[SourceVersion], notes: Path) -> None:
        notes.mkdir()
        self._notes = notes
        self._step = 0
        self.turn_to(2)
        self._running = [self._start(node, versions, seed) for seed, node in enumerate(nodes)]

    def _start(self, node: Node, versions: Sequence[SourceVersion], seed: int) -> "Future[int]":
        client, digests = node.machine, [dict(version.digests) for version in versions]
        assert isinstance(client, NfsClient)
        trees = [version.tree(node.mountpoint) for version in versions]
        return in_background(lambda: client.call_within(WHOLE_S, read_again, trees, digests, self._notes, seed))

    def turn_to(self, *numbers: int) -> None:
        """Read these from the next time on; none: end."""
        self._step += 1
        new = self._notes / "new"
        new.write_text(" ".join(map(str, (self._step, *numbers))))
        new.rename(self._notes / "now")

    def have_read_all(self) -> bool:
        """Whether each has read all since the last turn.  None has ended, as one does that reads anything wrong."""
        for running in self._running:
            assert not running.done() or running.result() is None
        return all((self._notes / f"{self._step}.{seed}").exists() for seed in range(len(self._running)))

    def finish(self) -> list[int]:
        """How many files each has read; all were right."""
        self.turn_to()
        return [running.result(STEP_S) for running in self._running]


def worked(nodes: Sequence[Node]) -> tuple[float, float]:
    """Bytes that the nodes have filled so far, and deleted."""
    lines = [line.split() for node in nodes for line in node.ask("metrics")["text"].splitlines()]
    metrics = ("dsfs_fill_bytes_total", "dsfs_evict_deleted_bytes_total")
    filled, deleted = (sum(float(line[-1]) for line in lines if line[0] == metric) for metric in metrics)
    return filled, deleted


def turn(readers: EpochReaders, nodes: Sequence[Node], *numbers: int) -> None:
    """Have these read until each reader has read all, and something has been filled and deleted for it."""
    before = worked(nodes)
    readers.turn_to(*numbers)
    wait_until(readers.have_read_all, STEP_S, "all being read")
    has_worked = lambda: all(now > then for now, then in zip(worked(nodes), before, strict=True))  # noqa: E731
    wait_until(has_worked, STEP_S, "something being filled, and deleted")


@pytest.mark.time_limit(WHOLE_S + 60)
def test_readers_of_twice_the_limit_have_right_bytes_and_never_more_lies_there(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion], tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    nodes = []
    for client, nfs_version in zip(rig.clients, VERSIONS, strict=False):
        client.mount("large", nfs_version)
        nodes.append(new_node(client, settings=NODE))
        nodes[-1].module = hurried.__name__
    with Lookout(server, nodes[0].backing, tmp_path / "stop") as lookout:
        for node in nodes:
            node.start()
        readers = EpochReaders(nodes, versions, tmp_path / "notes")
        wait_until(readers.have_read_all, STEP_S, "all being read")
        for step in range(STEPS):  # there is always one that nobody uses, and two that want more than there is
            turn(readers, nodes, step % 3, (step + 1) % 3)
        counts = readers.finish()
        assert all(counts)

        def agree() -> bool:
            there = lookout.now()
            used = [node.ask("status")["backing"]["used_bytes"] for node in nodes]
            return all(abs(each - other) <= LIMIT / 100 for each in there for other in used)

        wait_until(agree, END_S, "used_bytes being what du and df say")
        seen = lookout.finish()
        for name, value in (("files read", counts), ("filled, deleted", worked(nodes)), ("seen", seen)):
            record_property(name, value)
    assert 0.5 * LIMIT < seen.named_bytes <= LIMIT
