"""Read: the way of a request from an open file to its bytes.

Resident blocks come from the backing directory, blocks in memory from their run, the rest is wanted from the
origin; readahead is told what was seen.  A fault of the backing directory is never the reader's: what cannot
be read there is wanted from the origin.

Concurrency: the trio thread; reads of the backing directory run in its pool unless the page cache has the
bytes.  A reply may be a view of a slot: it is sent before the trio thread does anything else, so the slot
cannot be reused under it.
"""

import errno
import logging
from dataclasses import dataclass, field
from functools import partial

import trio

from dsfs.cache.ahead import Readahead
from dsfs.cache.fetch import Fetcher, Patience
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.memory import Memory
from dsfs.cache.pool import Pool
from dsfs.cache.runs import ActiveSegment, Run
from dsfs.cache.versions import Generation
from dsfs.metrics import Metrics
from dsfs.model.blocks import BLOCK, RUN, UniformBlocks, extent
from dsfs.model.errors import BackingSilentError, BlockLostError
from dsfs.model.readahead import Stream
from dsfs.storage.segment import State

log = logging.getLogger(__name__)

Buffer = bytes | bytearray | memoryview


@dataclass(slots=True)
class OpenFile:
    """An open file of `size` bytes from `offset` of its segment (0 for a large object); no segment if it is empty."""

    generation: Generation
    segment: ActiveSegment | None
    offset: int
    size: int
    stream: Stream = field(default_factory=Stream)


