"""Claims: which blocks of a segment a node is fetching, so that the others wait for them and do not fetch them too.

A claim on a block is its range lock on the segment's map.  Claims save work; no byte rests on them: two nodes that
fetch one block write the same bytes.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from dsfs.model.errors import BlockLostError
from dsfs.storage.filesystem import GONE
from dsfs.storage.presence import MISSING
from dsfs.storage.segment import SegmentFile


class Claim(Enum):
    """What became of asking for blocks."""

    GRANTED = "granted"  # they are this node's to fetch
    HELD = "held"  # another node fetches one of them
    PARTLY = "partly"  # other nodes have filled some of them; nothing is claimed
    RESIDENT = "resident"  # other nodes have filled them all


def claim(file: SegmentFile, first: int, end: int) -> Claim:
    """Learn what other nodes have filled of the blocks first..end-1; claim them if all of them are still missing.

    BlockLostError if the segment was sealed or dropped at this moment: ask again.  OSError if the medium fails or
    cannot lock.
    """
    with _present(file), file.in_use(begin=True) as filling:
        if filling is None:
            return Claim.RESIDENT
        is_granted = filling.try_lock(first, end)
        is_kept = False
        try:
            # Only now: who held the claim before has recorded what it filled before it let go.
            file.learn(filling, first, end)
            found = _found(file, first, end)
            is_kept = is_granted and found is None
        finally:
            if is_granted and not is_kept:
                filling.unlock(first, end)
        if found is not None:
            return found
        return Claim.GRANTED if is_granted else Claim.HELD


def see(file: SegmentFile, first: int, end: int) -> Claim | None:
    """Learn the same without claiming or making anything: RESIDENT, PARTLY, or None if all blocks are missing."""
    with _present(file):
        file.look_again()
        with file.in_use() as filling:
            if filling is not None:
                file.learn(filling, first, end)
        return _found(file, first, end)


def release(file: SegmentFile, first: int, end: int) -> None:
    """Give up the claim on the blocks first..end-1; on a file that was sealed or dropped it has ended already."""
    with _present(file), file.in_use() as filling:
        if filling is not None:
            filling.unlock(first, end)


def look(file: SegmentFile) -> None:
    """Learn what other nodes have filled of all blocks."""
    see(file, 0, len(file.blocks))


def _found(file: SegmentFile, first: int, end: int) -> Claim | None:
    missing = file.presence.count(MISSING, first, end)
    if missing == end - first:
        return None
    return Claim.PARTLY if missing else Claim.RESIDENT


@contextmanager
def _present(file: SegmentFile) -> Iterator[None]:
    """What is gone is lost, and no fault of the medium."""
    try:
        yield
    except OSError as exc:
        if exc.errno in GONE:
            raise BlockLostError(f"segment {file.identity} was sealed or dropped meanwhile") from exc
        if exc.errno == errno.EIO:
            file.close()  # an NFS client fences a file whose locks were lost with its lease: it has to be opened anew
        raise
