"""How much of each version is resident: what the index of this node says, and what was found of all nodes.

The index knows what this node has filled or opened, exactly and at once; who evicts knows what all nodes have filled
and what has left, half a minute later, and by what files take.

Concurrency: the trio thread; what waits, or adds up many segments, runs in worker threads.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import trio

from dsfs.cache.fill import Filler
from dsfs.cache.versions import Generation
from dsfs.model.blocks import pages
from dsfs.model.nodes import VersionKey
from dsfs.model.quantity import format_duration
from dsfs.model.standing import BELIEVED_S, HeldVersion, Resident, Standing, resident_bytes
from dsfs.storage.bulletin import Bulletin
from dsfs.storage.nodes import NodesDirectory
from dsfs.storage.residency import ResidencyIndex


@dataclass(frozen=True, slots=True)
class Found:
    """What the last round of eviction found, at `counted_s` of this node's monotonic clock."""

    standing: Standing
    counted_s: float
    held: Mapping[VersionKey, HeldVersion]

    def facts(self) -> dict[str, object]:
        """For `status`."""
        return {
            "host": self.standing.host,
            "ago_s": max(0.0, time.monotonic() - self.counted_s),
            "leaving_bytes": self.standing.leaving_bytes,
            "trouble": self.standing.trouble,
        }


def eviction_facts(found: Found | None, running_s: float) -> dict[str, object] | None:
    """For `status`, of a daemon that has been running for so long; None while nobody needs to have had a round."""
    if found is not None:
        return found.facts()
    if running_s <= BELIEVED_S:
        return None
    trouble = f"no node has had a round for {format_duration(BELIEVED_S)}, so nothing leaves: their logs say why"
    return {"host": "", "ago_s": None, "leaving_bytes": 0, "trouble": trouble}


@dataclass
class Residents:
    """Asks both."""

    index: ResidencyIndex
    filler: Filler
    standing: Bulletin[Standing]
    nodes: NodesDirectory

    def look(self) -> Found | None:
        """In a worker thread: what was found last; None if nobody has looked lately.  OSError."""
        standing = self.standing.look()
        now_s = time.monotonic()
        if standing is None:
            return None
        age_s = (self.nodes.time_at(now_s) - standing.counted_ns) / 1e9
        if age_s > BELIEVED_S:
            return None
        return Found(standing, now_s - age_s, {held.key: held for held in standing.versions})

    async def bytes_of(self, generation: Generation, found: Found | None) -> int:
        """Bytes of the version's files that are resident, without the padding of packs."""
        await self.filler.flush_index()
        known = await trio.to_thread.run_sync(partial(self._known, generation))
        if found is None or not found.standing.is_whole:
            return known.size_bytes
        key, shares = generation.key, self.filler.shares
        if shares.dropped_s(key) > found.counted_s:
            return known.size_bytes
        is_filled_since = shares.filled_s(key) > found.counted_s
        total_bytes = generation.catalog.summary.bytes
        return resident_bytes(known, found.held.get(key), total_bytes, is_filled_since=is_filled_since)

    def _known(self, generation: Generation) -> Resident:
        """In a worker thread.  Exact for large objects; packs pad their members to pages, which is taken out evenly."""
        catalog = generation.catalog
        packs = {catalog.pack(number).identity for number in range(catalog.summary.packs)}
        records = self.index.get_many(identity for identity, _, _ in catalog.segments())
        large_bytes = large_resident = padded_bytes = padded_resident = taken_bytes = 0
        for (identity, size, _), record in zip(catalog.segments(), records, strict=True):
            taken = record.resident_bytes if record is not None else 0
            taken_bytes += taken
            if identity in packs:
                padded_bytes += pages(size)
                padded_resident += taken
            else:
                large_bytes += size
                large_resident += min(size, taken)
        packed_bytes = catalog.summary.bytes - large_bytes
        packed_resident = padded_resident * packed_bytes // padded_bytes if padded_bytes else 0
        return Resident(large_resident + packed_resident, taken_bytes)
