"""One segment: a file of the backing directory, from its first block to its seal.

    <identity>.part, .map     being filled: sparse data and a block map           state FILLING
    <identity>, .sum          sealed: complete, immutable, with its checksums     state SEALED

The order of a fill is data, record in the map, index; of a seal: checksums, link to the final name, unlink of the old
names.  So a crash leaves waste, never a false "resident".  A sealed file is trusted while fstat says what its `.sum`
says.  If it does not, the file becomes a `.part` again (unseal) and each block is checked before its next use.  A
`.part` that somebody else changed (its fstat says so too) is sealed after all its blocks were checked again.

Concurrency: every method blocks and may be called by several threads at once, but for `close`: its caller knows that
nobody is inside.  `_lock` guards the state and the map; data is read and written outside it, also by a seal that checks
blocks.  `presence` needs no lock: who reads a block that is present, and finds it gone, gets BlockLostError.
"""

import logging
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path

from crc32c import crc32c

from dsfs.model.blocks import RUN, BlockTable, extent
from dsfs.model.errors import BlockLostError
from dsfs.model.retention import Amount
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import FileSystem, is_there
from dsfs.storage.filling import Filling, Place, unless_removed, write_sum
from dsfs.storage.opening import is_in_place, open_files, tell_end_of_use
from dsfs.storage.presence import MISSING, TRUSTED, UNCHECKED, Presence
from dsfs.storage.sealed import SealBrokenError, SealedFile, stamp_of
from dsfs.storage.segmentnames import correction, remove_all, remove_old_names, remove_waste

log = logging.getLogger(__name__)


class State(Enum):
    CLOSED = "closed"
    ABSENT = "absent"
    FILLING = "filling"
    SEALED = "sealed"


