"""What lies below a path: the kind of file system, files that appear complete, files that pass the page cache by.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dsfs.model.blocks import PAGE, pages
from dsfs.storage.faultpoint import reach
from dsfs.storage.mounts import mount_of

GONE = frozenset({errno.ENOENT, errno.ESTALE})  # the file is not there (any more): a miss, not a fault
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
SNAPSHOTS = ".snapshot"  # a folder in which a file server shows those of the folder it is in
SECTOR = 512  # bytes: the unit in which room is told, whatever the file system's own
NETWORK_KINDS = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "9p"})


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Kind (as in /proc/self/mountinfo) of the file system below a path, and whether other nodes may share it."""

    kind: str

    @property
    def is_network(self) -> bool:
        return self.kind in NETWORK_KINDS or self.kind.startswith("fuse")

    @property
    def is_nfs(self) -> bool:
        """Whether O_DIRECT takes any offset, length and address here."""
        return self.kind in ("nfs", "nfs4")


def file_system_of(path: Path) -> FileSystem:
    """The file system that holds `path`; kind "unknown" when mountinfo does not list it."""
    mount = mount_of(Path(os.path.realpath(path)))
    return FileSystem(mount.filesystem if mount else "unknown")


# Ends the name of what this process has not completed yet.  Unlike a pid it never comes again, on another node or after
# a restart in a container.
NEW = f".new-{uuid.uuid4().hex[:12]}"
_numbers = itertools.count()


def unfinished(path: Path) -> Path:
    """A name beside `path` for what is to become it: another one each time."""
    return path.with_name(f"{path.name}.{next(_numbers)}{NEW}")


def is_unfinished(name: str) -> bool:
    """Whether the name is of something that another process has not completed, and will not if it is dead."""
    return ".new-" in name and not name.endswith(NEW)


def remove(path: Path) -> bool:
    """Unlink the file; whether it was there, which of several at once one is told (over NFSv3, at most one)."""
    reach("file.remove")
    try:
        os.unlink(path)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        return False
    return True


_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_AT_STATX_FORCE_SYNC = 0x2000
_STATX_NLINK, _STATX_MTIME, _STATX_INO, _STATX_SIZE, _STATX_BLOCKS = 0x04, 0x40, 0x100, 0x200, 0x400
_statx = ctypes.CDLL(None, use_errno=True).statx
_statx_result = ctypes.c_char * 256
# struct statx: links, inode, size, blocks, seconds and nanoseconds of the mtime
_STATX = struct.Struct("<16xI12xQQQ56xqI")


def refresh_names(folder: Path, fs: FileSystem) -> None:
    """Make an NFS client ask the server for the names in `folder` when they are looked up next (1 GETATTR).

    A name that was looked up too early, and one that was removed since, would be believed for 30 s and more.  With
    NFSv3 it still is if both, the look and the change, came within one tick of the server's clock (4 or 10 ms): by the
    ctime alone it tells of changes.  Then a segment is fetched twice; touching the folder would not help, since a
    client takes what it has done itself for all there was.
    """
    if not fs.is_network:
        return
    reach("file.refresh")
    with contextlib.suppress(FileNotFoundError):
        _ask(_AT_FDCWD, os.fsencode(folder), _AT_STATX_FORCE_SYNC)


@dataclass(frozen=True, slots=True)
class Attributes:
    """What fstat says of a file, but for the room it takes: for that an NFS client asks the server after each write."""

    links: int
    inode: int
    size: int
    mtime_ns: int


def attributes_of(fd: int, *, anew: bool = False) -> Attributes:
    """`anew`: an NFS client asks the server, whatever it believes (1 GETATTR)."""
    reach("file.attributes")
    return _ask(fd, b"", _AT_EMPTY_PATH | (_AT_STATX_FORCE_SYNC if anew else 0))


def mtime_ns(path: Path) -> int:
    """The mtime of the file as the server has it now (1 GETATTR; the name is looked up as `refresh_names` says)."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)  # O_PATH: nothing is opened at the server
    try:
        return attributes_of(fd, anew=True).mtime_ns
    finally:
        os.close(fd)


def lstat_anew(path: Path, fs: FileSystem) -> os.stat_result:
    """lstat; an NFS client asks the server, whatever it believes (1 GETATTR)."""
    if fs.is_network:
        reach("file.refresh")
        _ask(_AT_FDCWD, os.fsencode(path), _AT_STATX_FORCE_SYNC | _AT_SYMLINK_NOFOLLOW)
    return os.lstat(path)


class Allocated(NamedTuple):
    """What lies at a path: its inode, how many names that has, and the bytes that it takes."""

    inode: int
    links: int
    size_bytes: int


def allocated(path: Path) -> Allocated:
    """As the server has it now (1 GETATTR)."""
    reach("file.allocated")
    flags, wanted = _AT_STATX_FORCE_SYNC | _AT_SYMLINK_NOFOLLOW, _STATX_INO | _STATX_NLINK | _STATX_BLOCKS
    links, inode, _, blocks, _, _ = _statx_of(_AT_FDCWD, os.fsencode(path), flags, wanted)
    return Allocated(inode, links, blocks * SECTOR)


def _ask(fd: int, path: bytes, flags: int) -> Attributes:
    wanted = _STATX_NLINK | _STATX_MTIME | _STATX_INO | _STATX_SIZE
    links, inode, size, _, seconds, nanoseconds = _statx_of(fd, path, flags, wanted)
    return Attributes(links, inode, size, seconds * 1_000_000_000 + nanoseconds)


def _statx_of(fd: int, path: bytes, flags: int, wanted: int) -> tuple[int, ...]:
    found = _statx_result()
    if _statx(fd, path, flags, wanted, found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return _STATX.unpack_from(found)


def open_existing(path: Path, fs: FileSystem) -> int | None:
    """The file, opened for reading; None if there is none, which an NFS client is not believed before it has asked."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
    if not fs.is_network:
        return None
    refresh_names(path.parent, fs)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
    return None


