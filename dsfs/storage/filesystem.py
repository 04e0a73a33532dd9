"""What lies below a path: the kind of file system, and files that pass the page cache by.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from dsfs.model.blocks import PAGE, pages
from dsfs.storage.mounts import mount_of

NETWORK_KINDS = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "9p"})


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Kind (as in /proc/self/mountinfo) of the file system below a path, and whether other nodes may share it."""

    kind: str

    @property
    def is_network(self) -> bool:
        return self.kind in NETWORK_KINDS or self.kind.startswith("fuse")


def file_system_of(path: Path) -> FileSystem:
    """The file system that holds `path`; kind "unknown" when mountinfo does not list it."""
    mount = mount_of(Path(os.path.realpath(path)))
    return FileSystem(mount.filesystem if mount else "unknown")


class DirectFile:
    """A file read and written with O_DIRECT, so that no dirty page ever waits for a server that may be gone.

    On a network file system O_DIRECT knows no alignment.  On a local one, offsets and memory must be
    multiples of PAGE, and a write is rounded up to whole pages: buffers hold that much, and the seal cuts the
    file back.  Where O_DIRECT is refused, the file is buffered and every write is followed by fdatasync.
    """

    def __init__(self, path: Path, fs: FileSystem, *, create: bool) -> None:
        self._pad = not fs.is_network
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            self.fd = os.open(path, flags | os.O_DIRECT, 0o644)
            self.is_direct = True
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            self.fd = os.open(path, flags, 0o644)
            self.is_direct = False

    def write(self, buffer: memoryview, length: int, offset: int) -> None:
        """Write the first `length` bytes of `buffer` at `offset`; `buffer` reaches to the end of its last page."""
        end = pages(length) if self._pad and self.is_direct else length
        done = 0
        while done < end:
            done += os.pwrite(self.fd, buffer[done:end], offset + done)
        if not self.is_direct:
            os.fdatasync(self.fd)

    def read(self, buffer: memoryview, length: int, offset: int) -> int:
        """Read up to `length` bytes at `offset` into `buffer` (room for whole pages); returns how many there were."""
        end = pages(length) if self._pad and self.is_direct else length
        done = 0
        while done < end:
            count = os.preadv(self.fd, [buffer[done:end]], offset + done)
            done += count
            if count == 0 or done % PAGE:
                break
        return min(done, length)
