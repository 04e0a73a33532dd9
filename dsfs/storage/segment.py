"""One segment: a file of the backing directory, from its first block to its seal.

    <identity>.part, .map     being filled: sparse data and a block map           state FILLING
    <identity>, .sum          sealed: complete, immutable, with its checksums     state SEALED

The order of a fill is data, record in the map, index; of a seal: checksums, link to the final name, unlink of
the old names.  So a crash leaves waste, never a false "resident".  A sealed file is trusted while fstat says
what its `.sum` says.  If it does not, the file becomes a `.part` again (unseal) and each block is checked
before its next use.

Concurrency: every method blocks and may be called from several threads at once, but for `close`, whose caller
knows that nobody else is inside.  `_lock` guards the state and the map; data is read and written outside it.
`presence` may be looked at without the lock: a block that is present stays readable until `drop`, and a
reader who finds it gone gets BlockLostError.
"""

import errno
import logging
import mmap
import os
import threading
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from crc32c import crc32c

from dsfs.model.blocks import RUN, BlockTable, extent, pages
from dsfs.model.errors import BackingError
from dsfs.storage import blockmap
from dsfs.storage.blockmap import BlockMap, DamagedMapError, MapHeader
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import DirectFile, FileSystem

log = logging.getLogger(__name__)

MISSING, UNCHECKED, TRUSTED = 0, 1, 2
GONE = frozenset({errno.ENOENT, errno.ESTALE})


class State(Enum):
    CLOSED = "closed"
    ABSENT = "absent"
    FILLING = "filling"
    SEALED = "sealed"


class BlockLostError(BackingError):
    """A block that was thought resident is not there, or not what was written: a miss, never an error to a reader."""


