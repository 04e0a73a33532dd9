"""Open: a catalog entry becomes an open file with its segment.

Concurrency: the trio thread.  An open asks the backing directory (one hop to its pool, the first time a
segment is used) and never the origin.
"""

from dataclasses import dataclass

from dsfs.cache.read import OpenFile
from dsfs.cache.runs import ActiveSegment
from dsfs.cache.segments import SegmentTable
from dsfs.cache.versions import Generation
from dsfs.model.blocks import BLOCK
from dsfs.storage.catalog import Entry
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.segment import State


@dataclass
class Opener:
    """Opens and releases files, and tells how much of one is resident."""

    segments: SegmentTable
    index: ResidencyIndex

    async def open(self, generation: Generation, entry: Entry) -> OpenFile:
        """The file, with its segment kept open until `release`."""
        segment = await self.segment(generation, entry) if entry.size else None
        generation.open_files += 1
        return OpenFile(generation, segment, entry.offset, entry.size)

    async def segment(self, generation: Generation, entry: Entry) -> ActiveSegment:
        """The opened segment that holds the file; the caller is to release it."""
        version, catalog = generation.version, generation.catalog
        origin = version.dataset.origin
        if entry.pack >= 0:
            pack = catalog.pack(entry.pack)
            segment = await self.segments.of_pack(origin, catalog, pack, version.note_drift)
        else:
            obj, identity = catalog.object_of(entry), generation.identity_of(entry)
            segment = await self.segments.of_object(origin, obj, identity, version.note_drift)
        segment.owner = generation.key
        return segment

    def release(self, file: OpenFile) -> None:
        file.generation.open_files -= 1
        if file.segment is not None:
            file.segment.release()

    async def resident_blocks(self, generation: Generation, entry: Entry) -> tuple[int, int]:
        """(resident, all) blocks of the file: as the open segment knows, else as the index remembers."""
        if entry.size == 0:
            return 0, 0
        total = 1 if entry.pack >= 0 else -(-entry.size // BLOCK)
        identity = generation.identity_of(entry)
        segment = self.segments.find(identity)
        # One that is not opened yet, or could not be, knows of no block.
        if segment is not None and segment.file.state is not State.CLOSED:
            presence = segment.file.presence
            if entry.pack >= 0:
                return int(presence[entry.member] != 0), 1
            return len(presence) - presence.count(0), total
        record = self.index.get(identity)
        if record is None:
            return 0, total
        return (int(record.has(entry.member)), 1) if entry.pack >= 0 else (record.resident_blocks, total)
