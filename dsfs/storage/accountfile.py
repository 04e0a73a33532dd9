"""The file `<backing>/account`: one for all nodes, changed in its place by who has locked it.

    a JSON object, its CRC32C as 8 digits, each on a line; then blanks to the end of a page

Over a network a node keeps it open for as long as it runs, and an exchange is a lock, a READ and a WRITE.  In its
place, because an NFS server lends files to clients that open them: what was replaced each time it would have to take
back each time, for which a client of NFSv3 waits 5 s, with the lock.  A write that was torn shows in the checksum.
Only behind somebody who has the lock and does not go on it is replaced.

Concurrency: blocking calls; the caller lets in one thread at a time.
"""

import os
from contextlib import suppress
from pathlib import Path

from crc32c import crc32c

from dsfs.model.account import MOST_BYTES, Account
from dsfs.model.blocks import pages
from dsfs.model.document import decode, encode
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, attributes_of, refresh_names, remove, replace_direct
from dsfs.storage.rangelock import try_lock, unlock

FORMAT = 1
READ_BYTES = 64 * 1024


class AccountFile:
    """Open from its first use until `close`."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs
        self._fd: int | None = None

    def content(self) -> bytes | None:
        """All of it as the server has it now, b"" if it is empty; None if there is no such file."""
        fd = self._opened(0)
        return None if fd is None else _read(fd)

    def held_content(self) -> bytes | None:
        """The same by who has the lock, or has to do without; None if it is another file's by now that has its name."""
        fd = self._made()
        return _read(fd) if self._is_in_place(fd) else None

    def replace(self, account: Account) -> None:
        """By who has the lock, or has to do without."""
        fd = self._made()
        line = encode(account, FORMAT)
        content = line + b"%08x\n" % crc32c(line)
        content = content.ljust(pages(len(content)))
        reach("account.write")
        os.pwrite(fd, content, 0)
        if attributes_of(fd).size > len(content):
            os.ftruncate(fd, len(content))

    def try_lock(self) -> bool:
        """Whether nobody else has it locked, now that this node has; OSError if its file system cannot lock."""
        while not self._is_in_place(fd := self._made()):
            self.close()
        return try_lock(fd, 0, 1)

    def unlock(self) -> None:
        """Let the next one in."""
        if self._fd is not None:
            unlock(self._fd, 0, 1)

    def sign_of_life(self) -> int:
        """Changes while those who have the lock do something."""
        return attributes_of(self._made(), anew=True).mtime_ns

    def is_current(self) -> bool:
        """Whether what this node has open is what the others find."""
        return self._fd is not None and self._is_in_place(self._fd)

    def renew(self) -> None:
        """Put another file with the same content in its place.

        So who has the old one locked, and may yet write to it, is left behind, and the next ones have a lock again.
        """
        if self.is_current():  # else another node has done it
            if content := self.content():
                reach("account.renew")
                replace_direct(self._path, content)
            else:
                remove(self._path)  # it was about to be made
        self.close()

    def close(self) -> None:
        """Also the lock ends."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def _made(self) -> int:
        fd = self._opened(os.O_CREAT)
        assert fd is not None
        return fd

    def _opened(self, flags: int) -> int | None:
        """None if it is missing, and not to be made."""
        if self._fd is not None and not flags and not self._is_in_place(self._fd):
            self.close()
        if self._fd is None:
            refresh_names(self._path.parent, self._fs)
            # Written bytes are not aligned: O_DIRECT where that is no matter, and a dirty page could wait for ever.
            flags |= os.O_RDWR | os.O_CLOEXEC | (os.O_DIRECT if self._fs.is_nfs else 0)
            reach("account.open")
            try:
                self._fd = os.open(self._path, flags, 0o644)
            except OSError as exc:
                if exc.errno not in GONE or flags & os.O_CREAT:
                    raise
                return None
        return self._fd

    def _is_in_place(self, fd: int) -> bool:
        """Whether the open file still has its name: somebody may have removed it."""
        refresh_names(self._path.parent, self._fs)
        with suppress(FileNotFoundError):
            try:
                return os.path.samestat(os.stat(self._path), os.fstat(fd))
            except OSError as exc:
                if exc.errno not in GONE:
                    raise
        return False


def account_in(content: bytes) -> Account | None:
    """What the file says; None if that cannot be understood."""
    line, _, rest = content.partition(b"\n")
    line += b"\n"
    if rest.partition(b"\n")[0] != b"%08x" % crc32c(line):
        return None
    try:
        return decode(Account, line, FORMAT, MOST_BYTES)
    except ValueError:
        return None


def _read(fd: int) -> bytes:
    content = b""
    while len(content) <= MOST_BYTES:
        part = os.pread(fd, READ_BYTES, len(content))
        content += part
        if len(part) < READ_BYTES:
            break
    return content
