"""Fill: memory -> backing directory, after the reader has its reply ("write-back", but nothing dirty ever
exists).

Concurrency: a worker thread of the filling pool writes one run: checksums, room, data, map.  The trio thread then has
its claim given up, notes the segment for the index, lets the run be discarded from memory, and has the segment sealed
if it is complete.  Whatever goes wrong here costs a later fetch and never a reader.
"""

import errno
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import trio
from crc32c import crc32c

from dsfs.cache.claims import Claims, release_quietly
from dsfs.cache.health import BackingHealth
from dsfs.cache.memory import Memory
from dsfs.cache.pool import Bridge, Pool, Priority, Ticket
from dsfs.cache.runs import ActiveSegment, Run
from dsfs.cache.shares import ShareBook
from dsfs.metrics import Metrics
from dsfs.model.allotment import Refusal
from dsfs.model.blocks import extent, pages
from dsfs.model.errors import BackingError, BlockLostError, NoRoomError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage.claim import Answer, look
from dsfs.storage.residency import ResidencyIndex, SegmentRecord, hour_of
from dsfs.storage.room import Room
from dsfs.storage.segment import State

log = logging.getLogger(__name__)

LOOK_S = 5.0  # so long after its own last fill, or a seal that had to wait, a node looks again at a segment
INDEX_INTERVAL_S = 0.5  # the most the index lags behind the maps while the daemon runs


