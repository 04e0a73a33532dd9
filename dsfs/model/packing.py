"""Which small objects share a pack: packs are cut by content, so that one new file shifts few of them.

Where a pack ends follows from the fingerprints of its members, not from how many came before.  Two lists that
differ in one file are cut at different places around it and, as soon as they share one cut, alike from there
on.
"""

from dsfs.model.blocks import pages

SMALL_MAX = 4 * 1024 * 1024  # bytes; larger objects have a segment of their own
PACK_MIN = 8 * 1024 * 1024  # bytes; no cut before this (the last pack of a version may be smaller)
PACK_MAX = 64 * 1024 * 1024  # bytes; no pack is larger
# Bytes from PACK_MIN to the next cut, were there no PACK_MAX; with it, packs have 32 MiB on average.
CUT_DISTANCE = 28 * 1024 * 1024


class PackCutter:
    """Tells, member by member in catalog order, where packs begin."""

    def __init__(self) -> None:
        self._size = 0  # bytes of the present pack, members padded to whole pages
        self._is_cut = True  # the next member begins a pack

    def begins_pack(self, fingerprint: bytes, size: int) -> bool:
        """Take the next member (1 to SMALL_MAX bytes) and tell whether it is the first of a pack."""
        taken = pages(size)
        begins = self._is_cut or self._size + taken > PACK_MAX
        self._size = taken if begins else self._size + taken
        # Larger members cut more often: so the distance of cuts does not depend on the sizes of the files.
        chance = int.from_bytes(fingerprint[:8], "big") * CUT_DISTANCE >> 64
        self._is_cut = self._size >= PACK_MIN and chance < taken
        return begins
