"""The FUSE session: mount, serve, tune, unmount.

Concurrency: one session a process (pyfuse3 keeps it in module globals).  `serve` runs on the trio thread;
nothing in this process may touch the mount from that thread.
"""

import ctypes
import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import trio

from dsfs.model.errors import MountpointError
from dsfs.mount import openreply
from dsfs.mount.eventloop import facade
from dsfs.mount.operations import Operations
from dsfs.storage.mounts import mount_at

log = logging.getLogger(__name__)

# The kernel's READs are as large: x1.5-4 for sequential reads; more gains 8 % and costs random readers of mappings.
READ_AHEAD_KB = 1024
# Background READs (readahead) share this number: with the kernel's 12, three readers that wait for a dead
# origin stop all others.
MAX_BACKGROUND = 512
MAX_TASKS = 10_000  # requests at work at once; a task that waits costs a few KiB


class Session:
    """The mount of `operations` at `mountpoint`; mounted from the call on."""

    def __init__(self, operations: Operations, mountpoint: Path, *, allow_other: bool) -> None:
        self.mountpoint = mountpoint
        options = {
            f"fsname=dsfs@{os.getpid()}",
            "subtype=dsfs",
            "ro",
            "nosuid",
            "nodev",
            "noatime",
            "default_permissions",
        }
        if allow_other:
            options.add("allow_other")
        try:
            pyfuse3.init(operations, str(mountpoint), options)
        except RuntimeError as exc:
            raise MountpointError(
                f"{mountpoint} cannot be mounted: {exc} (fusermount3 may have said why; or is /dev/fuse not there?)"
            ) from exc
        vars(pyfuse3)["trio"] = facade()
        logging.getLogger("pyfuse3").addFilter(is_worth_telling)
        try:
            openreply.install(Path(pyfuse3.__file__))
        except openreply.HookError as exc:
            log.info("the kernel does not keep directories (%s): walks over known names are slower", exc)
        self._is_open = True

    async def serve(self) -> None:
        """Answer requests until `end` or until somebody unmounts."""
        try:
            await pyfuse3.main(1, MAX_TASKS)
        except* OSError as group:
            # So the kernel says when the mount is taken away in the moment in which a request of it is read.
            _, others = group.split(lambda error: isinstance(error, OSError) and error.errno == errno.ECONNABORTED)
            if others is not None:
                raise others from None

    async def wait_answering(self) -> None:
        """Wait until the mount answers; then tune it.  `serve` must be running."""
        await trio.to_thread.run_sync(os.stat, self.mountpoint, abandon_on_cancel=True)
        await trio.to_thread.run_sync(self._tune, abandon_on_cancel=True)

    def end(self) -> None:
        """Take no more requests: `serve` returns when those at work are answered.  On the trio thread."""
        pyfuse3.terminate()

    def close(self) -> None:
        """Unmount, whoever still uses the mount."""
        if self._is_open:
            self._is_open = False
            pyfuse3.close()

    def _tune(self) -> None:
        mount = mount_at(self.mountpoint)
        if mount is None:
            return
        device = mount.device
        self._write(Path(f"/sys/class/bdi/{device}/read_ahead_kb"), READ_AHEAD_KB)
        with _connections() as connections:
            if connections is not None:
                connection = connections / device.partition(":")[2]
                self._write(connection / "max_background", MAX_BACKGROUND)
                self._write(connection / "congestion_threshold", MAX_BACKGROUND * 3 // 4)

    def _write(self, path: Path, value: int) -> None:
        try:
            path.write_text(str(value))
        except OSError as exc:
            log.info("%s stays as it is (%s): reads may be slower", path, exc.strerror)


def is_worth_telling(record: logging.LogRecord) -> bool:
    """False of a reply that nobody waits for: its request was interrupted, or the mount was taken away meanwhile.

    The kernel says ENOENT then, and pyfuse3 logs an error.
    """
    return "fuse_reply_" not in str(record.msg) or record.args != (os.strerror(errno.ENOENT),)


@contextmanager
def _connections() -> Iterator[Path | None]:
    """The fusectl file system; mounted in a private place for the moment where the host has none (containers)."""
    usual = Path("/sys/fs/fuse/connections")
    if os.path.ismount(usual):
        yield usual
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryDirectory(prefix="dsfs-fusectl-") as place:
        if libc.mount(b"none", place.encode(), b"fusectl", 0, None):
            log.info(
                "max_background stays as it is: fusectl cannot be mounted (%s)",
                os.strerror(ctypes.get_errno()),
            )
            yield None
            return
        try:
            yield Path(place)
        finally:
            libc.umount2(place.encode(), 0)
