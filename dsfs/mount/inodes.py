"""Inodes: numbers that say what they mean, so that nothing is kept for each of millions of files.

    1                                  the mountpoint
    tag << 33 | 0                      a dataset, a version, or the root of a newer generation
    tag << 33 | index                  an entry of a generation's catalog

A tag is 30 bits of a digest of the names, so a file has the same inode after a restart and on every node.
Two that collide get neighbouring tags.
"""

from dataclasses import dataclass
from hashlib import blake2b

from dsfs.cache.versions import Dataset, Generation, Version

ROOT = 1
INDEX_BITS = 33
TAG_MASK = (1 << 30) - 1

Holder = Dataset | Version | Generation


@dataclass(frozen=True, slots=True)
class Place:
    """What an inode stands for: a dataset or version (index 0), or entry `index` of a generation."""

    holder: Holder
    index: int


class Inodes:
    """INVARIANT: `_tags[_names[name]]` is the holder of that name; a tag once given is never given to another."""

    def __init__(self) -> None:
        self._tags: dict[int, Holder] = {}
        self._names: dict[str, int] = {}

    def of_dataset(self, dataset: Dataset) -> int:
        return self._tag(f"dataset\0{dataset.name}", dataset) << INDEX_BITS

    def of_version(self, version: Version) -> int:
        """The version's own inode; once it has been refreshed, that of the newest generation's root, so that
        the kernel forgets
        the names of the old one.
        """
        if version.current is not version.first:
            return self.of_entry(version.generations[-1], 0)
        return self._tag(f"version\0{version.dataset.name}\0{version.name}", version) << INDEX_BITS

    def of_entry(self, generation: Generation, index: int) -> int:
        version = generation.version
        name = f"generation\0{version.dataset.name}\0{version.name}\0{generation.id}"
        return self._tag(name, generation) << INDEX_BITS | index

    def place(self, inode: int) -> Place | None:
        """None if this daemon has never given out that inode."""
        holder = self._tags.get(inode >> INDEX_BITS)
        return None if holder is None else Place(holder, inode & (1 << INDEX_BITS) - 1)

    def _tag(self, name: str, holder: Holder) -> int:
        tag = self._names.get(name)
        if tag is None:
            tag = (
                int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).digest())
                & TAG_MASK
            )
            while tag == 0 or tag in self._tags:
                tag = (tag + 1) & TAG_MASK
            self._names[name] = tag
            self._tags[tag] = holder
        return tag
