"""A segment in use and its runs: neighbouring blocks in one slot, while they are fetched, filled, and kept in
memory.

A run of a large segment is one piece (one GET); a run of a pack has a piece for each member.  Memory is asked
for by run, the origin by piece, the backing directory by run again: one write for many small objects.

Concurrency: the trio thread owns everything here.  The thread that fetches a piece writes `got` alone, after
the bytes; it looks at `waiters` after that.  The trio thread appends to `waiters` and looks at `got` after
that.  So no wake-up is lost.

INVARIANT: `segment.runs[b] is run` implies run.first <= b < run.end, and the run is in flight or in memory.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import trio

from dsfs.cache.pool import Priority, Ticket
from dsfs.cache.slot import Slot
from dsfs.model.blocks import extent
from dsfs.model.errors import DsfsError
from dsfs.model.nodes import VersionKey
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin
from dsfs.storage.residency import SegmentRecord, bitmap_of
from dsfs.storage.segment import SegmentFile, State

ERROR_BELIEVED_S = 1.0  # an object that failed for good is not asked for again so soon


class Piece:
    """`length` bytes of `obj` from `object_offset`, for the blocks first..end-1.

    They go to offset `at` of the run's slot.  `fault`: how the last attempt failed, if one did; `error`: why the
    piece will never come.  `length` becomes less when another node is found to have the rest.
    """

    __slots__ = (
        "at", "attempts", "end", "error", "fault", "first", "got", "is_done", "length", "obj", "object_offset",
        "run", "ticket", "waiters",
    )  # fmt: skip

    def __init__(
        self, run: Run, obj: ObjectRef, object_offset: int, at: int, length: int, first: int, end: int
    ) -> None:
        self.run = run
        self.obj = obj
        self.object_offset = object_offset
        self.at = at
        self.length = length
        self.first = first
        self.end = end
        self.got = 0
        self.attempts = 0
        self.is_done = False
        self.fault: DsfsError | None = None
        self.error: DsfsError | None = None
        self.ticket: Ticket | None = None
        self.waiters: list[tuple[int, trio.lowlevel.Task]] = []

    async def wait_got(self, need: int) -> None:
        """Wait until the first `need` bytes are in the slot, or the piece has become shorter.

        Raises the error if they never will be there.
        """
        while self.got < need <= self.length:
            if self.error is not None:
                raise self.error.with_traceback(None)
            waiter = (need, trio.lowlevel.current_task())
            self.waiters.append(waiter)
            if self.got >= need:
                self.waiters.remove(waiter)
                return

            def abort(_: object, waiter: tuple[int, trio.lowlevel.Task] = waiter) -> trio.lowlevel.Abort:
                self.waiters.remove(waiter)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

    def wake(self) -> None:
        """Go on with those who have what they waited for (all, after an error)."""
        if self.waiters:
            got = self.length if self.error is not None else self.got
            ready = [waiter for waiter in self.waiters if waiter[0] <= got or waiter[0] > self.length]
            self.waiters = [waiter for waiter in self.waiters if got < waiter[0] <= self.length]
            for _, task in ready:
                trio.lowlevel.reschedule(task)

    def cut(self, end: int) -> None:
        """The blocks from `end` on will not come: whoever waits for them looks again."""
        self.end = max(self.first, min(self.end, end))
        self.length = extent(self.run.segment.file.blocks, self.first, self.end)[1] if self.end > self.first else 0
        self.wake()


class Run:
    """The blocks first..end-1 of `segment`, in `slot` from its beginning.

    `users`: readers that wait for it or copy from it; `unfinished`: pieces neither done nor failed; `consumed`:
    readers had as many bytes as it has (READs of one stream come out of order, so its last byte tells nothing);
    `filled`: all its blocks are resident; `length`: bytes of data, without the padding of a pack; `priority`: the most
    urgent it was wanted with; `claimed_s`: since when this node has a claim on it; `held_since_s`: since when another
    node has, which was asked for `refusals` times.
    """

    __slots__ = (
        "claimed_s", "consumed", "delivered_bytes", "end", "fill_ticket", "filled", "first", "held_since_s", "length",
        "offset", "pieces", "priority", "refusals", "segment", "slot", "unfinished", "users",
    )  # fmt: skip

    def __init__(self, segment: ActiveSegment, first: int, end: int, slot: Slot, priority: Priority) -> None:
        self.segment = segment
        self.first = first
        self.end = end
        self.offset = segment.file.blocks.offset(first)
        self.slot = slot
        self.priority = priority
        self.pieces = segment.source.pieces(self)
        self.length = sum(piece.length for piece in self.pieces)
        self.delivered_bytes = 0
        self.unfinished = len(self.pieces)
        self.users = 0
        self.consumed = priority is Priority.WARM  # filled, it is the first to go
        self.filled = False
        self.fill_ticket: Ticket | None = None
        self.claimed_s: float | None = None
        self.held_since_s: float | None = None
        self.refusals = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a reader waits for it."""
        return any(piece.waiters for piece in self.pieces)

    def cut(self, end: int) -> None:
        """Leave the blocks from `end` on to others: who waits for them looks again.  Nothing may be under way yet."""
        for block in range(end, self.end):
            if self.segment.runs.get(block) is self:
                del self.segment.runs[block]
        for piece in self.pieces:
            piece.cut(end)
        self.end = end
        self.pieces = [piece for piece in self.pieces if piece.length]
        self.unfinished = len(self.pieces)
        self.length = sum(piece.length for piece in self.pieces)

    @property
    def unhurried(self) -> Priority:
        """How urgent is what of it no reader waits for."""
        return max(Priority.AHEAD, self.priority)

    def piece_of(self, block: int) -> Piece:
        return self.pieces[0] if len(self.pieces) == 1 else self.pieces[block - self.first]


