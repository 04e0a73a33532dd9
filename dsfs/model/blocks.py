"""Block arithmetic: where the blocks of a segment lie, and which blocks a range of bytes touches.

A *large* segment holds one object, byte for byte at the same offsets, cut into equal blocks.  A *pack* holds
small objects, each one block, at offsets that are multiples of PAGE.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Protocol

PAGE = 4096  # bytes; what O_DIRECT asks of offsets and lengths on local file systems
BLOCK = 128 * 1024  # bytes; block of a large segment, and what one random read fetches
RUN = 4 * 1024 * 1024  # bytes; the most one run holds (GETs below 4 MiB cost 10-20 %: coldpath measurements)


def pages(length: int) -> int:
    """`length` in bytes rounded up to whole pages, in bytes."""
    return -(-length // PAGE) * PAGE


class BlockTable(Protocol):
    """Where the blocks of one segment lie."""

    @property
    def size(self) -> int:
        """Bytes of the segment's file."""

    def __len__(self) -> int:
        """Number of blocks."""

    def offset(self, block: int) -> int:
        """First byte of `block` in the segment; a multiple of PAGE."""

    def length(self, block: int) -> int:
        """Bytes of data in `block`."""

    def at(self, offset: int) -> int:
        """The block that holds byte `offset` of the segment."""

    def run_limit(self, first: int) -> int:
        """One past the last block that may share a run with `first`, when the run begins there."""


class UniformBlocks:
    """The blocks of a large object of `size` bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._count = -(-size // BLOCK)

    def __len__(self) -> int:
        return self._count

    def offset(self, block: int) -> int:
        return block * BLOCK

    def length(self, block: int) -> int:
        return min(BLOCK, self.size - block * BLOCK)

    def at(self, offset: int) -> int:
        return offset // BLOCK

    def run_limit(self, first: int) -> int:
        # Runs end on a fixed grid: otherwise each step of a growing window leaves a small GET behind.
        return min((first * BLOCK // RUN + 1) * (RUN // BLOCK), self._count)


class PackBlocks:
    """The blocks of a pack whose members have these lengths (bytes), each starting on the next page."""

    def __init__(self, lengths: Iterable[int]) -> None:
        self._lengths = array("I", lengths)
        ends = accumulate(pages(length) for length in self._lengths)
        self._offsets = array("Q", [0, *ends])
        self.size = self._offsets.pop()

    def __len__(self) -> int:
        return len(self._lengths)

    def offset(self, block: int) -> int:
        return self._offsets[block]

    def length(self, block: int) -> int:
        return self._lengths[block]

    def at(self, offset: int) -> int:
        return bisect_right(self._offsets, offset) - 1

    def run_limit(self, first: int) -> int:
        start = self._offsets[first]
        cell_end = (start // RUN + 1) * RUN
        block = bisect_right(self._offsets, cell_end - 1)
        # A member may begin inside the grid cell and end behind it: it joins only if the run still holds it.
        while block - 1 > first and self._offsets[block - 1] + self._lengths[block - 1] > start + RUN:
            block -= 1
        return block


def extent(blocks: BlockTable, first: int, end: int) -> tuple[int, int]:
    """(offset, length) in bytes that the blocks first..end-1 take in the segment, without the last one's padding."""
    start = blocks.offset(first)
    return start, blocks.offset(end - 1) + blocks.length(end - 1) - start
