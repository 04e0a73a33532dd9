"""Drop: what is resident of a version leaves the backing directory, by request.

Concurrency: the trio thread asks, the backing pool unlinks, one segment after the other; one drop at a time, and none
while the index is rebuilt (recovery.py), since both would count the same bytes.  A backing directory that does not
answer ends a drop, but for the segment that a thread is at: what becomes of that is counted when the thread is back.  A
reader who has the version open goes on from the origin (and so makes it resident again); a fill that is under way finds
its file gone and gives up.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.library import Library
from dsfs.cache.memory import Memory
from dsfs.cache.pool import Pool
from dsfs.cache.runs import ActiveSegment
from dsfs.cache.segments import SegmentTable
from dsfs.cache.versions import Version
from dsfs.metrics import Metrics
from dsfs.model.errors import BackingError, BackingSilentError, NoRoomError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.room import Room

log = logging.getLogger(__name__)


@dataclass
class Dropper:
    """Drops versions, each when it has the `turn`.

    INVARIANT: `in_flight` is the number of segments whose files a thread is removing.
    """

    library: Library
    segments: SegmentTable
    filler: Filler
    memory: Memory
    backing: BackingDirectory
    room: Room
    health: BackingHealth
    pool: Pool
    metrics: Metrics
    turn: trio.Lock

    def __post_init__(self) -> None:
        self.in_flight = 0

    async def drop(self, version: Version) -> tuple[int, int]:
        """Remove all segments of all generations of the version; returns the bytes and the segments that this freed.

        BackingError, also if the backing directory does not answer; what was removed before stays removed, and is told.
        """
        with self.health.patience(is_long=True):  # as long as it takes to rebuild the index
            await self.turn.acquire()
        freed = count = 0
        try:
            for identity in await self.library.segment_identities(version):
                with self.health.patience():
                    size_bytes = await self._drop(identity)
                freed += size_bytes
                count += size_bytes > 0
        except (OSError, BackingSilentError) as exc:
            why = str(exc) if isinstance(exc, BackingSilentError) else f"a segment cannot be removed: {exc}"
            raise BackingError(f"{why}; {freed:,} bytes of {count:,} segments were dropped before") from exc
        finally:
            self.turn.release()
            self.metrics.drop_bytes.add(freed)
            log.info("dropped %s/%s: %d segments, %d bytes", version.dataset.name, version.name, count, freed)
            for generation in version.generations:
                self.filler.shares.note_drop(generation.key)
            await self.filler.flush_index()
        await self._tell()  # after a failure nobody waits for one more answer
        return freed, count

    async def _tell(self) -> None:
        """Let the other nodes fill what was freed; where this is not done, the next look at the account does it."""

        def tell() -> None:
            with suppress(OSError, NoRoomError):
                self.room.tell()

        with suppress(BackingSilentError), self.health.patience():
            await self.pool.run(tell)

    async def _drop(self, identity: str) -> int:
        """Remove one segment; returns the bytes that it took."""
        await self.segments.wait_removed(identity)
        segment = self.segments.find(identity)
        return await (self._drop_closed(identity) if segment is None else self._drop_open(segment))

    async def _drop_closed(self, identity: str) -> int:
        """One that nobody has open, and nobody opens meanwhile."""
        freed: Amount | None = None

        def remove() -> None:
            nonlocal freed
            freed = self.backing.remove_segment(identity)  # this node need not know of it: others fill as well
            self.room.freed(freed)

        def leave() -> None:
            if freed is not None:
                self.filler.removed(identity)
            self.segments.end_removal(identity)

        self.segments.begin_removal(identity)
        await self._in_thread(remove, leave)
        return freed.size_bytes if freed is not None else 0

    async def _drop_open(self, segment: ActiveSegment) -> int:
        """One that is in use."""
        freed = NOTHING

        def remove() -> None:
            nonlocal freed
            freed = segment.file.drop()
            self.room.freed(freed)

        def leave() -> None:
            self.filler.changed(segment)
            segment.release()

        segment.users += 1
        await self._in_thread(remove, leave)
        for run in set(segment.runs.values()):
            if self.memory.is_settled(run) and not run.users:
                self.memory.discard(run)
        return freed.size_bytes

    async def _in_thread(self, work: Callable[[], None], leave: Callable[[], None]) -> None:
        """Do the work; `leave` is called on the trio thread when it has ended, also if nobody waits for it any more."""

        def after() -> None:
            self.in_flight -= 1
            leave()

        self.in_flight += 1
        await self.pool.run(work, after=after)
