"""After a crash, or the loss of the residency index: what is waste is removed, the index is made from the maps.

Concurrency: blocking; may run beside fills and drops, whose records in the index are newer and stay.
"""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dsfs.model.blocks import PAGE, pages
from dsfs.storage import blockmap
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.blockmap import DamagedMapError, MapHeader
from dsfs.storage.residency import ResidencyIndex, SegmentRecord, bitmap_of, hour_of
from dsfs.storage.tidy import tidy

log = logging.getLogger(__name__)

BATCH = 1000
SEALED_SUFFIX, MAP_SUFFIX = ".sum", ".map"


def recover(
    index: ResidencyIndex, backing: BackingDirectory, is_in_use: Callable[[str], bool] = lambda identity: False
) -> None:
    """Tidy and rebuild.

    A backing directory that cannot be read leaves the index as it is, for the next start: that costs no reader.
    """
    try:
        tidy(backing, is_in_use)
        rebuild(index, backing)
    except OSError as exc:
        index.rebuild_later()
        log.warning("the residency index is not rebuilt, the backing directory cannot be read: %s", exc)


def rebuild(index: ResidencyIndex, backing: BackingDirectory) -> int:
    """Make the index say what the backing directory holds; returns the number of segments found."""
    before = index.identities()  # what is filled for the first time from now on is not ours to judge
    found: set[str] = set()
    batch: list[SegmentRecord] = []
    with index.rebuilding():
        for record in _records(backing):
            found.add(record.identity)
            batch.append(record)
            if len(batch) == BATCH:
                index.put_found(batch)
                batch = []
        gone = [SegmentRecord(identity, False, 0, 0, 0) for identity in before if identity not in found]
        index.put_found([*batch, *gone])
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
    data = os.stat(path.with_suffix(""))
    _check(path, header, data.st_size)
    size = pages(header.size)
    return SegmentRecord(header.identity, True, size, header.count, header.count, used_hour=hour_of(data.st_mtime))


def _check(path: Path, header: MapHeader, size: int) -> None:
    if header.identity != path.stem:
        raise DamagedMapError(f"it describes {header.identity}")
    if size < header.size:  # which blocks that took, its next open will find
        raise DamagedMapError(f"{size} of {header.size} bytes are left")


def _filling(path: Path) -> SegmentRecord:
    content = path.read_bytes()
    header, _ = blockmap.decode_header(content)
    _, block_map = blockmap.decode(content, header.identity, header.count, header.size, sealed=False)
    presence = block_map.presence(1)
    resident = presence.count(1)
    data = os.stat(path.with_suffix(".part"))
    if resident:  # else a crash may have come before the data had its size
        _check(path, header, data.st_size)
    # What the file takes, not what its records add up to: a crash may have left data without its record, and the
    # lengths of a pack's blocks stand in the catalog only.  It is put right when somebody opens the segment.
    return SegmentRecord(
        header.identity,
        False,
        min(data.st_blocks * 512, pages(header.size)),
        resident,
        header.count,
        bitmap_of(presence),
        hour_of(data.st_mtime),
    )
