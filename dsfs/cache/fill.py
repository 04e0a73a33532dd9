"""Fill: memory -> backing directory, after the reader has its reply ("write-back", but nothing dirty ever
exists).

Concurrency: a worker thread of the backing pool writes one run: checksums, room, data, map, and the seal if
the segment is complete.  The trio thread then notes the segment for the index and lets the run be discarded
from memory.  Whatever goes wrong here costs a later fetch and never a reader.
"""

import errno
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import trio
from crc32c import crc32c

from dsfs.cache.memory import Memory
from dsfs.cache.pool import Bridge, Pool, Priority, Ticket
from dsfs.cache.runs import ActiveSegment, Run
from dsfs.metrics import Metrics
from dsfs.model.blocks import extent, pages
from dsfs.model.errors import BackingError, NoRoomError
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.residency import ResidencyIndex, SegmentRecord
from dsfs.storage.segment import State

log = logging.getLogger(__name__)

INDEX_INTERVAL_S = 0.5  # the most the index lags behind the maps while the daemon runs


@dataclass
class Filler:
    """Fills runs and keeps the residency index.

    INVARIANT: `in_flight` is the number of runs and seals that wait for a thread or are in its hands.
    """

    memory: Memory
    pool: Pool
    bridge: Bridge
    backing: BackingDirectory
    index: ResidencyIndex
    metrics: Metrics

    def __post_init__(self) -> None:
        self.in_flight = 0
        self._idle = trio.lowlevel.ParkingLot()
        self._dirty: dict[str, SegmentRecord | ActiveSegment] = {}
        self._is_dirty = trio.Event()
        self._being_written: dict[str, SegmentRecord] = {}
        self._index_turn = trio.Lock()

    def fill(self, run: Run) -> None:
        """The run's pieces are done or have failed: write what came."""
        extents = _good_extents(run)
        if not extents:
            run.consumed = True  # nobody can want it
            self.memory.settle(run)
            return
        self.in_flight += 1
        run.fill_ticket = Ticket(partial(self._fill, run, extents))
        self.memory.queued(run, partial(self._give_up, run, run.fill_ticket))
        self.pool.submit(run.fill_ticket, run.unhurried)

    def fill_again(self, run: Run) -> None:
        """The run is in memory, and was not filled, or was dropped since."""
        self.memory.unsettle(run)
        self.fill(run)

    def _give_up(self, run: Run, ticket: Ticket) -> None:
        """Readers wait for room, and the backing directory is too slow."""
        if ticket.take():
            self._skipped(sum(piece.length for piece in run.pieces if piece.is_done), "slow")
            self._done(run, 0, filled=False)

    # ---------------------------------------------------------------- in a worker thread

    def _fill(self, run: Run, extents: list[tuple[int, int]]) -> None:
        reserved = 0
        filled = True
        try:
            for first, end in extents:  # each, also behind a failure
                room = self._reserve(run, first, end)
                reserved += room
                filled = bool(room) and self._write(run, first, end) and filled
            if filled:
                self._seal(run.segment)
        except Exception:
            filled = False
            log.exception("unexpected error while filling segment %s", run.segment.identity)
        finally:
            self.bridge.post(partial(self._done, run, reserved, filled=filled))

    def _reserve(self, run: Run, first: int, end: int) -> int:
        """Take the room of these blocks out of limit and floor; 0 if there is none."""
        length = extent(run.segment.file.blocks, first, end)[1]
        try:
            self.backing.reserve(pages(length))
        except NoRoomError as exc:
            self._skipped(length, exc.reason)
            return 0
        return pages(length)

    def _write(self, run: Run, first: int, end: int) -> bool:
        """Write the blocks first..end-1 of the run; False if the backing directory did not take them."""
        file = run.segment.file
        offset, length = extent(file.blocks, first, end)
        view = run.slot.view
        checksums = []
        for block in range(first, end):
            at = file.blocks.offset(block) - run.offset
            stop = at + file.blocks.length(block)
            checksums.append(crc32c(view[at:stop]))
            view[stop : pages(stop)] = bytes(pages(stop) - stop)  # what the slot held before is nobody's business
        try:
            file.write(first, checksums, view[offset - run.offset :])
            self.backing.succeeded()
        except OSError as exc:
            log.warning("backing directory: a fill failed, nothing is filled for a while: %s", exc)
            self._failed(exc, length)
            return False
        except BackingError:
            self._skipped(length, "dropped")
            return False
        self.metrics.fill_bytes.add(length)
        return True

    def _seal(self, segment: ActiveSegment) -> None:
        """Seal the segment if it is complete."""
        file = segment.file
        try:
            if file.state is State.FILLING and file.is_complete and file.seal():
                self.metrics.seal_segments.add()
        except OSError as exc:
            log.warning("segment %s cannot be sealed: %s", segment.identity, exc)
            self._failed(exc, 0)
        except BackingError as exc:
            log.warning("segment %s cannot be sealed: %s", segment.identity, exc)

    def _failed(self, exc: OSError, length: int) -> None:
        """The medium failed: fill nothing for a while."""
        self.metrics.backing_errors.add(label=errno.errorcode.get(exc.errno or 0, "unknown"))
        self._skipped(length, "error")
        self.backing.failed(exc)

    def _skipped(self, length: int, reason: str) -> None:
        self.backing.not_filled(length)
        self.metrics.fill_skipped_bytes.add(length, label=reason)

    # ---------------------------------------------------------------- on the trio thread again

    def _done(self, run: Run, reserved: int, *, filled: bool) -> None:
        run.filled = filled
        self.changed(run.segment)
        self.backing.release(reserved)
        self.memory.settle(run)
        self._ended()

    def _ended(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.unpark_all()

    async def wait_idle(self) -> None:
        """Wait until no thread fills or seals, and none is to."""
        while self.in_flight:
            await self._idle.park()

    # ---------------------------------------------------------------- the index

    def opened(self, segment: ActiveSegment) -> None:
        """The segment's file was opened: what it holds counts from now on, not what the index remembers."""
        if not segment.is_counted:
            self._begin_account(segment)
        if segment.accounted_bytes != segment.file.resident_bytes:
            self.changed(segment)
        if segment.file.state is State.FILLING and segment.file.is_complete:
            segment.users += 1  # by the thread
            self.in_flight += 1
            self.pool.submit(Ticket(partial(self._seal_again, segment)), Priority.AHEAD)

    def _begin_account(self, segment: ActiveSegment) -> None:
        segment.is_counted = True
        segment.accounted_bytes = self._remembered_bytes(segment.identity)

    def _remembered_bytes(self, identity: str) -> int:
        """What the index has, or is about to have, of a segment that is not in use."""
        entry = self._dirty.get(identity) or self._being_written.get(identity) or self.index.get(identity)
        if isinstance(entry, ActiveSegment):
            return entry.accounted_bytes
        return entry.resident_bytes if entry else 0

    def _seal_again(self, segment: ActiveSegment) -> None:
        """A crash, or a fault of the medium, came between the last block and the seal."""
        self._seal(segment)

        def done() -> None:
            self.changed(segment)
            segment.release()
            self._ended()

        self.bridge.post(done)

    def changed(self, segment: ActiveSegment) -> None:
        """What is resident of the segment has changed: count it, and tell the index with the next batch."""
        if segment.file.state is State.CLOSED:
            return  # nobody could look: what was counted stays
        if not segment.is_counted:
            self._begin_account(segment)
        resident_bytes = segment.file.resident_bytes
        self.backing.account(resident_bytes - segment.accounted_bytes)
        segment.accounted_bytes = resident_bytes
        self._dirty[segment.identity] = segment
        self._is_dirty.set()

    def retire(self, segment: ActiveSegment) -> None:
        """The segment is about to be closed: keep what the index is to know."""
        if segment.identity in self._dirty:
            self._dirty[segment.identity] = segment.record()

    async def keep_index(self) -> None:
        """Service: writes the index in batches, for as long as the daemon runs."""
        while True:
            await self._is_dirty.wait()
            await trio.sleep(INDEX_INTERVAL_S)
            await self.flush_index()

    async def flush_index(self) -> None:
        """Write what the index does not know yet.  What cannot be written is tried again with the next change."""
        async with self._index_turn:  # two batches at once could overtake each other
            self._is_dirty = trio.Event()
            dirty, self._dirty = self._dirty, {}
            if not dirty:
                return
            try:
                self._being_written = {
                    identity: entry if isinstance(entry, SegmentRecord) else entry.record()
                    for identity, entry in dirty.items()
                }
                await trio.to_thread.run_sync(self.index.put, list(self._being_written.values()))
            except Exception:
                log.exception("the residency index cannot be written")
                self._dirty = {**dirty, **self._dirty}
            finally:
                self._being_written = {}

    async def recount(self, in_use: Iterable[ActiveSegment]) -> None:
        """Take the account of bytes from the index, which was rebuilt; it may have old news of segments in use."""
        async with self._index_turn:  # no batch between the sum and what is missing in it
            total = await trio.to_thread.run_sync(self.index.total_bytes)
            self._dirty.update((segment.identity, segment) for segment in in_use if segment.is_counted)
            self._is_dirty.set()
            for identity in self._dirty:
                known = self.index.get(identity)
                total += self._remembered_bytes(identity) - (known.resident_bytes if known else 0)
            self.backing.used_bytes = total


def _good_extents(run: Run) -> list[tuple[int, int]]:
    """The stretches of neighbouring blocks whose pieces came."""
    extents: list[tuple[int, int]] = []
    for piece in run.pieces:
        if piece.is_done:
            if extents and extents[-1][1] == piece.first:
                extents[-1] = (extents[-1][0], piece.end)
            else:
                extents.append((piece.first, piece.end))
    return extents
