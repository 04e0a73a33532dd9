"""Rebuilding the residency index from the maps, after a crash or the loss of the index.

Concurrency: blocking; may run beside fills: a segment that is filled meanwhile is written to the index again
by its filler.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from dsfs.model.blocks import BLOCK, PAGE, pages
from dsfs.storage import blockmap
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.blockmap import DamagedMapError
from dsfs.storage.residency import ResidencyIndex, SegmentRecord, bitmap_of

log = logging.getLogger(__name__)

BATCH = 1000
SEALED_SUFFIX, MAP_SUFFIX = ".sum", ".map"


def rebuild(index: ResidencyIndex, backing: BackingDirectory) -> int:
    """Make the index say what the backing directory holds; returns the number of segments found."""
    before = index.identities()  # what is filled for the first time from now on is not ours to judge
    found: set[str] = set()
    batch: list[SegmentRecord] = []
    for record in _records(backing):
        found.add(record.identity)
        batch.append(record)
        if len(batch) == BATCH:
            index.put(batch)
            batch = []
    gone = [SegmentRecord(identity, False, 0, 0, 0) for identity in before if identity not in found]
    index.put([*batch, *gone])
    log.info("residency index rebuilt: %d segments, %d no longer there", len(found), len(gone))
    return len(found)


def _records(backing: BackingDirectory) -> Iterator[SegmentRecord]:
    """What each `.sum` with its sealed file, or each `.map` with its `.part`, says is resident."""
    for entry in backing.segment_files():
        path = Path(entry.path)
        try:
            if path.suffix == SEALED_SUFFIX:
                yield _sealed(path)
            elif path.suffix == MAP_SUFFIX and not path.with_suffix("").exists():
                yield _filling(path)
        except FileNotFoundError:
            continue  # a crash left half of it, or another node is at work; the next open of the segment tidies up
        except (OSError, DamagedMapError) as exc:
            log.warning("%s is left out of the index: %s", path.name, exc)


def _sealed(path: Path) -> SegmentRecord:
    with path.open("rb") as file:
        header, _ = blockmap.decode_header(file.read(PAGE))
    size = os.stat(path.with_suffix("")).st_size
    return SegmentRecord(header.identity, True, pages(min(size, header.size)), header.count, header.count)


def _filling(path: Path) -> SegmentRecord:
    content = path.read_bytes()
    header, _ = blockmap.decode_header(content)
    os.stat(path.with_suffix(".part"))
    _, block_map = blockmap.decode(content, header.identity, header.count, header.size, sealed=False)
    presence = block_map.presence(1)
    resident = presence.count(1)
    # The lengths of a pack's blocks stand in the catalog only: its share is an estimate until somebody opens
    # the segment.
    is_uniform = header.count == -(-header.size // BLOCK)
    resident_bytes = resident * BLOCK if is_uniform else header.size * resident // max(header.count, 1)
    return SegmentRecord(
        header.identity,
        False,
        min(resident_bytes, pages(header.size)),
        resident,
        header.count,
        bitmap_of(presence),
    )
