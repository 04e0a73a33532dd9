"""The `.part` and `.map` of one segment being filled, and the files of records beside it.

Concurrency: the segment's lock guards everything here but reads and writes of `data`.
"""

import errno
import logging
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dsfs.model.blocks import BlockTable
from dsfs.model.errors import BlockLostError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage import blockmap
from dsfs.storage.blockmap import BlockMap, DamagedMapError, MapHeader
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import (
    GONE,
    DirectFile,
    FileSystem,
    is_there,
    link_open,
    open_existing,
    place_file,
    refresh_names,
    remove,
    replace_file,
)
from dsfs.storage.openfiles import OpenFiles
from dsfs.storage.rangelock import CANNOT_LOCK, SEAL, locked_by_others, try_lock, unlock
from dsfs.storage.sealed import Stamp, stamp_of
from dsfs.storage.segmentnames import beside, overhead, remove_old_names
from dsfs.storage.taken import room_now

log = logging.getLogger(__name__)


class UnsealError(Exception):
    """A sealed file that somebody changed cannot be made one that is being filled (a read-only or full medium)."""


@contextmanager
def unless_removed(identity: str) -> Iterator[None]:
    """With NFSv3 an open file is stale when it has no name any more, and so is a map whose segment was sealed."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        raise BlockLostError(f"segment {identity} was sealed or removed while it was being filled") from exc


def write_sum(path: Path, blocks: BlockTable, block_map: BlockMap, stamp: Stamp) -> None:
    """Write the checksums of the file that is about to be sealed, and what fstat says of it."""
    _, inode, mtime_ns = stamp
    records = block_map.encode(0, len(block_map))
    header = MapHeader(path.name, len(blocks), blocks.size, inode, mtime_ns)
    replace_file(beside(path, ".sum"), blockmap.encode_header(header, records) + records)


def place_map(path: Path, header: MapHeader, block_map: BlockMap) -> bool:
    """Write a whole map, and whether there was none: another node may have been first, and may hold claims on it."""
    return place_file(beside(path, ".map"), _encode_map(header, block_map))


def _encode_map(header: MapHeader, block_map: BlockMap) -> bytes:
    return blockmap.encode_header(header) + block_map.encode(0, len(block_map))


@dataclass(slots=True)
class Made:
    """What this node has made of a segment beside its blocks, less what it removed, since somebody asked.

    Noted at once, and not when all has gone well: what is there takes room whatever becomes of the rest.
    """

    _amount: Amount = NOTHING

    def note(self, amount: Amount) -> None:
        self._amount += amount

    def take(self) -> Amount:
        """What was noted, and is not to be told again."""
        amount, self._amount = self._amount, NOTHING
        return amount


@dataclass(frozen=True, slots=True)
class Place:
    """Where a segment lies (the path of its sealed file), its blocks, its lock, and what was made there."""

    path: Path
    blocks: BlockTable
    fs: FileSystem
    lock: threading.RLock
    made: Made = field(default_factory=Made)


class NoRecordsError(DamagedMapError):
    """There is no such file."""


def read_records(place: Place, suffix: str) -> tuple[MapHeader, BlockMap]:
    """What the `.map` or `.sum` says; DamagedMapError if that is nothing or nonsense."""
    path, blocks = place.path, place.blocks
    reach("segment.open_records")
    fd = open_existing(beside(path, suffix), place.fs)
    if fd is None:
        raise NoRecordsError("there are none")
    try:
        with os.fdopen(fd, "rb") as file:
            reach("segment.read_map")
            content = file.read()
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        raise NoRecordsError("they were removed") from exc
    return blockmap.decode(content, path.name, len(blocks), blocks.size, sealed=suffix == ".sum")


class Filling(OpenFiles):
    """A segment being filled, its files open.

    `stamp`: what fstat said of the data when our last write had ended; `writers`: threads inside that write;
    `changes`: how often somebody else changed the data; `fills`: how often each block was recorded, modulo 256.
    `is_doubtful`: a block proved bad, or what was sealed was changed (the header of the map says so to all nodes): as a
    change in the time of an own write does not show in the stamp, all is checked once more before the seal.
    """

    def __init__(self, place: Place, data: DirectFile, header: MapHeader, block_map: BlockMap) -> None:
        """Open the map's file; `data` is closed if that fails, with FileNotFoundError if one of them is gone."""
        super().__init__(place.lock)
        try:
            self.stamp = stamp_of(data.fd)
            reach("segment.open_map")
            # Records are not aligned, so O_DIRECT only where that is no matter: on NFS, where dirty pages could wait.
            flags = os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if place.fs.is_nfs else 0)
            self._map_fd = os.open(beside(place.path, ".map"), flags)
        except BaseException as exc:
            os.close(data.fd)
            if isinstance(exc, OSError) and exc.errno in GONE:
                raise FileNotFoundError(exc.errno, "sealed or removed meanwhile", os.fspath(place.path)) from exc
            raise
        self._path = place.path
        self._blocks = place.blocks
        self._fs = place.fs
        self.data = data
        self.map = block_map
        self.writers = 0
        self.changes = 0
        self.is_doubtful = header.inode != 0
        self._in_place_s = -math.inf
        self.fills = bytearray(len(block_map))

    @classmethod
    def create(cls, place: Place) -> "Filling":
        """Make the files, or join those of another node that is about to.

        The data before its map: whoever finds a map finds data.  What an old .part holds is no matter, as no map
        vouches for it.
        """
        reach("segment.create")
        with suppress(FileExistsError):
            place.path.parent.mkdir()
            place.made.note(room_now(place.path.parent))
        ours = overhead(place.blocks)
        place.made.note(ours)
        data = DirectFile(beside(place.path, ".part"), size=place.blocks.size)
        try:
            header = MapHeader(place.path.name, len(place.blocks), place.blocks.size)
            is_new = place_map(place.path, header, BlockMap(len(place.blocks)))
            is_sealed = is_there(place.path)
            are_gone = is_sealed and remove_old_names(place.path, data.fd, place.fs)
            if are_gone or not is_new:
                place.made.note(NOTHING - ours)
            if is_sealed:
                raise BlockLostError(f"segment {place.path.name} was sealed by another node meanwhile")
            header, block_map = read_records(place, ".map")
        except DamagedMapError as exc:
            os.close(data.fd)
            raise BlockLostError(f"segment {place.path.name} was sealed or dropped by another node: {exc}") from exc
        except BaseException:
            os.close(data.fd)
            raise
        with unless_removed(place.path.name):
            return cls(place, data, header, block_map)

    @classmethod
    def open(cls, place: Place) -> "Filling":
        """The files that are there; DamagedMapError or FileNotFoundError if they are of no use."""
        header, block_map = read_records(place, ".map")
        return cls(place, DirectFile(beside(place.path, ".part")), header, block_map)

    @classmethod
    def unseal(cls, place: Place, header: MapHeader, block_map: BlockMap) -> "Filling":
        """Make a sealed file one that is being filled; `header` and `block_map` are what its `.sum` says.

        OSError of GONE if somebody else does the same, or has removed it; UnsealError if the medium refuses.
        """
        try:
            is_new = place_map(place.path, header, block_map)
            place.made.note(overhead(place.blocks))  # of which the seal takes off what it does not need
            reach("segment.unseal")
            os.rename(place.path, beside(place.path, ".part"))
            reach("segment.unsealed")
            remove(beside(place.path, ".sum"))
            filling = cls(place, DirectFile(beside(place.path, ".part")), header, block_map)
            try:
                if not is_new:  # but one that somebody left, or is about to fill: it is to say the same
                    reach("segment.map")
                    os.pwrite(filling._map_fd, _encode_map(header, block_map), 0)
            except BaseException:
                filling.close()
                raise
            return filling
        except OSError as exc:
            if exc.errno in GONE:
                raise
            raise UnsealError(str(exc)) from exc

    def close(self) -> None:
        os.close(self.data.fd)
        os.close(self._map_fd)

    def is_in_place(self, believed_s: float = 0.0) -> bool:
        """Whether the open data file still has its name: nobody removed it, and no other node sealed it.

        By its name and not by its links: who seals has it open, and what is removed while it is open an NFS client only
        renames.  On a network, that it was in place so many seconds ago is believed.
        """
        now_s = time.monotonic()
        if self._fs.is_network and now_s - self._in_place_s < believed_s:
            return True
        refresh_names(self._path.parent, self._fs)
        try:
            is_in_place = os.path.samestat(os.stat(beside(self._path, ".part")), os.fstat(self.data.fd))
        except OSError as exc:
            if exc.errno in GONE:
                return False
            raise
        if is_in_place:
            self._in_place_s = now_s
        return is_in_place

    def notice_changes(self) -> bool:
        """Whether somebody else changed the data since our last write.

        While our own writes are under way only a cut shows.
        """
        now = stamp_of(self.data.fd)
        if now[0] >= self._blocks.size and (self.writers or now == self.stamp):
            return False
        self.changes += 1
        self.stamp = now
        return True

    def cut_off(self) -> Iterator[int]:
        """The blocks that do not lie wholly before the end of the data."""
        for block in reversed(range(len(self._blocks))):
            if self._blocks.offset(block) + self._blocks.length(block) <= self.stamp[0]:
                return
            yield block

    def record(self, first: int, checksums: Sequence[int]) -> None:
        """Record that the data of the blocks from `first` on is written."""
        before = self.map.encode(first, first + len(checksums))
        for block, checksum in enumerate(checksums, first):
            self.map.set(block, checksum)
            self.fills[block] = (self.fills[block] + 1) % 256
        try:
            self._write(first, first + len(checksums))
        except OSError:
            self.map.restore(first, before)
            raise

    def clear(self, block: int) -> None:
        """Record that the block is not there: it proved bad."""
        self.is_doubtful = True
        self.map.clear(block)
        self._write(block, block + 1)

    def try_lock(self, first: int, end: int) -> bool:
        """Claim the blocks, see claim.py; False if another node has a claim on one of them."""
        return try_lock(self._map_fd, first, end)

    def unlock(self, first: int, end: int) -> None:
        """Give up the claim."""
        unlock(self._map_fd, first, end)

    def locked_by_others(self, first: int, end: int) -> tuple[int, int] | None:
        """Which of the blocks another node has a claim on: (first, end) of one such stretch, or None."""
        return locked_by_others(self._map_fd, first, end)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Until the end of the block no other node seals; False if one does now, or has a claim on a block.

        Where there are no locks, none does.
        """
        try:
            is_ours = self.try_lock(SEAL, SEAL + 1)
        except OSError as exc:
            if exc.errno not in CANNOT_LOCK:
                raise
            yield True
            return
        try:
            yield is_ours and self.locked_by_others(0, len(self.map)) is None
        finally:
            if is_ours:
                with suppress(OSError):  # it ends with the file, at the latest
                    self.unlock(SEAL, SEAL + 1)

    def read_records(self, first: int, end: int) -> bytes:
        """The records of the blocks first..end-1 as all nodes have them."""
        reach("segment.read_records")
        return os.pread(self._map_fd, (end - first) * blockmap.RECORD_SIZE, blockmap.position(first))

    def _write(self, first: int, end: int) -> None:
        reach("segment.map")
        # A record that is cut short says that its block is not there.
        os.pwrite(self._map_fd, self.map.encode(first, end), blockmap.position(first))

    def fit(self) -> None:
        """Make the data as long as the segment, if it is not."""
        if self.stamp[0] != self._blocks.size:
            self.data.resize(self._blocks.size)
            self.stamp = stamp_of(self.data.fd)

    def link(self) -> bool:
        """Give the data, and not what may have its name by now, the final name; False if another node has just done so.

        FileNotFoundError if it has no name any more.
        """
        try:
            link_open(self.data.fd, self._path)
        except FileExistsError:
            log.info("segment %s: another node sealed it first", self._path.name)
            return False
        refresh_names(self._path.parent, self._fs)
        if not is_there(beside(self._path, ".sum")):  # it was taken away between the check and the link (trash.py)
            remove(self._path)
            raise FileNotFoundError(errno.ENOENT, "taken away while it was sealed", str(self._path))
        return True

    def end_write(self) -> None:
        """One of the threads that write data has ended, well or not."""
        self.writers -= 1
        if not self.writers:
            self.stamp = stamp_of(self.data.fd)
