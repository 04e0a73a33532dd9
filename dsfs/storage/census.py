"""What lies in the backing directory, how much it takes and to which generations it belongs, without a walk.

The answers are those of the last round (censusscan.py), with what was noted since (censusnotes.py).  What a generation
holds is kept and not added up, and its segments are read when they are asked for.

Concurrency: one thread scans and notes, any number ask.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dsfs.model.nodes import VersionKey
from dsfs.model.retention import Amount
from dsfs.model.trashname import TrashedFile, stamp_in
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.censusfile import CensusFile
from dsfs.storage.censusnotes import Notes
from dsfs.storage.censusscan import MOST_ENTRIES, Scan, Scanner, is_of_segments
from dsfs.storage.leftovers import ABANDONED_S


@dataclass(frozen=True, slots=True)
class HeldGeneration:
    """A generation in the backing directory.

    `size_bytes`: what its segments take when all of them are sealed; `held`: what is there of them.  `is_current`: it
    has the highest sequence number of its version.  `made_ns`: when the newest of its objects was made, or when it was
    placed where that is not known; `placed_ns`: when its catalog was put there.
    """

    key: VersionKey
    size_bytes: int
    held: Amount
    sequence: int
    is_current: bool
    made_ns: int
    placed_ns: int


class HeldSegment(NamedTuple):
    """A segment in the backing directory.  `used_ns`: when it was filled or, to the day, last used; `others`: other
    generations that it is of.
    """

    identity: str
    size_bytes: int
    inodes: int
    used_ns: int
    others: tuple[VersionKey, ...]


class Census:
    """`path`: of its file, on local disk, which may be lost; BackingError if that refuses."""

    def __init__(self, path: Path, backing: BackingDirectory) -> None:
        self._file = CensusFile(path, backing.cluster)
        self._scanner = Scanner(self._file, backing, path.with_name(f"{path.name}.catalog"))

    def close(self) -> None:
        """When no thread is inside."""
        self._file.close()

    def scan(self, now_ns: int, most_entries: int = MOST_ENTRIES) -> Scan:
        """One round, at this time of the server.

        OSError if the backing directory is not at its place, or cannot be seen: then the answers are not to be used.
        BackingError if the local disk refuses.
        """
        return self._scanner.scan(now_ns, most_entries)

    @contextmanager
    def noting(self, now_ns: int) -> Iterator[Notes]:
        """What this thread hides and deletes in the block is known at its end, also if that is an error; BackingError
        if the local disk refuses.
        """
        notes = Notes(self._file, now_ns)
        try:
            yield notes
        finally:
            notes.write()

    def total(self) -> Amount:
        """What everything takes that dsfs has in the backing directory, with what was taken away."""
        size_bytes = inodes = 0
        for folder in self._file.all_folders():
            size_bytes += folder.size_bytes + sum(size for _, size, _ in folder.trash)
            inodes += folder.inodes + sum(count for _, _, count in folder.trash)
        return Amount(size_bytes, inodes)

    def trash(self) -> list[TrashedFile]:
        """What was taken away and is not deleted yet, the oldest first."""
        found = [
            TrashedFile(f"{folder.path}/{name}", stamp_in(name) or 0, Amount(size_bytes, inodes))
            for folder in self._file.all_folders()
            for name, size_bytes, inodes in folder.trash
        ]
        return sorted(found, key=lambda trashed: trashed.stamp_ns)

    def generations(self) -> list[HeldGeneration]:
        """Every generation, in the order of their keys."""
        known = [generation for _, generation in self._file.all_generations()]
        highest: dict[tuple[str, str], int] = {}
        for generation in known:
            dataset, version, _ = generation.key
            highest[dataset, version] = max(generation.sequence, highest.get((dataset, version), 0))
        found = [
            HeldGeneration(
                generation.key,
                generation.size_bytes,
                Amount(generation.held_bytes, generation.held_inodes),
                generation.sequence,
                generation.sequence == highest[generation.key[0], generation.key[1]],
                generation.made_ns,
                generation.placed_ns,
            )
            for generation in known
        ]
        return sorted(found, key=lambda generation: generation.key)

    def segments_of(self, key: VersionKey) -> Iterator[HeldSegment]:
        """What is there of a generation, in the order of identities."""
        dataset, version, generation = key
        number = self._file.numbers_of(dataset, version).get(generation)
        if number is None:
            return
        for identity, entry in self._file.held_of(number):
            others = tuple(self._keys_of(owner for owner in entry.owners if owner != number))
            yield HeldSegment(identity.hex(), entry.size_bytes, entry.inodes, entry.used_ns, others)

    def has(self, identity: str) -> bool:
        """Whether something of the segment is there that was not taken away."""
        return any(self._file.entries([bytes.fromhex(identity)]))

    def owners_of(self, identity: str) -> list[VersionKey]:
        """The generations that the segment is of, whether anything of it is there or not."""
        return list(self._keys_of(self._file.owners_of(bytes.fromhex(identity))))

    def _keys_of(self, numbers: Iterable[int]) -> Iterator[VersionKey]:
        return (key for number in numbers if (key := self._file.key_of(number)) is not None)

    def orphans(self) -> Iterator[HeldSegment]:
        """Segments of no generation while each was looked at, and for an hour before; not filled or used since."""
        folders = self._file.all_folders()
        if any(folder.unknown for folder in folders):
            return
        seen_ns = min((folder.seen_ns for folder in folders if not is_of_segments(folder.path)), default=0)
        before_ns = seen_ns - round(ABANDONED_S * 1e9)
        old = (identity for identity, since_ns in self._file.orphans() if since_ns <= before_ns)
        for identity, entry in self._file.entries(old):
            if entry.is_orphan and entry.used_ns <= before_ns:
                yield HeldSegment(identity.hex(), entry.size_bytes, entry.inodes, entry.used_ns, ())
