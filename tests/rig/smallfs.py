"""Small file systems of a test's own: to run full, to turn read-only, to go away.  Root only."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from dsfs.model.blocks import PAGE
from dsfs.storage.mounts import detach, mount_at

BALLAST = ".ballast"  # a name that dsfs leaves alone
COMMAND_TIMEOUT_S = 30


class SmallFilesystem:
    """A file system of about `size_bytes` at `path`, mounted by the `with` statement or by `mount`.

    "tmpfs" takes `options` of its own; "ext4" lies in an image beside `path`.
    """

    def __init__(self, path: Path, kind: Literal["tmpfs", "ext4"], size_bytes: int, options: str = "") -> None:
        self.path = path
        self._image = path.with_name(path.name + ".img") if kind == "ext4" else None
        self._options = options or (f"size={size_bytes}" if kind == "tmpfs" else "loop")
        self._kind = kind
        path.mkdir(parents=True, exist_ok=True)
        if self._image is not None:
            with self._image.open("wb") as image:
                image.truncate(size_bytes)
            # Without a reserve for root, which would let the daemon of a test use what statvfs calls taken.
            _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))

    def mount(self) -> None:
        source = str(self._image or "dsfs-test")
        _run("mount", "-t", self._kind, "-o", self._options, source, str(self.path))

    def remount(self, options: str) -> None:
        """`ro` is refused while a file is open for writing; ext4 knows `abort`, which is not."""
        _run("mount", "-o", f"remount,{options}", str(self.path))

    def detach(self) -> None:
        """Take it out of the tree at once; who has files open keeps them."""
        detach(self.path)

    @property
    def free_bytes(self) -> int:
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    @property
    def used_bytes(self) -> int:
        stat = os.statvfs(self.path)
        return (stat.f_blocks - stat.f_bfree) * stat.f_frsize

    def fill_up(self, *, leaving_bytes: int) -> Path:
        """Take all room but so much; unlinking the returned file gives it back."""
        ballast = self.path / BALLAST
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free_bytes - leaving_bytes)
        return ballast

    def fill_to_the_last_block(self) -> None:
        """Take all room there is."""
        with (self.path / BALLAST).open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(PAGE))

    def __enter__(self) -> Self:
        self.mount()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        while mount_at(self.path) is not None:
            detach(self.path)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S)