def bytes_of(path: Path, most_bytes: int) -> bytes:
    """What the file holds, up to one byte more than it may."""
    with open_plain(path) as file:
        return file.read(most_bytes + 1)


def open_plain(path: Path) -> BinaryIO:
    """The file, to be read; where something else was put in its place, nobody follows it, or waits for it."""
    return open(path, "rb", opener=_open_plain)


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def link_open(fd: int, path: Path) -> None:
    """Give an open file one more name; FileNotFoundError if it has none any more."""
    try:
        # With a src_dir_fd, which an absolute path ignores, os.link follows the link that /proc has for the file.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        raise FileNotFoundError(exc.errno, exc.strerror, os.fspath(path)) from exc


def is_there(path: Path) -> bool:
    """Whether there is such a name; OSError if that cannot be known (os.path.lexists would say no)."""
    try:
        os.lstat(path)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        return False
    return True


def replace_file(path: Path, content: bytes, *, new: Path | None = None) -> None:
    """Make `content` the file at `path` by a rename, flushed before it: nobody ever meets a half.

    `new`: an unfinished name that it has before, if not one beside it.
    """
    with _flushed(new or unfinished(path), content) as new:
        reach("file.rename")
        os.rename(new, path)


def place_file(path: Path, content: bytes) -> bool:
    """The same, but a file that is there already stays: of several nodes the first one's holds for all.

    Whether this was the first.
    """
    with _flushed(unfinished(path), content) as new:
        reach("file.link")
        is_first = False
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
            is_first = True
        remove(new)
    return is_first


@contextlib.contextmanager
def _flushed(new: Path, content: bytes) -> Iterator[Path]:
    """A new file with that content, on its medium; removed if it does not get its name."""
    try:
        reach("file.create")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            left = memoryview(content)
            while left:
                reach("file.write")
                left = left[os.write(fd, left) :]
            reach("file.flush")
            os.fsync(fd)
        finally:
            os.close(fd)
        yield new
    except OSError:
        with contextlib.suppress(OSError):
            remove(new)
        raise


class DirectFile:
    """A file read and written with O_DIRECT, so that no dirty page ever waits for a server that may be gone.

    Local file systems want offsets, lengths and memory in whole pages, so a write is rounded up to them on all: buffers
    hold that much, and the seal cuts the file back.  Where O_DIRECT is refused, at the open or at the first use, the
    file is buffered and every write is followed by fdatasync.
    """

    def __init__(self, path: Path, *, size: int | None = None) -> None:
        """Open the file; with `size`, make it first, sparse, with so many bytes."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if size is not None else 0)
        reach("direct.open")
        try:
            self.fd = os.open(path, flags | os.O_DIRECT, 0o644)
            self.is_direct = True
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            self.fd = os.open(path, flags, 0o644)
            self.is_direct = False
        if size is not None:
            try:
                if os.fstat(self.fd).st_size < size:  # another node may have made it, and even have sealed it by now
                    self.resize(size)
            except BaseException:
                os.close(self.fd)
                raise

    def resize(self, size: int) -> None:
        reach("direct.resize")
        os.ftruncate(self.fd, size)

    def write(self, buffer: memoryview, length: int, offset: int) -> None:
        """Write the first `length` bytes of `buffer` at `offset`; `buffer` reaches to the end of its last page."""
        end = pages(length) if self.is_direct else length
        done = 0
        while done < end:
            was_direct = self.is_direct
            try:
                done += os.pwrite(self.fd, buffer[done:end], offset + done)
            except OSError as exc:
                self._refused(exc, was_direct=was_direct)
        if not self.is_direct:
            reach("direct.flush")
            os.fdatasync(self.fd)

    def read(self, buffer: memoryview, length: int, offset: int) -> int:
        """Read up to `length` bytes at `offset` into `buffer` (room for whole pages); returns how many there were."""
        end = pages(length)
        done = 0
        while done < length:
            was_direct = self.is_direct
            try:
                count = os.preadv(self.fd, [buffer[done:end]], offset + done)
            except OSError as exc:
                self._refused(exc, was_direct=was_direct)
                continue
            done += count
            if count == 0 or done % PAGE:
                break
        return min(done, length)

    def _refused(self, exc: OSError, *, was_direct: bool) -> None:
        """O_DIRECT is refused only now: go on without.  Any other error is raised again."""
        if exc.errno != errno.EINVAL or not was_direct:
            raise exc
        self.is_direct = False
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) & ~os.O_DIRECT)


def replace_direct(path: Path, content: bytes) -> None:
    """Make `content`, filled up with blanks, the file at `path` by a rename.

    With O_DIRECT: a process with dirty pages cannot be killed while the server is gone.
    """
    new = unfinished(path)
    try:
        _write_direct(DirectFile(new, size=0), content)
        reach("direct.rename")
        os.rename(new, path)
    except OSError:
        with contextlib.suppress(OSError):
            remove(new)
        raise


def overwrite_direct(path: Path, content: bytes) -> None:
    """The same in the place of what the file holds, for a medium that has no room for another one.

    Whoever reads it meanwhile may meet a mixture of both.  FileNotFoundError if it is not there.
    """
    _write_direct(DirectFile(path), content)


def _write_direct(file: DirectFile, content: bytes) -> None:
    """All that the file holds from now on; closes it."""
    try:
        room = mmap.mmap(-1, pages(max(len(content), os.fstat(file.fd).st_size)))
        room.write(content.ljust(len(room)))
        file.write(memoryview(room), len(room), 0)
    finally:
        os.close(file.fd)
