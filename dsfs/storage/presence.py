"""Which blocks of a segment are here, and how far they are believed.

Concurrency: the segment's lock guards every change; a single byte may be looked at without it.
"""

from dsfs.model.blocks import BlockTable, pages

MISSING, UNCHECKED, TRUSTED = 0, 1, 2


class Presence(bytearray):
    """A byte a block: MISSING, UNCHECKED or TRUSTED.  Changed by the methods below only.

    INVARIANT: `bytes` is what the blocks that are not missing take, in whole pages.
    """

    def __init__(self, blocks: BlockTable) -> None:
        super().__init__(len(blocks))
        self._blocks = blocks
        self.bytes = 0

    @property
    def resident(self) -> int:
        """How many blocks are not missing."""
        return len(self) - self.count(MISSING)

    def mark(self, block: int, state: int) -> None:
        if (self[block] == MISSING) != (state == MISSING):
            taken = pages(self._blocks.length(block))
            self.bytes += taken if state else -taken
        self[block] = state

    def become(self, states: bytes) -> None:
        """Take these states for all blocks."""
        self[:] = states
        self.bytes = self._taken()

    def distrust(self) -> None:
        """Every block has to be checked before it is trusted again."""
        self[:] = self.replace(bytes([TRUSTED]), bytes([UNCHECKED]))

    def _taken(self) -> int:
        return sum(pages(self._blocks.length(block)) for block, state in enumerate(self) if state != MISSING)

    def check(self) -> None:
        """Assert the invariant (for tests)."""
        assert self.bytes == self._taken()