class Source(Protocol):
    """Where the bytes of one segment come from."""

    origin: Origin

    def pieces(self, run: Run) -> list[Piece]:
        """The GETs that bring the run."""

    def neighbour(self, distance: int) -> ActiveSegment | None:
        """The pack so many places behind this one, in use or (for +1) taken into use; None if there is none."""

    def drifted(self, obj: ObjectRef) -> None:
        """The origin no longer has `obj`."""


@dataclass(slots=True)
class LastFetch:
    """What `dsfs why` tells of the last piece that came."""

    at_s: float
    bytes: int
    seconds: float
    attempts: int


@dataclass(slots=True)
class Others:
    """What is known of the other nodes at one segment; see claims.py.

    `unclaimed`: runs that they are to be asked about, by the thread that has `ticket`; `released`: blocks whose claims
    are to be given up before, by one thread at a time (`releasing`); `news_s`: when blocks were last learned from them,
    of which there were `learned_blocks`; `distrusted_until_s`: until then nobody waits for their claims.
    """

    unclaimed: deque[Run] = field(default_factory=deque)
    released: deque[tuple[int, int]] = field(default_factory=deque)
    releasing: threading.Lock = field(default_factory=threading.Lock)
    ticket: Ticket | None = None
    learned_blocks: int = 0
    news_s: float = 0.0
    distrusted_until_s: float = 0.0


class ActiveSegment:
    """A segment in use.

    `owner`: the version that it was opened for last, whose share its fills take; `users`: open files and reads;
    `misses`: how often one of its blocks was wanted and not there;
    `is_touched`: a reader was in this pack; `is_wished`: all of it is to be fetched; `unfilled_runs`: runs on their way
    from the question for a claim to the end of their fill; `is_sealing`: a thread is at the seal; `wants_seal`: once
    more after it; `used_hour`: see SegmentRecord.
    """

    __slots__ = (
        "failed", "file", "identity", "is_sealing", "is_touched", "is_wished", "last_error", "last_fetch", "misses",
        "others", "owner", "runs", "source", "unfilled_runs", "used_hour", "users", "wants_seal",
    )  # fmt: skip

    def __init__(self, file: SegmentFile, source: Source) -> None:
        self.identity = file.identity
        self.file = file
        self.source = source
        self.runs: dict[int, Run] = {}
        self.owner: VersionKey | None = None
        self.users = 0
        self.used_hour = 0
        self.misses = 0
        self.is_touched = False
        self.is_wished = False
        self.is_sealing = self.wants_seal = False
        self.unfilled_runs = 0
        self.others = Others()
        self.failed: dict[int, tuple[float, DsfsError]] = {}
        self.last_fetch: LastFetch | None = None
        self.last_error: tuple[float, str] | None = None

    def forget(self, run: Run) -> None:
        """The run has left memory."""
        for block in range(run.first, run.end):
            if self.runs.get(block) is run:
                del self.runs[block]

    def release(self) -> None:
        """One user less."""
        self.users -= 1

    def is_missing(self, block: int) -> bool:
        """Neither resident nor in memory nor coming."""
        return not self.file.presence[block] and block not in self.runs

    def recent_error(self, block: int) -> DsfsError | None:
        """The error that this block failed with a moment ago."""
        if not self.failed:
            return None
        until_s, error = self.failed.get(block, (0.0, None))
        return error if trio.current_time() < until_s else None

    def lose(self, piece: Piece) -> None:
        """The piece will not come: whoever wants its blocks starts anew."""
        for block in range(piece.first, piece.end):
            if self.runs.get(block) is piece.run:
                del self.runs[block]

    def remember(self, first: int, end: int, error: DsfsError | None) -> None:
        """Let this error, or none, be the answer to those who will want these blocks in the next moment."""
        if error is not None:
            until_s = trio.current_time() + ERROR_BELIEVED_S
            self.failed.update(dict.fromkeys(range(first, end), (until_s, error)))
            self.last_error = (time.time(), str(error))
        elif self.failed:
            for block in range(first, end):
                self.failed.pop(block, None)

    def record(self) -> SegmentRecord:
        """What the residency index is to know."""
        file = self.file
        sealed = file.state is State.SEALED
        bitmap = b"" if sealed else bitmap_of(file.presence)
        return SegmentRecord(
            self.identity, sealed, file.resident_bytes, file.presence.resident, len(file.blocks), bitmap, self.used_hour
        )
