"""A bulletin: one document in the backing directory that whoever evicts replaces, and all nodes read.

    <backing>/shares      how much each version in use may hold (model/share.py)
    <backing>/standing    what the last round found (model/standing.py)

Concurrency: blocking calls; one thread at a time.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from dsfs.model import share, standing
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, bytes_of, mtime_ns, refresh_names, replace_direct

log = logging.getLogger(__name__)
T = TypeVar("T")


class Bulletin(Generic[T]):
    """The file at `path`.  `read` makes of its content what it says, and raises ValueError if it makes no sense."""

    def __init__(
        self, path: Path, fs: FileSystem, write: Callable[[T], bytes], read: Callable[[bytes], T], most_bytes: int
    ) -> None:
        self._path = path
        self._fs = fs
        self._write = write
        self._read = read
        self._most_bytes = most_bytes
        self._read_ns: int | None = None  # its mtime when it was read
        self._said: T | None = None

    def place(self, said: T) -> None:
        """Tell all nodes.  OSError."""
        reach("bulletin.place")
        replace_direct(self._path, self._write(said))

    def look(self) -> T | None:
        """What it says now; None if there is none, or it cannot be understood.  OSError.

        Costs 2 GETATTR, and 3 requests more when it was replaced.
        """
        reach("bulletin.look")
        refresh_names(self._path.parent, self._fs)
        try:
            changed_ns = mtime_ns(self._path)
            if changed_ns != self._read_ns:
                self._said = self._content()
                self._read_ns = changed_ns
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            self._said = self._read_ns = None
        return self._said

    def _content(self) -> T | None:
        content = bytes_of(self._path, self._most_bytes)
        try:
            return self._read(content)
        except ValueError as exc:
            log.info("%s cannot be understood, and says nothing: %s", self._path, exc)
            return None


def shares_at(path: Path, fs: FileSystem) -> Bulletin[share.Shares]:
    """How much each version in use may hold."""
    return Bulletin(path, fs, share.content_of, share.shares_in, share.MOST_BYTES)


def standing_at(path: Path, fs: FileSystem) -> Bulletin[standing.Standing]:
    """What the last round of eviction found."""
    return Bulletin(path, fs, standing.content_of, standing.standing_in, standing.MOST_BYTES)
