"""Drop: what is resident of a version leaves the backing directory, by request.

Concurrency: the trio thread asks, the backing pool unlinks.  A reader who has the version open goes on from
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
from dsfs.cache.segments import SegmentTable
from dsfs.metrics import Metrics
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.residency import ResidencyIndex, SegmentRecord

log = logging.getLogger(__name__)


@dataclass
class Dropper:
    """Drops versions."""

    library: Library
    segments: SegmentTable
    filler: Filler
    memory: Memory
    backing: BackingDirectory
    index: ResidencyIndex
    pool: Pool
    metrics: Metrics

    async def drop(self, version: Version) -> tuple[int, int]:
        """Remove all segments of all generations of the version; returns (bytes, segments) that were resident."""
        await self.filler.flush_index()
        identities = await self.library.segment_identities(version)
        before = self.backing.used_bytes
        dropped = [identity for identity in identities if self.segments.find(identity) is None]
        records = await trio.to_thread.run_sync(partial(self._remove_closed, dropped))
        self.backing.account(-sum(record.resident_bytes for record in records))
        count = len(records)
        for identity in identities:
            segment = self.segments.find(identity)
            if segment is not None:
                count += segment.file.resident_blocks > 0
                await self.pool.run(segment.file.drop)
                for run in set(segment.runs.values()):
                    if self.memory.is_settled(run) and not run.users:
                        self.memory.drop(run)
                self.filler.changed(segment)
        await self.filler.flush_index()
        freed = max(0, before - self.backing.used_bytes)
        self.metrics.drop_bytes.add(freed)
        log.info("dropped %s/%s: %d segments, %d bytes", version.dataset.name, version.name, count, freed)
        return freed, count

    def _remove_closed(self, identities: list[str]) -> list[SegmentRecord]:
        """In a thread: remove segments that nobody has open; returns what the index knew of them."""
        known = [record for record in self.index.get_many(identities) if record is not None]
        for record in known:
            self.backing.remove_segment(record.identity)
        self.index.put([SegmentRecord(record.identity, False, 0, 0, record.blocks) for record in known])
        return known