@dataclass
class Filler:
    """Fills runs and keeps the residency index.

    INVARIANT: `in_flight` is the number of runs that wait for a thread or are in its hands, `seals_in_flight` that of
    the seals, and of the looks that may lead to one.  Those may be broken off: the next open of the segment seals it.
    """

    memory: Memory
    pool: Pool
    sealing_pool: Pool
    bridge: Bridge
    room: Room
    health: BackingHealth
    claims: Claims
    index: ResidencyIndex
    metrics: Metrics
    shares: ShareBook

    def __post_init__(self) -> None:
        self.in_flight = self.seals_in_flight = 0
        self._idle = trio.lowlevel.ParkingLot()
        self._unsealed: set[ActiveSegment] = set()
        self._dirty: dict[str, SegmentRecord | ActiveSegment] = {}
        self._is_dirty = trio.Event()
        self._being_written: dict[str, SegmentRecord] = {}
        self._index_turn = trio.Lock()
        self.health.on_silent.append(self.memory.give_up_fills)

    def fill(self, run: Run) -> None:
        """The run's pieces are done or have failed: write what came."""
        extents = _good_extents(run)
        if not extents:
            run.consumed = True  # nobody can want it
            self.run_ended(run)
            self.memory.settle(run)
            return
        self.in_flight += 1
        run.fill_ticket = Ticket(partial(self._fill, run, extents))
        self.memory.queued(run, partial(self._give_up, run, run.fill_ticket))
        if self.health.is_ok:
            self.pool.submit(run.fill_ticket, run.unhurried)
        else:
            self._give_up(run, run.fill_ticket)

    def fill_again(self, run: Run) -> None:
        """The run is in memory, and was not filled, or was dropped since."""
        self.memory.unsettle(run)
        run.held_since_s = None  # who is waited for in vain may be another one by now
        run.segment.unfilled_runs += 1
        self.fill(run)

    def _give_up(self, run: Run, ticket: Ticket) -> None:
        """The backing directory does not answer, or too slowly for the readers that wait for room."""
        if ticket.take():
            self._skipped(sum(piece.length for piece in run.pieces if piece.is_done), "slow")
            self._done(run, filled=False)

    # ---------------------------------------------------------------- in a worker thread

    def _fill(self, run: Run, extents: list[tuple[int, int]]) -> None:
        filled = True
        try:
            for first, end in extents:  # each, also behind a failure
                filled = self._fill_blocks(run, first, end) and filled
        except Exception:
            filled = False
            log.exception("unexpected error while filling segment %s", run.segment.identity)
        finally:
            self.bridge.post(partial(self._done, run, filled=filled))

    def _fill_blocks(self, run: Run, first: int, end: int) -> bool:
        """Write the blocks first..end-1 of the run; False if not all of them are resident now.

        Of what was fetched without a claim only what no other node has filled meanwhile, or fills now.
        """
        if run.claimed_s is not None:
            return self._write(run, first, end)
        filled = True
        while first < end:
            found = self.claims.answer_to_fill(run, first, end)
            until = found.end if found else end
            answer = found.answer if found else None
            if answer is Answer.HELD and run.held_since_s is None:
                filled = False
            elif answer is not Answer.RESIDENT:  # also what is held, if its holder was waited for in vain
                try:
                    filled = self._write(run, first, until) and filled
                finally:
                    if answer is Answer.GRANTED:
                        release_quietly(run.segment, first, until)
            first = until
        return filled

    def _write(self, run: Run, first: int, end: int) -> bool:
        """Write the blocks first..end-1 of the run; False if the backing directory did not take them."""
        file = run.segment.file
        offset, length = extent(file.blocks, first, end)
        owner, wanted, written = run.segment.owner, Amount(pages(length)), NOTHING
        if not self.shares.take(owner, wanted.size_bytes):
            self._skipped(length, Refusal.SHARE.value)
            return False
        try:
            self.room.reserve(wanted)
        except NoRoomError as exc:
            self.shares.give_back(owner, wanted.size_bytes)
            self._skipped(length, exc.reason)
            return False
        view = run.slot.view
        checksums = []
        for block in range(first, end):
            at = file.blocks.offset(block) - run.offset
            stop = at + file.blocks.length(block)
            checksums.append(crc32c(view[at:stop]))
            view[stop : pages(stop)] = bytes(pages(stop) - stop)  # what the slot held before is nobody's business
        try:
            with self.room.beginning(file):
                file.write(first, checksums, view[offset - run.offset :])
            written = wanted
            self.room.succeeded()
        except OSError as exc:
            log.warning("backing directory: a fill failed, nothing is filled for a while: %s", exc)
            written = wanted  # some of it, perhaps
            self._failed(exc, length)
            return False
        except BackingError as exc:
            self._skipped(length, exc.reason if isinstance(exc, NoRoomError) else "dropped")
            return False
        finally:
            self.room.settle(wanted, written)
            self.shares.give_back(owner, (wanted - written).size_bytes)
        self.metrics.fill_bytes.add(length)
        return True

    def _seal(self, segment: ActiveSegment) -> None:
        """Seal the segment: all of it may have to be read, so this has threads of its own."""
        has_failed = True
        try:
            if segment.file.seal():
                self.metrics.seal_segments.add()
            has_failed = False
        except OSError as exc:
            log.warning("segment %s cannot be sealed: %s", segment.identity, exc)
            self._failed(exc, 0)
        except BackingError as exc:
            log.warning("segment %s cannot be sealed: %s", segment.identity, exc)
        finally:
            self.room.settle(NOTHING, segment.file.take_made())
            self.bridge.post(partial(self._sealed, segment, has_failed))

    def _look(self, segment: ActiveSegment) -> None:
        """Learn what other nodes have filled: between them the segment may be complete."""
        try:
            look(segment.file)
        except (OSError, BlockLostError) as exc:
            log.info("segment %s: what others have filled cannot be seen: %s", segment.identity, exc)
        finally:
            self.bridge.post(partial(self._looked, segment))

    def _failed(self, exc: OSError, length: int) -> None:
        """The medium failed: fill nothing for a while."""
        self.metrics.backing_errors.add(label=errno.errorcode.get(exc.errno or 0, "unknown"))
        self._skipped(length, "error")
        self.room.failed(exc)

    def _skipped(self, length: int, reason: str) -> None:
        self.room.not_filled(length)
        self.metrics.fill_skipped_bytes.add(length, label=reason)

    # ---------------------------------------------------------------- on the trio thread again

    def _done(self, run: Run, *, filled: bool) -> None:
        segment = run.segment
        run.filled = filled
        self.run_ended(run)
        self.changed(segment)
        self.memory.settle(run)
        self.complete(segment)
        self.in_flight -= 1
        self._look_idle()

    def run_ended(self, run: Run) -> None:
        """The run is filled, or will not be: its claim is given up, and the others may fill what is missing."""
        segment = run.segment
        self.claims.release(run)
        segment.unfilled_runs -= 1
        if not segment.unfilled_runs and segment.file.state is State.FILLING:
            self._unsealed.add(segment)

    def found(self, segment: ActiveSegment) -> None:
        """It was looked at what other nodes have filled of the segment."""
        self.changed(segment)
        self.complete(segment)

    def complete(self, segment: ActiveSegment) -> None:
        """Seal the segment if all its blocks are resident, and it is not."""
        if segment.file.state is not State.FILLING or not segment.file.is_complete:
            return
        if not self.health.is_ok:
            self._unsealed.add(segment)
            return
        segment.wants_seal = True
        if not segment.is_sealing:
            segment.is_sealing, segment.wants_seal = True, False
            self._begin_seal(segment)
            self.sealing_pool.submit(Ticket(partial(self._seal, segment)), Priority.AHEAD)

    def _sealed(self, segment: ActiveSegment, has_failed: bool) -> None:
        """The attempt has ended; after a failure it is for the next open of the segment to try again."""
        segment.is_sealing = False
        self.changed(segment)
        if segment.wants_seal:  # by who wrote while it was looked whether nobody does
            self.complete(segment)
        elif segment.file.is_complete and not has_failed:
            self._unsealed.add(segment)  # another node had a claim, or was at the seal itself
        self._end_seal(segment)

    def _looked(self, segment: ActiveSegment) -> None:
        self.found(segment)
        self._end_seal(segment)

    async def keep_sealing(self) -> None:
        """Service: looks again at segments that are not sealed though this node has filled all that it fetched."""
        while True:
            await trio.sleep(LOOK_S)
            unsealed, self._unsealed = self._unsealed, set()
            for segment in unsealed:
                if segment.file.state is not State.FILLING:
                    continue
                if not self.health.is_ok:
                    self._unsealed.add(segment)
                elif segment.file.is_complete:
                    self.complete(segment)
                else:
                    self._begin_seal(segment)
                    self.pool.submit(Ticket(partial(self._look, segment)), Priority.AHEAD)

    def _begin_seal(self, segment: ActiveSegment) -> None:
        """A thread is about to use the segment."""
        segment.users += 1
        self.seals_in_flight += 1

    def _end_seal(self, segment: ActiveSegment) -> None:
        segment.release()
        self.seals_in_flight -= 1
        self._look_idle()

    @property
    def is_idle(self) -> bool:
        """No thread fills or seals, and none is to."""
        return not (self.in_flight or self.seals_in_flight)

    def _look_idle(self) -> None:
        if self.is_idle:
            self._idle.unpark_all()

    async def wait_idle(self) -> None:
        while not self.is_idle:
            await self._idle.park()

    # ---------------------------------------------------------------- the index

    def opened(self, segment: ActiveSegment) -> None:
        """The segment's file was opened: what it holds counts from now on, not what the index remembers."""
        if segment.file.resident_bytes != self._remembered_bytes(segment.identity):
            self.changed(segment)
        self.complete(segment)  # a crash, or a fault of the medium, may have come between the last block and the seal

    def used(self, segment: ActiveSegment) -> None:
        """Somebody opens or reads the segment: the index is to know, to the hour."""
        hour = hour_of(time.time())
        if hour > segment.used_hour and segment.file.state is not State.CLOSED:
            segment.used_hour = hour
            self.changed(segment)

    def _remembered_bytes(self, identity: str) -> int:
        """What the index has, or is about to have, of a segment."""
        entry = self._dirty.get(identity) or self._being_written.get(identity) or self.index.get(identity)
        if isinstance(entry, ActiveSegment):
            return entry.file.resident_bytes
        return entry.resident_bytes if entry else 0

    def changed(self, segment: ActiveSegment) -> None:
        """What is resident of the segment has changed: tell the index with the next batch."""
        if segment.file.state is State.CLOSED:
            return  # nobody could look: what the index has stays
        self._dirty[segment.identity] = segment
        self._is_dirty.set()

    def removed(self, identity: str) -> None:
        """The files of a segment that is not in use are gone."""
        self._dirty[identity] = SegmentRecord(identity, False, 0, 0, 0)
        self._is_dirty.set()

    def forget_idle(self, segment: ActiveSegment) -> None:
        """Nobody has used the segment for a while: it need not be in memory, filled or not, or its files stay open."""
        for run in set(segment.runs.values()):
            if not run.users and self.memory.is_settled(run):
                self.memory.discard(run)

    def retire(self, segment: ActiveSegment) -> None:
        """The segment is about to be closed: keep what the index is to know, and open it no more."""
        self._unsealed.discard(segment)
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

    async def tell_again(self, in_use: Iterable[ActiveSegment]) -> None:
        """The index was rebuilt, and may have old news of segments in use."""
        async with self._index_turn:  # no batch in between
            for segment in in_use:
                self.changed(segment)


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
