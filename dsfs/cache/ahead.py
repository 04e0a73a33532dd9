"""Readahead: what is fetched before a reader asks for it.

Large files: a window before the reader's position (model/readahead.py, Stream), started at once as far as
memory allows.  Small files: the rest of a pack, and the next one, as wishes in a bounded queue that a service
works off while readers leave room.

Concurrency: the trio thread only.  Readahead never waits for memory in a request; the service may.
"""

import logging
from collections import deque
from dataclasses import dataclass, field

import trio

from dsfs.cache.fetch import Fetcher
from dsfs.cache.memory import Discarding
from dsfs.cache.runs import ActiveSegment
from dsfs.cache.segments import SegmentTable
from dsfs.cache.slot import SLOT_SIZES
from dsfs.model.blocks import BLOCK, RUN
from dsfs.model.readahead import Advice, Stream, stripe_bytes
from dsfs.storage.segment import State

log = logging.getLogger(__name__)

WISHES = 64  # packs waiting to be fetched ahead: about 2 GiB; older wishes are forgotten
PIECES_PER_CONNECTION = 5  # under way, when packs are to wait: the origin's pool stays busy and can be overtaken soon


@dataclass
class Readahead:
    """`connections`: threads of each origin."""

    fetcher: Fetcher
    segments: SegmentTable
    connections: int
    _wishes: deque[ActiveSegment] = field(default_factory=deque)
    _has_wishes: trio.Event = field(default_factory=trio.Event)

    @property
    def window_limit(self) -> int:
        """Bytes one stream may be ahead: one run a connection (32 saturate a far origin), at most half of memory."""
        return min(min(self.connections, 32) * RUN, self.fetcher.memory.limit_bytes // 2 // RUN * RUN)

    def stream(self, segment: ActiveSegment, stream: Stream, advice: Advice) -> None:
        """Start what the advice wants ahead of the reader of a large file."""
        if advice.until <= advice.ahead:
            return
        blocks = segment.file.blocks
        first = advice.ahead // BLOCK
        end = min(-(-advice.until // BLOCK), len(blocks))
        # In a young window runs are short, so that several connections work on it.
        run_blocks = max(1, min(RUN, max(SLOT_SIZES[1], stream.window // 8)) // BLOCK)
        reached = self.fetcher.ahead(segment, first, end, run_blocks, Discarding.CONSUMED)
        stream.reached(reached * BLOCK)

    def stripe_bytes(self, segment: ActiveSegment) -> int:
        """How much of a pack may come with one wanted file; if that is all of it, the rest follows behind."""
        size = stripe_bytes(segment.misses, self._previous_in_use(segment))
        if not size:
            self._wish(segment)
        return size or RUN

    def touched(self, segment: ActiveSegment) -> None:
        """A reader is in this pack: if he came from the one before it, he will want the one behind it."""
        if not segment.is_touched:
            segment.is_touched = True
            if self._previous_in_use(segment) and (following := segment.source.neighbour(+1)) is not None:
                following.owner = segment.owner
                self._wish(following)

    def _previous_in_use(self, segment: ActiveSegment) -> bool:
        previous = segment.source.neighbour(-1)
        return previous is not None and previous.is_touched

    def _wish(self, segment: ActiveSegment) -> None:
        """Have all of a pack fetched when there is room."""
        if segment.is_wished:
            return
        if len(self._wishes) == WISHES:
            self._let_go(self._wishes.popleft())
        segment.is_wished = True
        segment.users += 1
        self._wishes.append(segment)
        self._has_wishes.set()

    def _let_go(self, segment: ActiveSegment) -> None:
        segment.is_wished = False
        segment.users -= 1

    def stop(self) -> None:
        """Forget all wishes."""
        while self._wishes:
            self._let_go(self._wishes.popleft())

    async def serve(self) -> None:
        """Service: fetches the packs that were wished for, oldest wish first."""
        while True:
            while not self._wishes:
                self._has_wishes = trio.Event()
                await self._has_wishes.wait()
            segment = self._wishes[0]
            try:
                await self._fetch_pack(segment)
            except Exception:
                log.exception("unexpected error while fetching pack %s ahead", segment.identity)
            if self._wishes and self._wishes[0] is segment:
                self._let_go(self._wishes.popleft())

    async def _fetch_pack(self, segment: ActiveSegment) -> None:
        if segment.file.state is State.CLOSED:
            (await self.segments.opened(segment)).release()  # the wish has a user of its own
        block, count = 0, len(segment.file.blocks)
        while block < count:
            await self.fetcher.lane(segment).wait_few(PIECES_PER_CONNECTION * self.connections)
            if not self._wishes or self._wishes[0] is not segment:
                return  # let go meanwhile
            until = segment.file.blocks.run_limit(block)
            reached = self.fetcher.ahead(segment, block, until, count, Discarding.FILLED)
            if reached == block:
                await self.fetcher.memory.wait_changed()
            block = reached