@dataclass
class Reader:
    """Answers reads of open files.  `resident_memory`: for blocks of unfinished segments only; see memory.py."""

    fetcher: Fetcher
    filler: Filler
    readahead: Readahead
    memory: Memory
    resident_memory: Memory
    pool: Pool
    health: BackingHealth
    metrics: Metrics
    inline: bool  # the backing directory is local: its page cache may be asked without leaving the trio thread

    async def read(self, file: OpenFile, offset: int, size: int) -> Buffer:
        """The bytes [offset, offset+size) of the file, fewer at its end.  DsfsError if they cannot be had."""
        size = min(size, file.size - offset)
        if size <= 0 or file.segment is None:
            return b""
        segment = file.segment
        if segment.file.state is State.CLOSED:
            await self.readahead.segments.opened(segment)
        else:
            segment.users += 1
            self.filler.used(segment)
        try:
            got = await self._collect(file, segment, file.offset + offset, size)
        finally:
            segment.release()
        file.generation.reading.note(segment.identity, file.offset, offset, len(got), trio.current_time)
        return got

    async def _collect(self, file: OpenFile, segment: ActiveSegment, offset: int, size: int) -> Buffer:
        self.readahead.touched(segment)
        if segment.file.state is State.SEALED and self.inline:
            try:
                if (cached := segment.file.read_sealed(offset, size, cached_only=True)) is not None:
                    self.metrics.read_resident_bytes.add(size)
                    return cached
            except (OSError, BlockLostError) as exc:
                self._lost(segment, exc, State.SEALED)
        blocks = segment.file.blocks
        end = offset + size
        patience = self.fetcher.patience()
        run_bytes = 0
        if isinstance(blocks, UniformBlocks) and segment.file.state is not State.SEALED:
            run_bytes = await self._look_ahead(file, segment, offset, end, patience)
        stretches: list[Buffer] = []
        while offset < end:
            block = blocks.at(offset)
            if block not in segment.runs and segment.file.presence[block]:
                stretch = await self._resident(segment, offset, end, patience)
            else:
                stretch = await self._fetched(segment, offset, end, run_bytes, patience)
            offset += len(stretch)
            # A view is of a slot, which may be reused while this task waits for the next stretch.
            stretches.append(bytes(stretch) if offset < end and isinstance(stretch, memoryview) else stretch)
        return stretches[0] if len(stretches) == 1 else b"".join(stretches)

    async def _look_ahead(
        self, file: OpenFile, segment: ActiveSegment, offset: int, end: int, patience: Patience
    ) -> int:
        """Start the wanted run of a large file, then what its stream will want next.

        Returns how much one GET may bring.
        """
        advice = file.stream.observe(offset, end - offset, self.readahead.window_limit)
        block = offset // BLOCK
        if advice.until > advice.ahead:
            if segment.is_missing(block):
                await self.fetcher.want(segment, *self._run_from(segment, block, end, advice.run_bytes), patience)
            self.readahead.stream(segment, file.stream, advice)
        return advice.run_bytes

    # ---------------------------------------------------------------- from the origin

    async def _fetched(
        self, segment: ActiveSegment, offset: int, end: int, run_bytes: int, patience: Patience, *, force: bool = False
    ) -> Buffer:
        """Bytes from `offset` on that are, or come, in memory.

        Up to `end` or the end of their run; b"" = look again.
        """
        block = segment.file.blocks.at(offset)
        if block not in segment.runs:
            segment.misses += 1
        run = await self.fetcher.want(segment, *self._run_from(segment, block, end, run_bytes), patience, force=force)
        return b"" if run is None else await self._from_run(run, block, offset, end, patience)

    def _run_from(self, segment: ActiveSegment, block: int, end: int, run_bytes: int) -> tuple[int, int]:
        """Which blocks to fetch for the bytes from `block` to `end`: of a pack, neighbours come along."""
        blocks = segment.file.blocks
        if isinstance(blocks, UniformBlocks):
            until = min(blocks.size, max(end, block * BLOCK + run_bytes))
            return block, blocks.at(until - 1) + 1
        limit = blocks.offset(block) + self.readahead.stripe_bytes(segment)
        stop = block + 1
        while stop < len(blocks) and blocks.offset(stop) + blocks.length(stop) <= limit:
            stop += 1
        return block, stop

    async def _from_run(self, run: Run, block: int, offset: int, end: int, patience: Patience) -> Buffer:
        piece = run.piece_of(block)
        piece_start = run.offset + piece.at
        stop = min(end, piece_start + piece.length)
        need = stop - piece_start
        run.users += 1
        try:
            await self.fetcher.wait_for(piece, need, patience)
        finally:
            self.memory.leave(run)
        if need > piece.length:
            return b""
        at = offset - run.offset
        run.delivered_bytes += stop - offset
        if run.delivered_bytes >= run.length:
            self.memory.consume(run)
        return run.slot.view[at : at + stop - offset]

    # ---------------------------------------------------------------- from the backing directory

    async def _resident(self, segment: ActiveSegment, offset: int, end: int, patience: Patience) -> Buffer:
        """Bytes from `offset` on that are resident, up to `end`; b"" = look again.

        They come from the origin if the backing directory fails.
        """
        file = segment.file
        first = file.blocks.at(offset)
        last = first
        limit = file.blocks.at(end - 1)
        while last < limit and file.presence[last + 1] and last + 1 not in segment.runs:
            last += 1
        stop = min(end, file.blocks.offset(last) + file.blocks.length(last))
        state = file.state
        got: Buffer
        try:
            with self.health.patience():
                if state is State.SEALED:
                    segment.users += 1  # by the thread: it may be inside for longer than this task
                    work = partial(file.read_sealed, offset, stop - offset)
                    got = await self.pool.run(work, after=segment.release) or b""
                else:
                    got = await self._filling(segment, first, last + 1, offset, stop)
        except BackingSilentError:
            return await self._fetched(segment, offset, end, 0, patience, force=True)
        except (OSError, BlockLostError) as exc:
            if self._lost(segment, exc, state):
                return await self._fetched(segment, offset, end, 0, patience, force=True)
            return b""
        self.metrics.read_resident_bytes.add(len(got))
        return got

    async def _filling(self, segment: ActiveSegment, first: int, end: int, offset: int, stop: int) -> Buffer:
        """The bytes [offset, stop) out of the blocks first..end-1 of a segment being filled, read whole and checked."""
        blocks = segment.file.blocks
        start, length = extent(blocks, first, end)
        while length > RUN:
            end -= 1
            length = extent(blocks, first, end)[1]
        stop = min(stop, start + length)
        slot = await self.resident_memory.take(length)  # as long as it takes: nobody holds it for an origin

        def work() -> bytes:
            segment.file.read_filling(first, end, slot.view)
            return bytes(slot.view[offset - start : stop - start])

        def leave() -> None:
            self.resident_memory.give_back(slot)
            segment.release()

        # Not in a `finally`: were this task cancelled, the thread would go on writing to the slot.
        segment.users += 1
        return await self.pool.run(work, after=leave)

    def _lost(self, segment: ActiveSegment, exc: OSError | BlockLostError, state: State) -> bool:
        """Bytes could not be read in this state of the file.  True if the medium is at fault, and not a seal or a drop
        that came in between, or a bad block, which is no longer present now.
        """
        self.filler.changed(segment)
        if isinstance(exc, BlockLostError) or segment.file.state is not state:
            return False
        log.warning("segment %s: resident bytes could not be used, the origin is asked: %s", segment.identity, exc)
        self.metrics.backing_errors.add(label=errno.errorcode.get(exc.errno or 0, "unknown"))
        return True
