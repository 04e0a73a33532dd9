"""What a warm has to see to: the segments of a version, or the blocks of them that a pattern selects.

Memory: three numbers a segment, and with a pattern one bit a file.

Concurrency: made in a worker thread; afterwards the trio thread owns it.
"""

import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from dsfs.model.pathglob import PathGlob
from dsfs.storage.catalog import Catalog, Entry
from dsfs.storage.catalog_format import ROOT
from dsfs.storage.residency import ResidencyIndex

CHECK_EVERY = 1000  # files between two looks at whether the plan is still wanted

Stretch = tuple[int, int]  # blocks first..end-1


@dataclass
class Plan:
    """A place for each segment: `entries` names a file in it, `sizes` is what is wanted of it in bytes, `resident` what
    of that is known to be resident.  `selected`: a bit for each entry of the catalog; None = every file.

    INVARIANT: `total` and `done` are the sums of `sizes` and of `resident`.
    """

    catalog: Catalog
    selected: bytearray | None
    entries: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("Q"))
    resident: "array[int]" = field(default_factory=lambda: array("Q"))
    total: int = 0
    done: int = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: int, size: int, resident: int) -> None:
        self.entries.append(entry)
        self.sizes.append(size)
        self.resident.append(min(size, resident))
        self.total += size
        self.done += self.resident[-1]

    def note(self, place: int, missing: int) -> None:
        """So many bytes of what is wanted of that segment are missing."""
        resident = self.sizes[place] - missing
        self.done += resident - self.resident[place]
        self.resident[place] = resident

    def entry(self, place: int) -> Entry:
        """A file that lies in the segment."""
        return self.catalog.entry(self.entries[place])

    def stretches(self, entry: Entry, blocks: int) -> list[Stretch]:
        """Which of the blocks of the entry's segment are wanted."""
        if self.selected is None or entry.pack < 0:
            return [(0, blocks)]
        found: list[Stretch] = []
        for block, index in enumerate(self.catalog.member_indexes(entry.pack)):
            if _has(self.selected, index):
                if found and found[-1][1] == block:
                    found[-1] = (found[-1][0], block + 1)
                else:
                    found.append((block, block + 1))
        return found


def make_plan(catalog: Catalog, index: ResidencyIndex, glob: PathGlob | None, check: Callable[[], None]) -> Plan:
    """In a worker thread.  `check` is called now and then, and may raise what ends this.

    What is resident is what the index remembers, spread evenly over the files of a pack, until somebody looks.
    """
    plan = Plan(catalog, None if glob is None else _selected(catalog, glob, check))
    for number in range(catalog.summary.packs):
        check()
        indexes, sizes = catalog.member_indexes(number), catalog.member_sizes(number)
        if plan.selected is not None:
            kept = [place for place, entry in enumerate(indexes) if _has(plan.selected, entry)]
            indexes, sizes = array("Q", [indexes[place] for place in kept]), [sizes[place] for place in kept]
        if indexes:
            pack = catalog.pack(number)
            record = index.get(pack.identity)
            size = sum(sizes)
            plan.add(indexes[0], size, size * min(record.resident_bytes, pack.size) // pack.size if record else 0)
    for place, (entry, identity, size) in enumerate(catalog.large_objects()):
        if place % CHECK_EVERY == 0:
            check()
        if plan.selected is None or _has(plan.selected, entry):
            record = index.get(identity)
            plan.add(entry, size, record.resident_bytes if record else 0)
    return plan


def _selected(catalog: Catalog, glob: PathGlob, check: Callable[[], None]) -> bytearray:
    """A bit for each entry: whether the pattern selects it."""
    chosen = bytearray()
    folders, seen = [(ROOT, glob.start)], 0
    while folders:
        folder, state = folders.pop()
        for entry in catalog.children(folder):
            seen += 1
            if seen % CHECK_EVERY == 0:
                check()
            below = glob.step(state, os.fsdecode(entry.name))
            if below and entry.is_dir:
                folders.append((entry.index, below))
            elif glob.selects(below):
                byte, bit = divmod(entry.index, 8)
                chosen.extend(bytes(max(0, byte + 1 - len(chosen))))
                chosen[byte] |= 1 << bit
    return chosen


def _has(bits: bytearray, index: int) -> bool:
    byte, bit = divmod(index, 8)
    return byte < len(bits) and bool(bits[byte] >> bit & 1)
