"""A sealed segment, open: complete and immutable, so read through the page cache, for as long as fstat says so.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import errno
import os
import threading
import time

from dsfs.model.readahead import MIB
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, attributes_of
from dsfs.storage.openfiles import OpenFiles

Stamp = tuple[int, int, int]

# EBADF: so says NFSv4 of a file that was removed while open, once the server has been restarted.
REMOVED = GONE | {errno.EBADF}


def stamp_of(fd: int, *, anew: bool = False) -> Stamp:
    """What changes when somebody writes to the file: size in bytes, inode, mtime in ns."""
    found = attributes_of(fd, anew=anew)
    return found.size, found.inode, found.mtime_ns


def is_unchanged(fd: int, stamp: Stamp, fs: FileSystem) -> bool:
    """Whether the stamp holds; before an NFS client is believed that it does not, it has to ask the server."""
    if stamp_of(fd) == stamp:
        return True
    return fs.is_network and stamp_of(fd, anew=True) == stamp


_cached = memoryview(bytearray(MIB))  # as much as a READ asks for; one for all, not a new mebibyte for each


class SealBrokenError(Exception):
    """The file was changed after it was sealed, or removed."""


class SealedFile(OpenFiles):
    """The open file, and what fstat must say of it.  `opened_s`: since when, by the monotonic clock."""

    def __init__(self, lock: threading.RLock, fd: int, stamp: Stamp, fs: FileSystem) -> None:
        super().__init__(lock)
        self.fd = fd
        self.stamp = stamp
        self.opened_s = time.monotonic()
        self._fs = fs

    def close(self) -> None:
        os.close(self.fd)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`.  SealBrokenError, or OSError if the medium fails."""
        try:
            reach("segment.read")
            got = os.pread(self.fd, size, offset)
            # NFSv3 brings attributes with the bytes, NFSv4 does not: mounted with noatime, its client would go on
            # believing what it knows of the file, for a minute and more, while the bytes are already others.
            self._check(anew=self._fs.is_network and self._fs.kind != "nfs")
        except OSError as exc:
            if exc.errno in REMOVED:
                raise SealBrokenError(exc.strerror) from exc
            raise
        if len(got) != size:
            raise SealBrokenError(f"{len(got)} bytes instead of {size} at {offset}")
        return got

    def read_cached(self, offset: int, size: int) -> memoryview | None:
        """The same if the page cache has all of it, else None: never waits for the medium.

        Of one thread only: the next call overwrites what the last returned.
        """
        got = _cached[:size] if size <= MIB else memoryview(bytearray(size))
        try:
            count = os.preadv(self.fd, [got], offset, os.RWF_NOWAIT)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise
        self._check()
        return got if count == size else None

    def _check(self, *, anew: bool = False) -> None:
        """To be asked after a read: a write sets the mtime before it changes a byte."""
        found = attributes_of(self.fd, anew=anew)
        if not found.links or (found.size, found.inode, found.mtime_ns) != self.stamp:
            raise SealBrokenError("it was changed or removed")

    def is_intact(self) -> bool:
        """Whether it is still what was sealed, as the server says; OSError if the medium fails."""
        try:
            self._check(anew=self._fs.is_network)
        except SealBrokenError:
            return False
        except OSError as exc:
            if exc.errno in REMOVED:
                return False
            raise
        return True
