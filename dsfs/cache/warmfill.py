"""Warming one segment: what is missing of it is fetched and filled as readahead is, only less urgently.

How much may be under way, and when nothing may, is decided by the course of the warm (model/warming.py).  A fault costs
a pause of the warm and never a reader.

What another node is at is found missing at the end, or resident, and is looked at again in the next pass.

Concurrency: the trio thread.  A run that a warm has started is everybody's: it comes to its end whatever becomes of the
warm.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import trio

from dsfs.cache.fetch import Fetcher
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.memory import Discarding, Memory
from dsfs.cache.pool import Pool, Priority
from dsfs.cache.runs import ActiveSegment, Run
from dsfs.cache.warmplan import Stretch
from dsfs.model.blocks import BLOCK, UniformBlocks, extent, pages
from dsfs.model.errors import BackingSilentError, BlockLostError, DriftedError, NoRoomError
from dsfs.model.retention import Amount
from dsfs.model.warming import Course, Move
from dsfs.storage.claim import look
from dsfs.storage.room import Room

log = logging.getLogger(__name__)

SHARE_IS_FULL = "the version holds its share of the backing directory, or this node has filled its part of that"
PIECES_PER_CONNECTION = 2  # under way, when a warm is to wait; readahead of packs goes on to more


@dataclass(eq=False)
class Visit:
    """One segment while a warm is at it.

    `note` is told how many wanted bytes are missing when that may have changed.  `drifted`: blocks whose objects the
    origin no longer has; `example`: the key of one.
    """

    segment: ActiveSegment
    stretches: list[Stretch]
    course: Course
    note: Callable[[int], None]
    drifted: set[int] = field(default_factory=set)
    example: str = ""

    def missing(self, place: int = 0) -> Iterator[int]:
        """The wanted blocks from `place` on that are not resident."""
        presence = self.segment.file.presence
        for first, end in self.stretches:
            block = presence.find(0, max(first, place), end)
            while block >= 0:
                yield block
                block = presence.find(0, block + 1, end)

    def missing_bytes(self) -> int:
        blocks, presence = self.segment.file.blocks, self.segment.file.presence
        if isinstance(blocks, UniformBlocks):  # of which all is wanted, and there may be a million
            last = len(blocks) - 1
            return presence.count(0) * BLOCK - (0 if presence[last] else BLOCK - blocks.length(last))
        return sum(blocks.length(block) for block in self.missing())

    def lasting_bytes(self) -> int:
        """What of the missing bytes no further attempt would bring."""
        blocks = self.segment.file.blocks
        if isinstance(blocks, UniformBlocks):
            return self.missing_bytes() if self.drifted else 0
        return sum(blocks.length(block) for block in self.missing() if block in self.drifted)

    @property
    def is_hopeless(self) -> bool:
        """Nothing more of it will come: its only object has drifted."""
        return bool(self.drifted) and isinstance(self.segment.file.blocks, UniformBlocks)


@dataclass
class WarmFiller:
    """Serves all warms of this node.  `window_bytes`: the most that their runs may hold at once."""

    fetcher: Fetcher
    filler: Filler
    memory: Memory
    pool: Pool
    room: Room
    health: BackingHealth
    connections: int
    window_bytes: int
    _flying: dict[Run, Visit] = field(default_factory=dict)

    async def look(self, visit: Visit) -> None:
        """Learn what other nodes have done to the segment since it was opened."""
        segment = visit.segment
        try:
            with self.health.patience():
                segment.users += 1  # by the thread
                await self.pool.run(partial(look, segment.file), Priority.WARM, after=segment.release)
        except BackingSilentError as exc:
            visit.course.failed(str(exc), trio.current_time())
        except (OSError, BlockLostError) as exc:
            log.info("segment %s cannot be looked at: %s", segment.identity, exc)
        self.filler.found(segment)

    async def start(self, visit: Visit) -> set[Run]:
        """Have what is missing fetched and filled; returns the runs in which it comes, also those of others."""
        end = len(visit.segment.file.blocks)
        runs: set[Run] = set()
        block = next(visit.missing(), end)
        while block < end and not visit.is_hopeless:
            run = await self._start_at(visit, block)
            runs = {run for run in runs if not self._is_over(run)}  # an object may have a hundred thousand
            if run is not None:
                runs.add(run)
            block = next(visit.missing(block + 1 if run is None else run.end), end)
        return runs

    async def wait(self, visit: Visit, runs: set[Run]) -> None:
        """Wait until nobody fetches or fills them any more, nor what the visit has begun beside them."""
        self._land()
        while visit in self._flying.values() or not all(self._is_over(run) for run in runs):
            await self.memory.wait_changed()
            self._land()

    async def _start_at(self, visit: Visit, block: int) -> Run | None:
        """The run in which `block` comes, started as soon as it may be.

        None if the block has failed a moment ago, or is resident by now.
        """
        segment = visit.segment
        until = min(next(end for _, end in visit.stretches if end > block), segment.file.blocks.run_limit(block))
        length = extent(segment.file.blocks, block, until)[1]
        while not segment.file.presence[block]:
            run = segment.runs.get(block)
            if run is not None and not self.memory.is_settled(run):
                return run
            self._land()
            match self._move(visit, length):
                case Move.PAUSE:
                    await trio.sleep_until(visit.course.pause_until_s)
                    continue
                case Move.WAIT:
                    await self.memory.wait_changed()
                    continue
            if not await self._has_room(visit, length):
                continue
            await self.fetcher.lane(segment).wait_few(PIECES_PER_CONNECTION * self.connections)
            self._land()
            if self._move(visit, length) is not Move.START:
                continue
            if not self._start_now(visit, block, until):
                await self.memory.wait_changed()
            elif block not in segment.runs:
                return None
        return None

    def _start_now(self, visit: Visit, block: int, until: int) -> bool:
        """Start what is missing in block..until-1; False if there is no memory for it."""
        segment = visit.segment
        run = segment.runs.get(block)
        if run is None:
            # Whatever nobody has come back for may go: were some of it spared, it could stop a warm for ever.
            on_start = partial(self._begun, visit)
            reached = self.fetcher.ahead(
                segment, block, until, until - block, Discarding.SETTLED, Priority.WARM, on_start
            )
            return reached > block
        if self.memory.is_settled(run):  # it came when there was no room to fill it, or was dropped since
            self.filler.fill_again(run)
            self._flying[run] = visit
        return True

    def _begun(self, visit: Visit, run: Run) -> None:
        self._flying[run] = visit

    def _move(self, visit: Visit, length: int) -> Move:
        lane = self.fetcher.lane(visit.segment)
        own = sum(run.unfinished for run in self._flying if self.fetcher.lane(run.segment) is lane)
        return visit.course.next_move(
            trio.current_time(), length, self.flying_bytes, self.window_bytes, is_contended=lane.under_way > own
        )

    @property
    def flying_bytes(self) -> int:
        """What the runs that warms have started, and that are not filled yet, hold of memory."""
        return sum(run.slot.size for run in self._flying)

    async def _has_room(self, visit: Visit, length: int) -> bool:
        """Whether what is under way and `length` bytes more will be filled: else they would be fetched in vain."""
        needed = Amount(pages(length) + sum(pages(run.length) for run in self._flying))
        owner = visit.segment.owner
        of_owner = pages(length) + sum(pages(run.length) for run in self._flying if run.segment.owner == owner)

        def ask() -> str:
            if not self.filler.shares.has_room(owner, of_owner):
                return SHARE_IS_FULL
            try:
                self.room.check(needed)
            except NoRoomError as exc:
                return str(exc)
            return ""

        try:
            with self.health.patience():
                reason = await self.pool.run(ask, Priority.WARM)
        except BackingSilentError as exc:
            reason = str(exc)
        if reason:
            visit.course.failed(reason, trio.current_time())
        return not reason

    def _land(self) -> None:
        """Take note of what became of the runs that have come to their end."""
        for run, visit in list(self._flying.items()):
            if not self._is_over(run):
                continue
            del self._flying[run]
            errors = [piece for piece in run.pieces if piece.error is not None]
            for piece in errors:
                if isinstance(piece.error, DriftedError):
                    visit.drifted.update(range(piece.first, piece.end))
                    visit.example = piece.obj.key
                else:
                    visit.course.failed(str(piece.error), trio.current_time())
            if not errors and run.filled:
                visit.course.filled()
            visit.note(visit.missing_bytes())

    def _is_over(self, run: Run) -> bool:
        runs = run.segment.runs
        return self.memory.is_settled(run) or all(runs.get(block) is not run for block in range(run.first, run.end))
