"""A program that reads the same files over and over, past all page caches, and compares every part with its source."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.rig.background import in_background
from tests.rig.lake import MIB
from tests.rig.nfs.client import NfsClient
from tests.rig.node import Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until

PAGE_CACHE = Path("/proc/sys/vm/drop_caches")
TIMEOUT_S = 120


@dataclass
class Seen:
    """What was wrong (bytes or errors), and how long the longest single read took."""

    wrong: list[str] = field(default_factory=list)
    longest_s: float = 0.0


class SteadyReader:
    """Runs on the node, which is of the guest (the page cache of a whole kernel is dropped), until `finish`.

    `notes`: a directory here and there, for this reader alone.
    """

    def __init__(self, node: Node, notes: Path, version: SourceVersion) -> None:
        notes.mkdir()
        self._notes = notes
        client, tree, names = node.machine, version.tree(node.mountpoint), list(version.digests)
        assert isinstance(client, NfsClient)
        work = lambda: client.call_within(TIMEOUT_S, read_steadily, notes, tree, version.source, names)  # noqa: E731
        self._running: Future[Seen] = in_background(work)

    @property
    def rounds(self) -> int:
        """How often it has read all files."""
        return sum(1 for _ in self._notes.glob("round-*"))

    def wait_rounds(self, count: int) -> None:
        """Until it has read all files that often from now on, from beginning to end."""
        wanted = self.rounds + 1 + count
        wait_until(lambda: self.rounds >= wanted or self._running.done(), TIMEOUT_S, "a reader that has read all again")

    def finish(self) -> Seen:
        (self._notes / "stop").touch()
        return self._running.result(TIMEOUT_S)


def read_steadily(notes: Path, tree: Path, source: Path, names: Sequence[str]) -> Seen:
    seen, random, number = Seen(), Random(1), 0
    parts = [(name, offset) for name in names for offset in range(0, (source / name).stat().st_size, MIB)]
    while not (notes / "stop").exists():
        PAGE_CACHE.write_text("1")  # and not by fadvise of an open file: to open one makes an NFS client ask the server
        random.shuffle(parts)
        for name, offset in parts:
            began_s = time.monotonic()
            try:
                got = read_part(tree / name, offset)
            except OSError as error:
                seen.wrong.append(f"{name} at {offset}: {error.strerror}")
            else:
                if (difference := difference_of(got, read_part(source / name, offset))) is not None:
                    seen.wrong.append(f"{name} at {offset}: {difference} in round {number}")
            seen.longest_s = max(seen.longest_s, time.monotonic() - began_s)
        (notes / f"round-{number}").touch()
        number += 1
    return seen


def difference_of(got: bytes, wanted: bytes) -> str | None:
    """Where the bytes begin to differ, and how."""
    if got == wanted:
        return None
    places = [at for at, (one, other) in enumerate(zip(got, wanted, strict=False)) if one != other]
    first = places[0] if places else min(len(got), len(wanted))
    bad = got[first : first + 8].hex()
    return f"{len(places)} of {len(got)} bytes wrong, {len(wanted)} wanted, from {first} on: {bad}"


def read_part(path: Path, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, MIB, offset)
    finally:
        os.close(fd)
