"""Drop: what is resident of a version leaves the backing directory, by request.

Concurrency: the trio thread asks, the backing pool unlinks; one drop at a time, and none while the index is rebuilt
(recovery.py), since both would count the same bytes.  A reader who has the version open goes on from
the origin (and so makes it resident again); a fill that is under way finds its file gone and gives up.
"""

import logging
from dataclasses import dataclass
from functools import partial

import trio

from dsfs.cache.fill import Filler
from dsfs.cache.library import Library, Version
from dsfs.cache.memory import Memory
from dsfs.cache.pool import Pool
from dsfs.cache.runs import ActiveSegment
from dsfs.cache.segments import SegmentTable
from dsfs.metrics import Metrics
from dsfs.model.errors import BackingError
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.residency import ResidencyIndex, SegmentRecord

log = logging.getLogger(__name__)

BATCH = 256  # segments that cannot be opened while they are removed


@dataclass
class Dropper:
    """Drops versions, each when it has the `turn`."""

    library: Library
    segments: SegmentTable
    filler: Filler
    memory: Memory
    backing: BackingDirectory
    index: ResidencyIndex
    pool: Pool
    metrics: Metrics
    turn: trio.Lock

    async def drop(self, version: Version) -> tuple[int, int]:
        """Remove all segments of all generations of the version; returns (bytes, segments) that were resident.

        BackingError if the backing directory does not let go of one; what was removed before stays removed.
        """
        freed = count = 0
        async with self.turn:
            identities = await self.library.segment_identities(version)
            for start in range(0, len(identities), BATCH):
                batch = identities[start : start + BATCH]
                records = await self._drop_closed(batch)
                freed += sum(record.resident_bytes for record in records)
                count += len(records)
                for identity in batch:
                    if (segment := self.segments.find(identity)) is not None:
                        resident_bytes = await self._drop_open(segment)
                        freed += resident_bytes
                        count += resident_bytes > 0
            await self.filler.flush_index()
        self.metrics.drop_bytes.add(freed)
        log.info("dropped %s/%s: %d segments, %d bytes", version.dataset.name, version.name, count, freed)
        return freed, count

    async def _drop_closed(self, identities: list[str]) -> list[SegmentRecord]:
        """Remove those segments that nobody has open; returns what the index knew of them."""
        with self.segments.closed_ones(identities) as closed:
            await self.filler.flush_index()
            removed, error = await trio.to_thread.run_sync(partial(self._remove, closed))
            self.backing.account(-sum(record.resident_bytes for record in removed))
        if error is not None:
            raise BackingError(f"a segment cannot be removed: {error}") from error
        return removed

    def _remove(self, identities: list[str]) -> tuple[list[SegmentRecord], OSError | None]:
        """In a thread: what the index knew of the segments that were removed, and why there are not more."""
        removed: list[SegmentRecord] = []
        fault: OSError | None = None
        try:
            for identity, record in zip(identities, list(self.index.get_many(identities)), strict=True):
                self.backing.remove_segment(identity)  # this node need not know of it: others fill as well
                if record is not None:
                    removed.append(record)
        except OSError as exc:
            fault = exc
        self.index.put([SegmentRecord(record.identity, False, 0, 0, record.blocks) for record in removed])
        return removed, fault

    async def _drop_open(self, segment: ActiveSegment) -> int:
        """Remove a segment that is in use; returns the bytes that were resident."""
        resident_bytes = segment.file.resident_bytes
        segment.users += 1
        try:
            await self.pool.run(segment.file.drop, after=segment.release)
        except OSError as exc:
            raise BackingError(f"a segment cannot be removed: {exc}") from exc
        finally:
            self.filler.changed(segment)
        for run in set(segment.runs.values()):
            if self.memory.is_settled(run) and not run.users:
                self.memory.discard(run)
        return resident_bytes
