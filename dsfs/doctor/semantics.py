"""Whether the file system of the backing directory does what dsfs rests on: tried out in a folder."""

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsfs.doctor.judgement import directory as judge
from dsfs.storage.filesystem import DirectFile, attributes_of, file_system_of
from dsfs.storage.rangelock import CANNOT_LOCK, LOCK_BASE, try_lock, unlock

BLOCK = 64 * 1024
_LOCKS = 20
_TICK_S = 0.05  # longer than any file server's smallest step of time
_FIRST_BYTE = -LOCK_BASE  # as a block's number: the first byte of the file itself


@contextmanager
def opened(path: Path, size: int | None = None) -> Iterator[DirectFile]:
    """The file, made with that size if one is given."""
    file = DirectFile(path, size=size)
    try:
        yield file
    finally:
        os.close(file.fd)


def random_block(size: int = BLOCK) -> memoryview:
    """Fresh bytes at an address that O_DIRECT takes."""
    block = mmap.mmap(-1, size)
    block.write(os.urandom(size))
    return memoryview(block)


def read_block(file: DirectFile, offset: int) -> bytes:
    buffer = memoryview(mmap.mmap(-1, BLOCK))
    return bytes(buffer[: file.read(buffer, BLOCK, offset)])


def direct(folder: Path) -> judge.Direct:
    block = random_block()
    with opened(folder / "direct", size=BLOCK) as file:
        file.write(block, BLOCK, 0)
        is_same = read_block(file, 0) == bytes(block)
        return judge.Direct(file_system_of(folder).kind, file.is_direct, is_same)


def sparse(folder: Path) -> bool:
    block = random_block()
    with opened(folder / "sparse", size=64 * BLOCK) as file:
        file.write(block, BLOCK, 32 * BLOCK)
        return read_block(file, 31 * BLOCK) == bytes(BLOCK) and read_block(file, 32 * BLOCK) == bytes(block)


def names(folder: Path) -> judge.Names:
    one, two = folder / "names-1", folder / "names-2"
    for path in (one, two):
        path.mkdir()
    (one / "file").touch()
    return judge.Names(
        link=_errno_of(lambda: os.link(one / "file", one / "link")),
        again=_errno_of(lambda: os.link(one / "file", one / "link")),
        across=_errno_of(lambda: os.link(one / "file", two / "link")),
        rename=_errno_of(lambda: os.rename(one / "link", one / "renamed")),
        rename_across=_errno_of(lambda: os.rename(one / "file", two / "renamed")),
    )


def _errno_of(attempt: Callable[[], object]) -> int:
    try:
        attempt()
    except OSError as exc:
        return exc.errno or -1
    return 0


def locks(folder: Path) -> judge.Locks:
    path = folder / "locks"
    with opened(path, size=0) as second:
        with opened(path) as first:
            try:
                try_lock(first.fd, 0, 1)
            except OSError as exc:
                if exc.errno not in CANNOT_LOCK:
                    raise
                return judge.Locks(exc.errno or -1, excludes=False, is_freed=False)
            excludes = not try_lock(second.fd, 0, 1)
        return judge.Locks(0, excludes, is_freed=try_lock(second.fd, 0, 1))


def lock_time(folder: Path) -> float:
    longest_s = 0.0
    with opened(folder / "lock-time", size=0) as file:
        for block in range(_LOCKS):
            started = time.monotonic()
            try_lock(file.fd, block, block + 1)
            longest_s = max(longest_s, time.monotonic() - started)
            unlock(file.fd, block, block + 1)
    return longest_s


def lock_bytes(folder: Path) -> int:
    path = folder / "lock-bytes"
    block = random_block()
    with opened(path, size=BLOCK) as holder, opened(path) as other:
        holder.write(block, BLOCK, 0)
        try_lock(holder.fd, _FIRST_BYTE, _FIRST_BYTE + 1)
        return touch_locked(other, block)


def lock_first_byte(file: DirectFile) -> None:
    try_lock(file.fd, _FIRST_BYTE, _FIRST_BYTE + 1)


def touch_locked(file: DirectFile, block: memoryview) -> int:
    """Errno of reading and writing the first block, whose first byte another open file has locked; 0 = it works."""
    return _errno_of(lambda: read_block(file, 0)) or _errno_of(lambda: file.write(block, BLOCK, 0))


def clock(folder: Path) -> judge.Clock:
    ahead = []
    for name in ("clock-1", "clock-2"):
        (folder / name).mkdir()
        ahead.append(server_ahead_s(folder / name / "file"))
    return judge.Clock(ahead[0], abs(ahead[1] - ahead[0]))


def server_ahead_s(path: Path) -> float:
    """How far the clock that stamps a fresh file there is ahead of this machine's."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = time.time()
        os.utime(fd)  # no time is given: over NFS the server takes its own
        after = time.time()
        return os.fstat(fd).st_mtime - (before + after) / 2
    finally:
        os.close(fd)


def atime(folder: Path) -> bool:
    with opened(folder / "atime", size=BLOCK) as file:
        file.write(random_block(), BLOCK, 0)
        times = []
        for _ in range(3):  # with relatime, which does no harm, the first read after a write counts
            time.sleep(_TICK_S)
            read_block(file, 0)
            attributes_of(file.fd, anew=True)
            times.append(os.fstat(file.fd).st_atime_ns)
        return times[2] != times[1]
