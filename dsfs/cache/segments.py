"""The table of segments in use, and where their bytes come from.

Concurrency: the trio thread owns the table; the files' methods block and run in the backing pool.
A segment is closed when it falls out of the least recently used CAPACITY and nobody uses it, or when nobody has for a
while: the room of a file that was deleted comes back when the last one has closed it.

INVARIANT: a segment with users or runs is never closed.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from dsfs.cache.health import BackingHealth
from dsfs.cache.pool import Pool, Priority, Ticket
from dsfs.cache.runs import ActiveSegment, Piece, Run, Source
from dsfs.model.blocks import BLOCK, BlockTable, PackBlocks, UniformBlocks
from dsfs.model.errors import BackingSilentError
from dsfs.model.objects import ObjectRef
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.catalog import Catalog, Pack
from dsfs.storage.origin import Origin
from dsfs.storage.segment import State

log = logging.getLogger(__name__)

CAPACITY = 1024  # segments kept open: NFSv4 state on a filer is a fixed pool for each controller
# A segment that was not used for so long, or twice as long, is closed: well within the grace of what was evicted.
IDLE_S = 120.0


@dataclass(slots=True)
class ObjectSource:
    """A large object in a segment of its own."""

    origin: Origin
    obj: ObjectRef
    on_drift: Callable[[ObjectRef], None]

    def pieces(self, run: Run) -> list[Piece]:
        offset = run.first * BLOCK
        length = min(run.end * BLOCK, self.obj.size) - offset
        return [Piece(run, self.obj, offset, 0, length, run.first, run.end)]

    def neighbour(self, distance: int) -> "ActiveSegment | None":
        return None

    def drifted(self, obj: ObjectRef) -> None:
        self.on_drift(obj)


@dataclass(slots=True)
class PackSource:
    """The small objects of a pack: one piece each."""

    origin: Origin
    catalog: Catalog
    pack: Pack
    on_drift: Callable[[ObjectRef], None]
    table: "SegmentTable"

    def neighbour(self, distance: int) -> "ActiveSegment | None":
        number = self.pack.number + distance
        if not 0 <= number < self.catalog.summary.packs:
            return None
        pack = self.catalog.pack(number)
        if distance < 0:
            return self.table.find(pack.identity)
        return self.table.pack(self.origin, self.catalog, pack, self.on_drift)

    def pieces(self, run: Run) -> list[Piece]:
        members = self.catalog.members(self.pack.number, run.first, run.end - run.first)
        return [
            Piece(run, member.obj, 0, member.offset - run.offset, member.obj.size, block, block + 1)
            for block, member in enumerate(members, run.first)
        ]

    def drifted(self, obj: ObjectRef) -> None:
        self.on_drift(obj)


class Keeper(Protocol):
    """Who keeps the books of what is resident (the filler)."""

    def opened(self, segment: ActiveSegment) -> None: ...

    def used(self, segment: ActiveSegment) -> None: ...

    def forget_idle(self, segment: ActiveSegment) -> None: ...

    def retire(self, segment: ActiveSegment) -> None: ...


class SegmentTable:
    """All segments in use, by identity."""

    def __init__(self, backing: BackingDirectory, pool: Pool, health: BackingHealth, keeper: Keeper) -> None:
        self._backing = backing
        self._pool = pool
        self._health = health
        self._keeper = keeper
        self._active: OrderedDict[str, ActiveSegment] = OrderedDict()
        self._idle: set[ActiveSegment] = set()  # at the last `close_unused`, and not used since
        self._being_removed: set[str] = set()
        self._removed = trio.lowlevel.ParkingLot()

    def __iter__(self) -> Iterator[ActiveSegment]:
        return iter(self._active.values())

    def find(self, identity: str) -> ActiveSegment | None:
        """The segment if it is in use."""
        return self._active.get(identity)

    async def of_object(
        self, origin: Origin, obj: ObjectRef, identity: str, on_drift: Callable[[ObjectRef], None]
    ) -> ActiveSegment:
        """The opened segment of a large object; the caller is to release it."""
        if (segment := self._active.get(identity)) is None:
            segment = self._add(identity, UniformBlocks(obj.size), ObjectSource(origin, obj, on_drift))
        return await self.opened(segment)

    async def of_pack(
        self, origin: Origin, catalog: Catalog, pack: Pack, on_drift: Callable[[ObjectRef], None]
    ) -> ActiveSegment:
        """The opened segment of a pack; the caller is to release it."""
        return await self.opened(self.pack(origin, catalog, pack, on_drift))

    def pack(
        self, origin: Origin, catalog: Catalog, pack: Pack, on_drift: Callable[[ObjectRef], None]
    ) -> ActiveSegment:
        """The segment of a pack, perhaps not opened yet."""
        if (segment := self._active.get(pack.identity)) is None:
            source = PackSource(origin, catalog, pack, on_drift, self)
            segment = self._add(pack.identity, PackBlocks(catalog.member_sizes(pack.number)), source)
        return segment

    def _add(self, identity: str, blocks: BlockTable, source: Source) -> ActiveSegment:
        self._close_idle()  # before: the new one has no user yet
        segment = ActiveSegment(self._backing.segment(identity, blocks), source)
        self._active[identity] = segment
        return segment

    async def opened(self, segment: ActiveSegment) -> ActiveSegment:
        """The same segment, once its file is open, with a user for the caller, who is to release it.

        If it cannot be opened it stays closed, and nothing of it is resident.
        """
        self._active.move_to_end(segment.identity)
        self._idle.discard(segment)
        segment.users += 1  # from here on: whoever opens another meanwhile must not close this one
        try:
            if segment.file.state is State.CLOSED:
                try:
                    with self._health.patience():
                        await self.wait_removed(segment.identity)
                        segment.users += 1  # by the thread: it may be inside for longer than this task
                        await self._pool.run(segment.file.open, after=partial(self._was_opened, segment))
                except BackingSilentError as exc:
                    log.info("segment %s is not opened: %s", segment.identity, exc)
                except OSError as exc:
                    log.warning("segment %s cannot be opened: %s", segment.identity, exc)
        except BaseException:
            segment.release()
            raise
        self._keeper.used(segment)
        return segment

    def _was_opened(self, segment: ActiveSegment) -> None:
        segment.release()
        if segment.file.state is not State.CLOSED:
            self._keeper.opened(segment)

    def begin_removal(self, identity: str) -> None:
        """The files of a segment that is not in use are about to be removed: whoever wants to open it waits."""
        self._being_removed.add(identity)

    def end_removal(self, identity: str) -> None:
        self._being_removed.remove(identity)
        self._removed.unpark_all()

    async def wait_removed(self, identity: str) -> None:
        """Wait until nobody removes the segment's files."""
        while identity in self._being_removed:
            await self._removed.park()

    def _close_idle(self) -> None:
        excess = len(self._active) + 1 - CAPACITY
        if excess <= 0:
            return
        idle = [segment for segment in self._active.values() if not segment.users and not segment.runs]
        for segment in idle[:excess]:
            self._close(segment)

    def _close(self, segment: ActiveSegment) -> None:
        self._keeper.retire(segment)
        self._idle.discard(segment)
        del self._active[segment.identity]
        # On NFS a close waits for the server: not here.
        self._pool.submit(Ticket(segment.file.close), Priority.AHEAD)

    async def serve(self) -> None:
        """Service: closes what is not used, for as long as the daemon runs."""
        while True:
            await trio.sleep(IDLE_S)
            self.close_unused()

    def close_unused(self) -> None:
        """Close the segments that nobody has used since the last time."""
        for segment in list(self._idle):
            self._keeper.forget_idle(segment)
            if not segment.users and not segment.runs:
                self._close(segment)
        self._idle = {segment for segment in self._active.values() if not segment.users}

    def close(self) -> None:
        for segment in self._active.values():
            segment.file.close()
        self._active.clear()

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        for segment in self._active.values():
            segment.file.check()
            for block, run in segment.runs.items():
                assert run.first <= block < run.end
