"""Fetch: origin -> memory, each block once for all who want it, with the one place of retries.

A want starts a run (or finds one in flight: single-flight is `segment.runs`).  Once the run is claimed its pieces go to
the origin's pool as tickets, and readers wait on a piece until their bytes are in the slot, not until it is whole.  A
complete run goes to the filler.  What of a run another node has, or is at, is cut off it: its readers look again.

Concurrency: the trio thread decides everything; a worker thread makes one attempt at one piece and posts how
it ended.  A piece that fails for the time being is submitted again after a delay; the run and its waiters
stay.  Shared work belongs to nobody's request: a cancelled reader leaves the run to the others and to the
cache.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import trio

from dsfs.cache.claims import Claims
from dsfs.cache.fill import Filler
from dsfs.cache.lanes import Lane, Lanes
from dsfs.cache.memory import Discarding, Memory
from dsfs.cache.pool import Bridge, Priority, Ticket
from dsfs.cache.runs import ActiveSegment, LastFetch, Piece, Run
from dsfs.cache.slot import Slot
from dsfs.metrics import Metrics
from dsfs.model.blocks import extent
from dsfs.model.errors import DriftedError, DsfsError, OriginTemporaryError, OriginTimeoutError
from dsfs.model.retry import retry_delay_s
from dsfs.storage.claim import Answer, Claim

log = logging.getLogger(__name__)

NOBODY = -1  # no block: nobody waits
AHEAD_ATTEMPTS = 3  # nobody waits for these bytes yet; a reader who comes starts anew

OnStart = Callable[[Run], None]


def _nobody(run: Run) -> None:
    """Nobody is told that a run starts."""


@dataclass(slots=True)
class Patience:
    """How much longer one read waits for the origin: for memory and for bytes, all its runs together.

    Not a point in time: what the backing directory takes in between must not become an error of the origin.
    """

    left_s: float

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """trio.TooSlowError if the block does not end in time."""
        began_s = trio.current_time()
        try:
            with trio.fail_after(self.left_s):
                yield
        finally:
            self.left_s = max(0.0, self.left_s - (trio.current_time() - began_s))


@dataclass
class Fetcher:
    """Starts runs, repeats failed pieces, and hands complete runs to the filler.

    INVARIANT: `in_flight` is the number of runs that wait for a claim or for their origin.
    """

    memory: Memory
    lanes: Lanes
    bridge: Bridge
    filler: Filler
    claims: Claims
    nursery: trio.Nursery
    metrics: Metrics
    timeout_s: float
    jitter: random.Random

    def __post_init__(self) -> None:
        self.in_flight = 0
        self._idle = trio.lowlevel.ParkingLot()

    def patience(self) -> Patience:
        """For a read that begins."""
        return Patience(self.timeout_s)

    async def want(
        self, segment: ActiveSegment, first: int, end: int, patience: Patience, *, force: bool = False
    ) -> Run | None:
        """The run in which block `first` is, or comes; a new one takes in as much of first..end-1 as nobody
        has.

        `force`: also blocks that count as resident (their bytes could not be read).  Waits for memory; None
        if the block has become resident meanwhile.  Raises the error with which the block failed a moment
        ago, OriginTimeoutError if there is no memory in time.
        """
        while True:
            if run := segment.runs.get(first):
                self._promote(run, first, Priority.READER)
                self.metrics.flight_joins.add()
                return run
            if error := segment.recent_error(first):
                raise error.with_traceback(None)
            if segment.file.presence[first] and not force:
                return None
            until = self._free_until(segment, first, end, force=force)
            length = extent(segment.file.blocks, first, until)[1]
            slot = self._try_memory_for(segment, length, Discarding.SETTLED)
            if slot is None:
                slot = await self._memory_for(segment, first, length, patience)
                # While this task waited for room another may have started some of these blocks, or filled the
                # first.
                is_taken = first in segment.runs or (segment.file.presence[first] and not force)
                if is_taken or self._free_until(segment, first, end, force=force) != until:
                    self.memory.give_back(slot)
                    continue
            return self._start(segment, first, until, slot, Priority.READER, wanted=first, force=force)

    def ahead(
        self,
        segment: ActiveSegment,
        first: int,
        end: int,
        run_blocks: int,
        discarding: Discarding,
        priority: Priority = Priority.AHEAD,
        on_start: OnStart = _nobody,
    ) -> int:
        """Start runs for what is missing in first..end-1, as long as memory is to be had.

        What is queued less urgently is moved up.  Returns the block it came to.  `on_start` is told of each run, also
        of one that starts later, behind what another node is found to have.
        """
        blocks = segment.file.blocks
        while first < end:
            if run := segment.runs.get(first):
                self._promote(run, first, priority)
            if not segment.is_missing(first) or segment.recent_error(first):
                first += 1
                continue
            until = self._free_until(segment, first, min(end, first + run_blocks), force=False)
            slot = self._try_memory_for(segment, extent(blocks, first, until)[1], discarding)
            if slot is None:
                return first
            self._start(segment, first, until, slot, priority, on_start=on_start)
            first = until
        return end

    def _free_until(self, segment: ActiveSegment, first: int, end: int, *, force: bool) -> int:
        """One past the last block of the run that may start at `first`.

        Nobody has the blocks between, and one slot holds them.
        """
        end = min(end, segment.file.blocks.run_limit(first))
        block = first + 1
        while block < end and block not in segment.runs and (force or not segment.file.presence[block]):
            block += 1
        return block

    def _start(
        self,
        segment: ActiveSegment,
        first: int,
        end: int,
        slot: Slot,
        priority: Priority,
        *,
        wanted: int = NOBODY,
        force: bool = False,
        on_start: OnStart = _nobody,
    ) -> Run:
        """Begin a run; a reader waits for the block `wanted`.  With `force` no other node is asked."""
        run = Run(segment, first, end, slot, priority)
        for block in range(first, end):
            segment.runs[block] = run
            segment.failed.pop(block, None)
        on_start(run)
        self.in_flight += 1
        lane = self.lane(segment)
        lane.held_bytes += slot.size
        lane.under_way += len(run.pieces)
        segment.unfilled_runs += 1
        if force:
            self._fetch(run, wanted)
        else:
            self.claims.ask(run, partial(self._claimed, wanted=wanted, on_start=on_start))
        return run

    def _claimed(self, run: Run, claim: Claim | None, *, wanted: int, on_start: OnStart) -> None:
        """The other nodes have been asked; None = there are no claims now."""
        segment, behind, asked_end = run.segment, run.end, run.end
        is_wanted = run.is_wanted  # before those who wait for more than there will be are sent to look again
        if claim is not None and claim.end < asked_end:
            behind = claim.end
            self._cut(run, behind)
        answer = Answer.GRANTED if claim is None else claim.answer
        if answer is Answer.HELD and is_wanted:
            if not self.claims.wait(run, partial(self._claimed, wanted=wanted, on_start=on_start)):
                self._fetch(run, wanted)
        elif answer is Answer.GRANTED and not any(segment.file.presence[run.first : run.end]):
            self._fetch(run, wanted)
        else:
            if answer is Answer.GRANTED:  # some of it was filled meanwhile
                behind = run.first
            self._let_go(run)
            self.filler.found(segment)
        if behind < asked_end:
            self.ahead(segment, behind, asked_end, asked_end - behind, Discarding.CONSUMED, run.unhurried, on_start)

    def _fetch(self, run: Run, wanted: int) -> None:
        """Ask the origin for the run."""
        self.lane(run.segment).under_way -= len(run.pieces)
        for piece in run.pieces:
            # Of a pack only the wanted member is urgent: its neighbours come behind what other readers wait for.
            is_urgent = piece.waiters or piece.first <= wanted < piece.end
            self._submit(piece, Priority.READER if is_urgent else run.unhurried)

    def _cut(self, run: Run, end: int) -> None:
        """The blocks from `end` on are not fetched with the run."""
        count = len(run.pieces)
        run.cut(end)
        self.lane(run.segment).pieces_ended(count - len(run.pieces))

    def _let_go(self, run: Run) -> None:
        """The run will not be fetched: another node has it, or is at it."""
        self.filler.run_ended(run)
        self._cut(run, run.first)
        self.lane(run.segment).run_ended(run.slot.size)
        self.memory.give_back(run.slot)
        self._left()

    def _left(self) -> None:
        """A run waits for the origin no longer."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.unpark_all()

    def _submit(self, piece: Piece, priority: Priority) -> None:
        lane = self.lane(piece.run.segment)
        lane.under_way += 1
        piece.attempts += 1
        piece.ticket = Ticket(partial(self._attempt, piece))
        lane.pool.submit(piece.ticket, priority)

    def _promote(self, run: Run, block: int, priority: Priority) -> None:
        """`block` is wanted, and how urgently.

        If its piece is still queued, or its run is not claimed yet, it goes before everything that is less urgent.
        """
        ticket = run.piece_of(block).ticket
        if ticket is None:
            self.claims.promote(run, priority)
        elif ticket.is_queued:
            self.lane(run.segment).pool.submit(ticket, priority)
        run.priority = min(run.priority, priority)

    # ---------------------------------------------------------------- in a worker thread

    def _attempt(self, piece: Piece) -> None:
        """One GET for what is not there yet of the piece."""
        began = time.perf_counter()
        slot = piece.run.slot
        done = piece.got
        error: DsfsError | None = None
        try:
            origin = piece.run.segment.source.origin
            for buffer in origin.fetch(piece.obj, piece.object_offset + done, piece.length - done):
                done += slot.put(piece.at + done, buffer)
                piece.got = done
                if piece.waiters:
                    self.bridge.post(piece.wake)
        except DsfsError as exc:
            error = exc
        except Exception as exc:
            log.exception("unexpected error while fetching %r", piece.obj.key)
            error = OriginTemporaryError(f"unexpected {type(exc).__name__}: {exc}")
        if done == piece.length:
            error = None  # a fault behind the last byte: there is nothing left to ask for
        elif error is None:
            error = OriginTemporaryError(f"{piece.obj.key!r}: {done} of {piece.length} bytes came")
        self.bridge.post(partial(self._ended, piece, error, time.perf_counter() - began))

    # ---------------------------------------------------------------- on the trio thread again

    def _ended(self, piece: Piece, error: DsfsError | None, seconds: float) -> None:
        segment = piece.run.segment
        self.lane(segment).pieces_ended(1)
        self.metrics.fetch_seconds.observe(seconds)
        if error is None:
            piece.is_done = True
            segment.last_fetch = LastFetch(time.time(), piece.length, seconds, piece.attempts)
            segment.remember(piece.first, piece.end, None)
        elif isinstance(error, OriginTemporaryError) and (piece.waiters or piece.attempts < AHEAD_ATTEMPTS):
            # As long as somebody waits: each reader has a patience of his own.
            delay_s = retry_delay_s(piece.attempts, self.jitter.random())
            log.info("attempt %d failed, again in %.1f s: %s", piece.attempts, delay_s, error)
            piece.fault = error
            segment.last_error = (time.time(), str(error))
            self.metrics.origin_retries.add()
            self.nursery.start_soon(self._again, piece, delay_s)
            return
        else:
            self._failed(piece, error)
        piece.wake()
        self._finished(piece.run)

    def _failed(self, piece: Piece, error: DsfsError) -> None:
        """The piece will not come."""
        segment = piece.run.segment
        log.warning("fetch failed: %s", error)
        if isinstance(error, DriftedError):
            segment.source.drifted(piece.obj)
        if isinstance(error, OriginTemporaryError):
            segment.last_error = (time.time(), str(error))  # nobody waited: a reader who comes starts anew
        else:
            segment.remember(piece.first, piece.end, error)
        piece.error = error
        segment.lose(piece)

    async def _again(self, piece: Piece, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._submit(piece, Priority.READER if piece.waiters else piece.run.unhurried)

    def _finished(self, run: Run) -> None:
        """One more piece is done or has failed."""
        run.unfinished -= 1
        if run.unfinished == 0:
            self.lane(run.segment).run_ended(run.slot.size)
            self.filler.fill(run)
            self._left()

    async def wait_for(self, piece: Piece, need: int, patience: Patience) -> None:
        """Wait until the first `need` bytes of the piece are there, or will not come with it.

        OriginError if they do not come in time.
        """
        if piece.got >= need:
            return
        segment = piece.run.segment
        # The kernel asks once more for what failed in its readahead: the same reader is not to wait twice.
        if error := segment.recent_error(piece.first):
            raise error.with_traceback(None)
        try:
            with patience.waiting():
                await piece.wait_got(need)
        except trio.TooSlowError:
            why = f": {piece.fault}" if piece.fault else ""
            late = OriginTimeoutError(f"{piece.obj.key!r} did not come within {self.timeout_s:g} s{why}")
            segment.remember(piece.first, piece.end, late)
            raise late from None

    async def _memory_for(self, segment: ActiveSegment, block: int, length: int, patience: Patience) -> Slot:
        """A slot for the reader of the block; OriginTimeoutError if there is none in time."""
        try:
            with patience.waiting():
                return await self._wait_memory_for(segment, length)
        except trio.TooSlowError:
            late = OriginTimeoutError(f"no memory for {length} bytes within {self.timeout_s:g} s")
            segment.remember(block, block + 1, late)  # as in wait_for
            raise late from None

    async def _wait_memory_for(self, segment: ActiveSegment, length: int) -> Slot:
        lane = self.lane(segment)
        while True:
            await lane.wait_room(length)
            slot = await self.memory.take(length)
            if lane.has_room(length):  # others of the same origin have waited, too
                return slot
            self.memory.give_back(slot)

    def _try_memory_for(self, segment: ActiveSegment, length: int, discarding: Discarding) -> Slot | None:
        return self.memory.try_take(length, discarding) if self.lane(segment).has_room(length) else None

    def lane(self, segment: ActiveSegment) -> Lane:
        """The lane of the segment's origin."""
        return self.lanes.of(segment.source.origin)

    async def wait_idle(self) -> None:
        """Wait until no run waits for the origin."""
        while self.in_flight:
            await self._idle.park()
