"""A node that does nothing but fill segments until there is no room, as a process or a function: for tests of room.

    python -m tests.rig.filler FOLDER NODE LIMIT [stop | hurried]

"stop": with a grant, after the first segment, until killed; "hurried": who stands still is left behind after a second.
"""

import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from crc32c import crc32c

from dsfs.model.blocks import BLOCK, UniformBlocks
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage import account
from dsfs.storage.account import SharedAccount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.room import Room
from dsfs.storage.segment import SegmentFile

SEGMENT = UniformBlocks(6 * BLOCK + 5_000)
WRITES = ((0, 3), (3, 6), (6, 7))  # blocks
AGAIN_S = 1.2  # a refusal is believed for a second
HURRIED_S = 1.0


class FillingNode:
    """Fills a backing directory as the daemon of a node does, without a reader."""

    def __init__(
        self, folder: Path, node: str, limit_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.backing = BackingDirectory(folder)
        self.account = SharedAccount(folder, file_system_of(folder), lambda: node, clock)
        self.room = Room(self.backing, self.account, limit_bytes, lambda total: 0, clock)
        self.room.keep()
        self.filled = 0
        self._node = node
        self._buffer = memoryview(mmap.mmap(-1, 4 * BLOCK))
        self._buffer[:] = bytes(range(256)) * (len(self._buffer) // 256)

    def fill_segment(self) -> None:
        """One more; NoRoomError if there is no room for all of it: then what was filled of it stays."""
        self.filled += 1
        identity = blake2b(f"{self._node}/{self.filled}".encode(), digest_size=20).hexdigest()
        file = self.backing.segment(identity, SEGMENT)
        file.open()
        try:
            for first, end in WRITES:
                self._write(file, first, end)
            file.seal()
            self.room.settle(NOTHING, file.take_made())
        finally:
            file.close()

    def _write(self, file: SegmentFile, first: int, end: int) -> None:
        lengths = [SEGMENT.length(block) for block in range(first, end)]
        checksums = [crc32c(self._buffer[at * BLOCK : at * BLOCK + length]) for at, length in enumerate(lengths)]
        wanted, written = Amount(-(-sum(lengths) // 4096) * 4096), NOTHING
        self.room.reserve(wanted)
        try:
            with self.room.beginning(file):
                file.write(first, checksums, self._buffer)
            written = wanted
        finally:
            self.room.settle(wanted, written)

    def fill_up(self) -> None:
        """Until there is no room, and has been none for a while; then give back what is left of the grant."""
        refused = 0
        while refused < 2:
            try:
                self.fill_segment()
                refused = 0
            except NoRoomError:
                refused += 1
                self.room.leave()
                time.sleep(AGAIN_S)


def fill_up(folder: Path, node: str, limit_bytes: int) -> int:
    """As a node of that id; how many segments it has begun."""
    filling = FillingNode(folder, node, limit_bytes)
    filling.fill_up()
    return filling.filled


def allocated_below(folder: Path) -> int:
    """Bytes that everything in the folder takes now; a file with two names, which it has during its seal, once."""
    found: dict[int, int] = {}
    for root, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(root, name))
                found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def most_seen(folder: Path, seconds: float) -> int:
    """The most that was there at all looks in the next seconds."""
    end_s, most = time.monotonic() + seconds, 0
    while time.monotonic() < end_s:
        most = max(most, allocated_below(folder))
    return most


if __name__ == "__main__":
    place, node_id, limit, *words = sys.argv[1:]
    if "hurried" in words:
        account.STUCK_S = HURRIED_S
    if "stop" in words:
        started = FillingNode(Path(place), node_id, int(limit))
        started.fill_segment()
        print("filled", flush=True)
        signal.pause()
    print(fill_up(Path(place), node_id, int(limit)), flush=True)