class SegmentFile:
    """The file of one segment.

    INVARIANT: `presence[i]` is not MISSING only if the data of block i was written before, and its record is in the map
    (FILLING) or in the `.sum` (SEALED).
    """

    def __init__(self, path: Path, identity: str, blocks: BlockTable, fs: FileSystem) -> None:
        self.path = path
        self.identity = identity
        self.blocks = blocks
        self.presence = Presence(blocks)
        self.learned_blocks = 0
        self.state = State.CLOSED
        self._lock = threading.RLock()
        self._place = Place(path, blocks, fs, self._lock)
        self._filling: Filling | None = None
        self._sealed: SealedFile | None = None

    @property
    def resident_bytes(self) -> int:
        """Bytes that the present blocks take, in whole pages."""
        return self.presence.bytes

    @property
    def is_complete(self) -> bool:
        return MISSING not in self.presence

    # ---------------------------------------------------------------- opening

    def open(self) -> None:
        """Find out what is there; nothing usable is no error (ABSENT).  OSError if the medium fails (CLOSED)."""
        with self._lock:
            if self.state is State.CLOSED:
                self._look()

    def look_again(self, *, anew: bool = False, believed_s: float = 0.0) -> None:
        """Find out what others have begun, sealed or dropped.  May raise OSError.

        `anew`: do without what is open; `believed_s`: how old the news that a filling goes on may be.
        """
        with self._lock:
            is_closed = self.state in (State.CLOSED, State.ABSENT)
            if anew or is_closed or not (self._sealed is None or is_in_place(self._sealed, self._place)):
                self._become_absent()
                self._look()
            elif self._filling is not None and not self._filling.is_in_place(believed_s):
                self._begin_again()

    def _look(self) -> None:
        """OSError, and CLOSED, if one cannot look: that does not mean that nothing is there."""
        try:
            found = open_files(self._place)
        except OSError:
            self._become_absent()
            self.state = State.CLOSED
            raise
        if isinstance(found, SealedFile):
            self._sealed, self.state = found, State.SEALED
            self.presence.become(bytes([TRUSTED]) * len(self.blocks))
        elif isinstance(found, Filling):
            self._start(found)
        else:
            self._become_absent()

    def _start(self, filling: Filling) -> None:
        self._filling = filling
        self.presence.become(filling.map.presence(UNCHECKED))
        self.state = State.FILLING
        self._forget_cut_off(filling)

    def _forget_cut_off(self, filling: Filling) -> None:
        """The blocks behind the end of the data are missing: somebody cut the file."""
        lost = [block for block in filling.cut_off() if self.presence[block] != MISSING]
        for block in lost:
            self._lose(filling, block)
        if lost:
            log.warning("segment %s was cut short; %d blocks are fetched again", self.identity, len(lost))
        if filling.stamp[0] < self.blocks.size:
            filling.fit()

    def _lose(self, filling: Filling, block: int) -> None:
        self.presence.mark(block, MISSING)
        filling.clear(block)

    # ---------------------------------------------------------------- filling

    def write(self, first: int, checksums: Sequence[int], buffer: memoryview) -> None:
        """Make the blocks first..first+len(checksums)-1 resident from `buffer` (room for whole pages).

        OSError if the medium refuses (also ENOSPC, EDQUOT), BlockLostError if the file was removed by somebody.
        """
        end = first + len(checksums)
        offset, length = extent(self.blocks, first, end)
        with ExitStack() as inside:
            with self._lock:
                filling = self._begin_filling()
                if filling is None:
                    return
                inside.enter_context(unless_removed(self.identity))
                self._note_changes(filling)
                inside.enter_context(filling.inside())
                filling.writers += 1
                changes = filling.changes
            try:
                reach("segment.data")
                filling.data.write(buffer, length, offset)
                reach("segment.data_written")
            finally:
                with self._lock:
                    filling.end_write()
            with self._lock:
                if self._filling is not filling:
                    if self.state is State.SEALED:  # by somebody for whom these blocks were resident before
                        return
                    raise BlockLostError(f"segment {self.identity} was dropped while it was being filled")
                filling.record(first, checksums)
                for block in range(first, end):
                    self.presence.mark(block, TRUSTED if filling.changes == changes else UNCHECKED)
        reach("segment.map_written")

    @contextmanager
    def in_use(self, *, begin: bool = False, believed_s: float = 0.0) -> Iterator[Filling | None]:
        """The open files of the filling, which stay open until the end of the block; None if there are none.

        `begin`: make them if there are none yet, and look whether they are still those of the segment: None only if it
        is sealed.
        """
        with ExitStack() as inside:
            with self._lock:
                filling = self._begin_filling(believed_s) if begin else self._filling
                if filling is not None:
                    inside.enter_context(filling.inside())
            yield filling

    def _begin_filling(self, believed_s: float = 0.0) -> Filling | None:
        """The open files, made if there are none; None if the segment is sealed."""
        self.look_again(believed_s=believed_s)
        if self.state is State.ABSENT:
            self._start(Filling.create(self._place))
        return self._filling

    def take_made(self) -> Amount:
        """What this node has made of the segment beside its blocks, less what it removed, since this was asked last."""
        with self._lock:
            return self._place.made.take()

    def _begin_again(self) -> None:
        """The open files are not those of the segment any more: another node sealed them, or somebody removed them."""
        self._become_absent()
        self._look()
        if self.state is not State.SEALED:
            log.info("segment %s was removed while it was being filled", self.identity)

    def _note_changes(self, filling: Filling) -> None:
        """If somebody else changed the data, no block is trusted any more."""
        if filling.notice_changes():
            log.debug("segment %s was changed by somebody while it was being filled", self.identity)
            self.presence.distrust()
            self._forget_cut_off(filling)

    def seal(self) -> bool:
        """Give a complete segment its final name; whether it is sealed now.

        It is not while a block is missing (one may prove bad on the way), while another thread writes, who is to call
        this again, and while another node has a claim on it, or has just sealed it.  OSError if the medium refuses.
        """
        with suppress(BlockLostError), unless_removed(self.identity), self.in_use() as filling:
            if filling is not None and self._is_ready(filling):
                with filling.alone() as is_alone:
                    if is_alone:
                        self._check_unchecked(filling)
                        self._seal_checked(filling)
        return self.state is State.SEALED

    def _is_ready(self, filling: Filling) -> bool:
        with self._lock:
            if filling.writers or not self.is_complete:
                return False
            if not filling.is_in_place():  # else all of it would be read for nothing
                self._begin_again()
                return False
            self._note_changes(filling)
            if filling.is_doubtful:
                self.presence.distrust()
            return True

    def _seal_checked(self, filling: Filling) -> None:
        with self._lock:
            if self._filling is filling and not filling.writers and self.presence.count(TRUSTED) == len(self.presence):
                if not filling.is_in_place():
                    self._begin_again()
                elif stamp_of(filling.data.fd) == filling.stamp:
                    self._give_name(filling)

    def _give_name(self, filling: Filling) -> None:
        filling.fit()  # whole pages were written past the end
        reach("segment.seal")
        try:
            os.fsync(filling.data.fd)
        except OSError:  # said only once: a second fsync would succeed, whatever was lost
            remove_waste(self.path, ".map", ".part")
            self._become_absent()
            raise
        if not is_there(self.path):
            write_sum(self.path, self.blocks, filling.map, filling.stamp)
        reach("segment.sum_written")
        try:
            is_ours = filling.link()
        except FileNotFoundError:
            self._begin_again()
            return
        reach("segment.linked")
        are_gone = remove_old_names(self.path, filling.data.fd, self._place.fs)
        self._retire()
        if is_ours and are_gone:
            self._place.made.note(correction(self.path, self.blocks))
        self._look()  # what is trusted now is what the next open would trust

    def _check_unchecked(self, filling: Filling) -> None:
        first = self.presence.find(UNCHECKED)
        if first < 0:
            return
        # Not closed by us: the traceback of an error holds slices of it, and close would raise BufferError instead.
        buffer = memoryview(mmap.mmap(-1, RUN, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        while first >= 0:
            end, limit = first + 1, self.blocks.run_limit(first)
            while end < limit and self.presence[end] == UNCHECKED:
                end += 1
            self._read_checked(filling, first, end, buffer)
            first = self.presence.find(UNCHECKED, end)

    def learn(self, filling: Filling, first: int, end: int) -> None:
        """Take up what other nodes have filled of the blocks first..end-1."""
        records = filling.read_records(first, end)
        with self._lock:
            if self._filling is filling:
                for block in filling.map.learn(first, records):
                    self.presence.mark(block, UNCHECKED)
                    self.learned_blocks += 1

    # ---------------------------------------------------------------- reading

    def read_sealed(self, offset: int, size: int, *, cached_only: bool = False) -> bytes | memoryview | None:
        """`size` bytes at `offset` of a sealed segment, through the page cache.

        `cached_only`: None instead of waiting for the medium.  BlockLostError if the file is no longer what was sealed.
        """
        sealed = self._sealed
        if sealed is None:
            raise BlockLostError(f"segment {self.identity} is not sealed any more")
        try:
            with sealed.inside():
                return sealed.read_cached(offset, size) if cached_only else sealed.read(offset, size)
        except SealBrokenError as exc:
            if cached_only:
                return None  # taking it back is for those who may wait
            with self._lock:
                if self._sealed is sealed:
                    self.look_again(anew=True)
            raise BlockLostError(f"segment {self.identity}: {exc}") from exc

    def read_filling(self, first: int, end: int, buffer: memoryview) -> None:
        """The blocks first..end-1 of a segment being filled into `buffer`, each checked against its record.

        BlockLostError if one is missing or bad; the bad ones are no longer present then.
        """
        with self._lock:  # not in the middle of a seal
            filling = self._filling
        if filling is not None and MISSING not in self.presence[first:end]:
            try:
                self._read_checked(filling, first, end, buffer)
                return
            except BlockLostError:
                if self.state is not State.SEALED:  # not sealed meanwhile
                    raise
        offset, length = extent(self.blocks, first, end)
        buffer[:length] = self.read_sealed(offset, length) or b""

    def _read_checked(self, filling: Filling, first: int, end: int, buffer: memoryview) -> None:
        offset, length = extent(self.blocks, first, end)
        changes, fills = filling.changes, filling.fills[first:end]
        try:
            with filling.inside(), unless_removed(self.identity):
                reach("segment.read")
                got = filling.data.read(buffer, length, offset)
        except BlockLostError:
            with self._lock:
                if self._filling is filling:
                    self.look_again(anew=True)
            raise
        for block in range(first, end):
            at = self.blocks.offset(block) - offset
            stop = at + self.blocks.length(block)
            checksum = crc32c(buffer[at:stop]) if got >= stop else None
            with self._lock:
                is_right = checksum is not None and checksum == filling.map.checksum(block)
                if self._filling is not filling:
                    if self.state is State.SEALED and is_right:  # sealed in between: the same file
                        continue
                    raise BlockLostError(f"segment {self.identity} was dropped")
                if not is_right and filling.fills[block] != fills[block - first]:  # what was read may be what was bad
                    raise BlockLostError(f"segment {self.identity} was filled while it was read")
                if not is_right and self.presence[block] != MISSING:
                    log.warning("segment %s block %d is not what was written; it is fetched anew", self.identity, block)
                    self._lose(filling, block)
                elif self.presence[block] == UNCHECKED and filling.changes == changes:
                    self.presence.mark(block, TRUSTED)
        if MISSING in self.presence[first:end]:
            raise BlockLostError(f"segment {self.identity} has a bad block in {first}..{end - 1}")

    # ---------------------------------------------------------------- ending

    def drop(self) -> Amount:
        """Remove the segment from the backing directory; returns what it took.  OSError if a file cannot be removed."""
        with self._lock:
            freed = remove_all(self.path, self._place.fs)
            self._become_absent()
        return freed

    def close(self) -> None:
        """Close the files.  The caller knows that no other method runs."""
        with self._lock:
            tell_end_of_use(self._sealed, self.path)
            self._retire()
            self.state = State.CLOSED

    def _become_absent(self) -> None:
        self._retire()
        self.presence.become(bytes(len(self.blocks)))
        self.state = State.ABSENT

    def _retire(self) -> None:
        """Nobody may read or write through the open files any more."""
        for files in (self._filling, self._sealed):
            if files is not None:
                files.retire()
        self._filling = self._sealed = None

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        with self._lock:
            resident = [block for block, state in enumerate(self.presence) if state]
            self.presence.check()
            assert (self.state is State.SEALED) == (self._sealed is not None)
            assert (self.state is State.FILLING) == (self._filling is not None)
            assert self.state is not State.SEALED or self.is_complete
            assert self.state is not State.ABSENT or not resident
            assert self._filling is None or all(self._filling.map.checksum(block) is not None for block in resident)
