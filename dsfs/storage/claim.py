"""Claims: which blocks of a segment a node is fetching, so that the others wait for them and do not fetch them too.

A claim on a block is its range lock on the segment's map.  Claims save work; no byte rests on them: two nodes that
fetch one block write the same bytes.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from dsfs.model.errors import BlockLostError
from dsfs.storage.filesystem import GONE
from dsfs.storage.filling import Filling
from dsfs.storage.presence import MISSING
from dsfs.storage.segment import SegmentFile

# So long it is believed that a filling goes on.  The map of one that was sealed says that all blocks are there, and in
# that of one that was dropped the node fills in vain.
CURRENT_S = 0.5
ATTEMPTS = 4  # at finding out how far a claim may reach, while other nodes claim and let go


class Answer(Enum):
    """What became of asking for a block."""

    GRANTED = "granted"  # it is this node's to fetch
    HELD = "held"  # another node fetches it
    RESIDENT = "resident"  # another node has filled it


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer for the first of the blocks that were asked for, and for all that follow it before `end`.

    Of the blocks from `end` on nothing is said, and nothing is claimed.
    """

    answer: Answer
    end: int


def claim(file: SegmentFile, first: int, end: int) -> Claim:
    """Learn what other nodes have filled of the blocks first..end-1; claim as many as may be claimed from `first` on.

    BlockLostError if the segment was sealed or dropped, or lost its claims, at this moment: ask again.  OSError if the
    medium fails or cannot lock.
    """
    with _present(file), file.in_use(begin=True, believed_s=CURRENT_S) as filling:
        if filling is None:
            return Claim(Answer.RESIDENT, end)
        is_ours, lock_end = _lock(filling, first, end)
        kept_end = first
        try:
            # Only now: who held the claim before has recorded what it filled before it let go.
            file.learn(filling, first, end)
            is_missing, like_end = _like_the_first(file, first, end)
            if not is_missing:
                return Claim(Answer.RESIDENT, like_end)
            if not is_ours:
                return Claim(Answer.HELD, min(lock_end, like_end))
            kept_end = min(lock_end, like_end)
            return Claim(Answer.GRANTED, kept_end)
        finally:
            if is_ours and kept_end < lock_end:
                filling.unlock(kept_end, lock_end)


def _lock(filling: Filling, first: int, end: int) -> tuple[bool, int]:
    """Lock the blocks from `first` on, as far as other nodes let us.

    Returns whether `first` is locked now, and one past the last block of which the same can be said.
    """
    for _ in range(ATTEMPTS):
        if filling.try_lock(first, end):
            return True, end
        theirs = filling.locked_by_others(first, end)
        if theirs is not None:
            if theirs[0] == first:
                return False, theirs[1]
            end = theirs[0]
    return False, first + 1


def see(file: SegmentFile, first: int, end: int) -> Claim | None:
    """Learn the same without claiming or making anything; None if the first block is missing."""
    with _present(file):
        file.look_again()
        with file.in_use() as filling:
            if filling is not None:
                file.learn(filling, first, end)
        is_missing, like_end = _like_the_first(file, first, end)
        return None if is_missing else Claim(Answer.RESIDENT, like_end)


def release(file: SegmentFile, first: int, end: int) -> None:
    """Give up the claim on the blocks first..end-1; on a file that was sealed or dropped it has ended already."""
    with _present(file), file.in_use() as filling:
        if filling is not None:
            filling.unlock(first, end)


def look(file: SegmentFile) -> None:
    """Learn what other nodes have filled of all blocks."""
    see(file, 0, len(file.blocks))


def _like_the_first(file: SegmentFile, first: int, end: int) -> tuple[bool, int]:
    """Whether the block `first` is missing, and one past the last of those behind it that are the same."""
    is_missing = file.presence[first] == MISSING
    until = first + 1
    while until < end and (file.presence[until] == MISSING) == is_missing:
        until += 1
    return is_missing, until


@contextmanager
def _present(file: SegmentFile) -> Iterator[None]:
    """What is gone or was fenced is lost, and no fault of the medium."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EIO:  # an NFS client fences a file whose locks were lost with its lease
            file.look_again(anew=True)
            raise BlockLostError(f"segment {file.identity}: the claims on it were lost") from exc
        if exc.errno in GONE:
            file.look_again()  # else what was believed of its name would still be, when it is asked for again
            raise BlockLostError(f"segment {file.identity} was sealed or dropped meanwhile") from exc
        raise