class SegmentFile:
    """The file of one segment.

    INVARIANT: `presence[i]` is not MISSING only if the data of block i was written before, and its record is
    in `_map` (FILLING) or in the `.sum` (SEALED).
    """

    def __init__(self, path: Path, identity: str, blocks: BlockTable, fs: FileSystem) -> None:
        self.path = path
        self.identity = identity
        self.blocks = blocks
        self.presence = bytearray(len(blocks))
        self.resident_bytes = 0
        self.state = State.CLOSED
        self.faults = 0
        self._fs = fs
        self._lock = threading.RLock()
        self._sealed_fd = -1
        self._sealed_stat = (0, 0, 0)
        self._data: DirectFile | None = None
        self._map_fd = -1
        self._map = BlockMap(0)
        self._retired: list[int] = []

    @property
    def resident_blocks(self) -> int:
        return len(self.presence) - self.presence.count(MISSING)

    @property
    def is_complete(self) -> bool:
        return MISSING not in self.presence

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.identity + suffix)

    # ---------------------------------------------------------------- opening

    def open(self) -> None:
        """Find out what is there.  Nothing usable is no error: the segment is then ABSENT."""
        with self._lock:
            if self.state is State.CLOSED and not (self._open_sealed() or self._open_filling()):
                self._become_absent()

    def _open_sealed(self) -> bool:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as exc:
            if exc.errno not in GONE:
                self._fault("cannot be opened: %s", exc)
            return False
        stat = os.fstat(fd)
        try:
            header, block_map = self._read_map(".sum", sealed=True)
        except (OSError, DamagedMapError) as exc:
            os.close(fd)
            self._fault("has no usable checksums and is dropped: %s", exc)
            self._unlink("", ".sum")
            return False
        if stat.st_nlink > 1:  # a crash between link and unlink left the old names
            self._unlink(".part", ".map")
        self._sealed_stat = (self.blocks.size, header.inode, header.mtime_ns)
        if (stat.st_size, stat.st_ino, stat.st_mtime_ns) != self._sealed_stat:
            os.close(fd)
            return self._unseal(block_map, stat.st_size)
        self._sealed_fd = fd
        self._set_presence(bytes([TRUSTED]) * len(self.blocks))
        self.state = State.SEALED
        return True

    def _open_filling(self) -> bool:
        try:
            _, block_map = self._read_map(".map", sealed=False)
            data = DirectFile(self._beside(".part"), self._fs, create=False)
        except (OSError, DamagedMapError) as exc:
            if not (isinstance(exc, OSError) and exc.errno in GONE and not self._beside(".map").exists()):
                self._fault("was being filled, but its map or data cannot be used; dropped: %s", exc)
                self._unlink(".map", ".part")
            return False
        self._start_filling(data, block_map)
        return True

    def _read_map(self, suffix: str, *, sealed: bool) -> tuple[MapHeader, BlockMap]:
        content = self._beside(suffix).read_bytes()
        return blockmap.decode(content, self.identity, len(self.blocks), self.blocks.size, sealed=sealed)

    def _start_filling(self, data: DirectFile, block_map: BlockMap) -> None:
        self._map_fd = os.open(self._beside(".map"), os.O_RDWR | os.O_CLOEXEC)
        self._data, self._map = data, block_map
        self._set_presence(block_map.presence(UNCHECKED))
        self.state = State.FILLING

    def _unseal(self, block_map: BlockMap, size: int) -> bool:
        """The sealed file was changed by somebody: keep what its checksums vouch for, as a segment being filled."""
        self._fault("was changed after it was sealed; every block is checked before it is used again")
        for block in range(len(self.blocks)):
            if self.blocks.offset(block) + self.blocks.length(block) > size:
                block_map.clear(block)
        try:
            self._write_file(".map", self._header(), block_map.encode(0, len(block_map)))
            os.rename(self.path, self._beside(".part"))
            self._unlink(".sum")
            self._start_filling(DirectFile(self._beside(".part"), self._fs, create=False), block_map)
        except OSError as exc:
            self._fault("cannot be taken back: %s", exc)
            return False
        return True

    def _header(self) -> MapHeader:
        return MapHeader(self.identity, len(self.blocks), self.blocks.size)

    def _write_file(self, suffix: str, header: MapHeader, records: bytes) -> None:
        """Write a whole `.map` or `.sum`: complete under another name first, so that no reader meets a half."""
        new = self._beside(f"{suffix}-{os.getpid()}")
        sealed = bool(header.inode)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, blockmap.encode_header(header, records if sealed else b"") + records)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(new, self._beside(suffix))

    # ---------------------------------------------------------------- filling

    def write(self, first: int, checksums: Sequence[int], buffer: memoryview) -> None:
        """Make the blocks first..first+len(checksums)-1 resident from `buffer` (room for whole pages).

        OSError if the medium refuses (also ENOSPC, EDQUOT), BlockLostError if
        the file was removed by somebody.
        """
        end = first + len(checksums)
        offset, length = extent(self.blocks, first, end)
        with self._lock:
            if self.state is State.SEALED:
                return
            data = self._ensure_filling()
        reach("segment.data")
        data.write(buffer, length, offset)
        reach("segment.data_written")
        with self._lock:
            if self._data is not data:
                raise BlockLostError(f"segment {self.identity} was dropped while it was being filled")
            for block, checksum in enumerate(checksums, first):
                self._map.set(block, checksum)
            reach("segment.map")
            os.pwrite(self._map_fd, self._map.encode(first, end), blockmap.position(first))
            for block in range(first, end):
                if self.presence[block] == MISSING:
                    self.resident_bytes += pages(self.blocks.length(block))
                self.presence[block] = TRUSTED
        reach("segment.map_written")

    def _ensure_filling(self) -> DirectFile:
        if self._data is not None:
            if os.fstat(self._data.fd).st_nlink:
                return self._data
            self._become_absent()
            self._fault("was removed while it was being filled")
        self.path.parent.mkdir(exist_ok=True)
        # A new inode: whatever an old .part holds, no map vouches for it.
        self._unlink(".part")
        block_map = BlockMap(len(self.blocks))
        self._write_file(".map", self._header(), block_map.encode(0, len(block_map)))
        data = DirectFile(self._beside(".part"), self._fs, create=True)
        os.ftruncate(data.fd, self.blocks.size)
        self._start_filling(data, block_map)
        return data

    def seal(self) -> bool:
        """Give a complete segment its final name.  False if it is not complete (a block may prove bad on the way)."""
        with self._lock:
            data = self._data
            if data is None or not self._check_unchecked(data):
                return self._sealed_fd >= 0
            if os.fstat(data.fd).st_size != self.blocks.size:
                os.ftruncate(data.fd, self.blocks.size)  # whole pages were written past the end
            reach("segment.seal")
            os.fsync(data.fd)
            stat = os.fstat(data.fd)
            header = blockmap.sealed_header(self._header(), stat.st_ino, stat.st_mtime_ns)
            self._write_file(".sum", header, self._map.encode(0, len(self._map)))
            reach("segment.sum_written")
            try:
                os.link(self._beside(".part"), self.path)
            except FileExistsError:
                log.info("segment %s: another node sealed it first", self.identity)
            reach("segment.linked")
            self._unlink(".part", ".map")
            self._retire()
            if not self._open_sealed():
                self._become_absent()
            return self._sealed_fd >= 0

    def _check_unchecked(self, data: DirectFile) -> bool:
        blocks = [block for block, state in enumerate(self.presence) if state == UNCHECKED]
        if not blocks or not self.is_complete:
            return self.is_complete
        with (
            mmap.mmap(-1, RUN, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory,
            memoryview(memory) as buffer,
        ):
            for block in blocks:
                self._read_checked(data, block, block + 1, buffer)
        return self.is_complete

    # ---------------------------------------------------------------- reading

    def read_sealed(self, offset: int, size: int, *, cached_only: bool = False) -> bytes | bytearray | None:
        """`size` bytes at `offset` of a sealed segment, through the page cache.

        `cached_only`: None instead of waiting for the medium.  BlockLostError if the file is no longer what
        was sealed.
        """
        fd = self._sealed_fd
        stat = os.fstat(fd)
        if (stat.st_size, stat.st_ino, stat.st_mtime_ns) != self._sealed_stat or not stat.st_nlink:
            self._sealed_changed()
            raise BlockLostError(f"segment {self.identity} was changed or removed")
        if not cached_only:
            reach("segment.read")
            got = os.pread(fd, size, offset)
            if len(got) != size:
                raise BlockLostError(f"segment {self.identity} ends early")
            return got
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        return buffer if count == size else None

    def _sealed_changed(self) -> None:
        with self._lock:
            if self.state is State.SEALED:
                self._become_absent()
                self.state = State.CLOSED
                self.open()

    def read_filling(self, first: int, end: int, buffer: memoryview) -> None:
        """The blocks first..end-1 of a segment being filled into `buffer`, each checked against its record.

        BlockLostError if one is missing or bad; the bad ones are no longer present then.
        """
        with self._lock:
            data = self._data
            if data is None or MISSING in self.presence[first:end]:
                raise BlockLostError(f"segment {self.identity} is not being filled any more")
        self._read_checked(data, first, end, buffer)
        if MISSING in self.presence[first:end]:
            raise BlockLostError(f"segment {self.identity} has a bad block in {first}..{end - 1}")

    def _read_checked(self, data: DirectFile, first: int, end: int, buffer: memoryview) -> None:
        offset, length = extent(self.blocks, first, end)
        reach("segment.read")
        got = data.read(buffer, length, offset)
        for block in range(first, end):
            at = self.blocks.offset(block) - offset
            stop = at + self.blocks.length(block)
            checksum = crc32c(buffer[at:stop]) if got >= stop else None
            with self._lock:
                if self._data is not data:
                    # Sealed in between: the same file, whose blocks were checked.
                    if self.state is State.SEALED and got >= stop:
                        continue
                    raise BlockLostError(f"segment {self.identity} was dropped")
                if checksum is not None and checksum == self._map.checksum(block):
                    self.presence[block] = self.presence[block] and TRUSTED
                elif self.presence[block] != MISSING:
                    self._lose(block)

    def _lose(self, block: int) -> None:
        self._fault("block %d is not what was written; it is dropped and fetched again", block)
        self.presence[block] = MISSING
        self.resident_bytes -= pages(self.blocks.length(block))
        self._map.clear(block)
        os.pwrite(self._map_fd, self._map.encode(block, block + 1), blockmap.position(block))

    # ---------------------------------------------------------------- ending

    def drop(self) -> None:
        """Remove the segment from the backing directory."""
        with self._lock:
            self._unlink("", ".sum", ".map", ".part")
            self._become_absent()

    def close(self) -> None:
        """Close the files.  The caller knows that no other method runs."""
        with self._lock:
            self._retire()
            while self._retired:
                os.close(self._retired.pop())
            self.state = State.CLOSED

    def _become_absent(self) -> None:
        self._retire()
        self._set_presence(bytes(len(self.blocks)))
        self.state = State.ABSENT

    def _retire(self) -> None:
        """Put the files aside for `close`: another thread may be reading through them."""
        if self._data is not None:
            self._retired.append(self._data.fd)
        self._retired += [fd for fd in (self._sealed_fd, self._map_fd) if fd >= 0]
        self._data, self._sealed_fd, self._map_fd = None, -1, -1

    def _set_presence(self, presence: bytes) -> None:
        self.presence[:] = presence
        self.resident_bytes = sum(
            pages(self.blocks.length(block)) for block, state in enumerate(presence) if state != MISSING
        )

    def _unlink(self, *suffixes: str) -> None:
        for suffix in suffixes:
            try:
                os.unlink(self._beside(suffix))
            except OSError as exc:
                if exc.errno not in GONE:
                    log.info("segment %s%s cannot be removed: %s", self.identity, suffix, exc)

    def _fault(self, what: str, *args: object) -> None:
        self.faults += 1
        log.warning("segment %s " + what, self.identity, *args)

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        with self._lock:
            resident = [block for block, state in enumerate(self.presence) if state]
            assert self.resident_bytes == sum(pages(self.blocks.length(block)) for block in resident)
            assert self.state is not State.SEALED or self.is_complete
            assert self.state is not State.FILLING or all(
                self._map.checksum(block) is not None for block in resident
            )
