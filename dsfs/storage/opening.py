"""Which files of a segment are there, and what they are good for: those of a seal, those of a filling, or none.

Concurrency: blocking; the segment's lock is held.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsfs.storage.blockmap import DamagedMapError
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, is_there, open_existing, refresh_names
from dsfs.storage.filling import Filling, NoRecordsError, Place, UnsealError, read_records
from dsfs.storage.sealed import SealedFile, is_unchanged
from dsfs.storage.segmentnames import beside, remove_old_names, remove_waste

log = logging.getLogger(__name__)

ATTEMPTS = 2  # at opening files whose names other nodes may change
# As fine as what leaves is chosen by (model/eviction.SAME_AGE_NS): a request for each segment and day, of all nodes.
USE_TOLD_EVERY_S = 86_400


def open_files(place: Place) -> SealedFile | Filling | None:
    """The sealed file, if it can be trusted; the files of a filling; None if neither is there.

    What cannot be used is removed, or made a filling whose blocks are checked before use.  OSError if the medium fails.
    """
    return _open_sealed(place) or _open_filling(place)


def _open_sealed(place: Place) -> SealedFile | Filling | None:
    path = place.path
    for _ in range(ATTEMPTS):
        reach("segment.open_sealed")
        fd = open_existing(path, place.fs)
        if fd is None:
            return None
        with _closed_unless_used(fd) as used:
            try:
                header, block_map = read_records(place, ".sum")
                if os.fstat(fd).st_nlink > 1:  # a crash between link and unlink left the old names
                    remove_old_names(path, fd, place.fs)
                stamp = (place.blocks.size, header.inode, header.mtime_ns)
                if is_unchanged(fd, stamp, place.fs):
                    _tell_use(path)
                    used.append(True)
                    return SealedFile(place.lock, fd, stamp, place.fs)
                if not has_name(fd, place):
                    continue
                # By somebody; the blocks that its checksums still vouch for are kept.
                _fault(place, "was changed after it was sealed; every block is checked before it is used again")
                return Filling.unseal(place, header, block_map)
            except OSError as exc:
                if exc.errno not in GONE:
                    raise
                continue  # another node has unsealed or removed it since it was opened
            except UnsealError as exc:
                _fault(place, "cannot be taken back, and is not believed: %s", exc)
                return None
            except DamagedMapError as exc:
                if not has_name(fd, place):
                    continue
                _fault(place, "has no usable checksums and is dropped: %s", exc)
                remove_waste(path, "", ".sum")
                return None
    return None


def tell_end_of_use(sealed: SealedFile | None, path: Path) -> None:
    """The segment is closed: what was open for days was used for days, and nobody has told."""
    if sealed is not None and time.monotonic() - sealed.opened_s >= USE_TOLD_EVERY_S:
        _tell_use(path)


def _tell_use(path: Path) -> None:
    """The mtime of a segment's checksums tells all nodes, to the day, when it was last used on any.

    What it is has just been learned with their open.  It is the server's; that this node's clock may differ matters
    only where it is off by a day: then a use is told with each open.
    """
    sums = beside(path, ".sum")
    try:
        reach("segment.tell_use")
        if abs(time.time() - os.stat(sums).st_mtime) >= USE_TOLD_EVERY_S:
            os.utime(sums)
    except OSError as exc:  # nothing is lost: it may leave sooner than it should
        log.debug("use of %s cannot be told: %s", path.name, exc)


def is_in_place(sealed: SealedFile, place: Place) -> bool:
    """Whether others find it, too: what was taken away is read on by who has it open, but not for ever."""
    return sealed.is_intact() and has_name(sealed.fd, place)


def has_name(fd: int, place: Place) -> bool:
    """Whether the open file is the sealed one still: another node may have taken it away, or sealed another."""
    refresh_names(place.path.parent, place.fs)
    try:
        return os.path.samestat(os.stat(place.path), os.fstat(fd))
    except OSError as exc:
        if exc.errno in GONE:
            return False
        raise


def _open_filling(place: Place) -> Filling | None:
    path = place.path
    for _ in range(ATTEMPTS):
        if not is_there(beside(path, ".map")):
            return None  # a .part alone is waste: nothing vouches for it
        try:
            return Filling.open(place)
        except (FileNotFoundError, NoRecordsError):
            refresh_names(path.parent, place.fs)  # sealed or begun anew by another node since the names were looked up
        except DamagedMapError as exc:
            _fault(place, "was being filled, but its map cannot be used and it is dropped: %s", exc)
            remove_waste(path, ".map", ".part")
            return None
    log.info("segment %s has a map but no data", path.name)
    remove_waste(path, ".map")  # a .part that is there by now is another node's
    return None


@contextmanager
def _closed_unless_used(fd: int) -> Iterator[list[bool]]:
    used: list[bool] = []
    try:
        yield used
    finally:
        if not used:
            os.close(fd)


def _fault(place: Place, what: str, *args: object) -> None:
    log.warning("segment %s " + what, place.path.name, *args)
