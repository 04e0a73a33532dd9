"""Reading a version through a mount, past the page cache, and comparing every byte with its source."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rig.lake import digest_file, make_lake

READERS = 8


@dataclass(frozen=True)
class SourceVersion:
    """A version at the origin: NAME/VERSION, its directory there, and the SHA-256 of every file."""

    name: str
    source: Path
    digests: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        return sum(self.size_of(name) for name in self.digests)

    def size_of(self, name: str) -> int:
        return (self.source / name).stat().st_size

    @property
    def large(self) -> list[str]:
        return [name for name in self.digests if name.startswith("large/")]

    @property
    def small(self) -> list[str]:
        return [name for name in self.digests if not name.startswith("large/")]

    def tree(self, mountpoint: Path) -> Path:
        return mountpoint / self.name

    def wrong_files(
        self, mountpoint: Path, names: Iterable[str] | None = None, *, readers: int = READERS
    ) -> list[str]:
        """Read all files (or those of `names`); the ones whose bytes are not the source's.

        A file that cannot be read is named with its error.
        """

        def judge(name: str) -> str | None:
            path = self.tree(mountpoint) / name
            try:
                forget_pages(path)
                return None if digest_file(path) == self.digests[name] else f"{name}: wrong bytes"
            except OSError as error:
                return f"{name}: {error.strerror}"

        with ThreadPoolExecutor(readers) as pool:
            return [wrong for wrong in pool.map(judge, self.digests if names is None else names) if wrong is not None]


def make_version(bucket: Path, name: str, **lake: Any) -> SourceVersion:
    """NAME/VERSION below datasets/ in the bucket, with the files of make_lake."""
    source = bucket / "datasets" / name
    return SourceVersion(name, source, make_lake(source, **lake))


def forget_pages(path: Path) -> None:
    """Take the file out of the kernel's page cache, so that the next read reaches the daemon."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def forget_tree(top: Path) -> None:
    """The same for every file below."""
    for path in top.rglob("*"):
        if path.is_file():
            forget_pages(path)


def read_at(path: Path, offset: int, size: int) -> bytes:
    """These bytes, without the kernel's readahead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)
