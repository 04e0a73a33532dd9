"""Byte-range locks that all nodes see: one for each block, on a file they share.

The lock of block b is that of byte LOCK_BASE + b, far behind the last byte of the file: there are servers whose locks
stop reads and writes by others.  Locks belong to the open file (F_OFD_*), so the node's threads share them, they end
when the file is closed, and those of a process that died end with it.  A lock is asked for and never waited for: a
waiting one was granted 29 s late over NFS, and even asking may take a minute while a server restarts.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import errno
import fcntl
import os
import struct

from dsfs.storage.faultpoint import reach

LOCK_BASE = 1 << 62
SEAL = -1  # in place of a block: held by the node that seals
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, pid
_HELD = frozenset({errno.EAGAIN, errno.EACCES})
CANNOT_LOCK = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


def try_lock(fd: int, first: int, end: int) -> bool:
    """Lock the blocks first..end-1; False if another open file has a lock on one of them.

    OSError if the file system cannot lock (ENOLCK, EOPNOTSUPP), or if a lost lease has fenced the file (EIO).
    """
    reach("rangelock.lock")
    try:
        _set(fd, fcntl.F_WRLCK, first, end)
    except OSError as exc:
        if exc.errno in _HELD:
            return False
        raise
    return True


def unlock(fd: int, first: int, end: int) -> None:
    """Unlock those of the blocks first..end-1 that are locked."""
    reach("rangelock.unlock")
    _set(fd, fcntl.F_UNLCK, first, end)


def locked_by_others(fd: int, first: int, end: int) -> tuple[int, int] | None:
    """Blocks among first..end-1 that another open file has locked: (first, end) of one lock, or None."""
    reach("rangelock.test")
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _described(fcntl.F_WRLCK, first, end))
    kind, _, start, length, _ = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return None
    start -= LOCK_BASE
    return max(start, first), min(start + length, end) if length else end


def _set(fd: int, kind: int, first: int, end: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _described(kind, first, end))


def _described(kind: int, first: int, end: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, LOCK_BASE + first, end - first, 0)
