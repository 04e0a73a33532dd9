"""What is mounted where, as the kernel says, and how to get rid of a mount whose daemon is dead."""

import ctypes
import errno
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from dsfs.model.errors import MountpointError

T = TypeVar("T")

_MOUNTINFO = Path("/proc/self/mountinfo")
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo; `device` is major:minor."""

    mountpoint: Path
    filesystem: str
    source: str
    device: str


def mounts(mountinfo: Path = _MOUNTINFO) -> list[Mount]:
    """All mounts of this process, the ones on top last."""
    found = []
    for line in mountinfo.read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        filesystem, source = after.split(b" ")[:2]
        _, _, device, _, mountpoint = before.split(b" ")[:5]
        found.append(
            Mount(Path(unescaped(mountpoint)), os.fsdecode(filesystem), unescaped(source), device.decode())
        )
    return found


def unescaped(word: bytes) -> str:
    """A word of mountinfo or mountstats with its \\040 and the like undone."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), word))


def mount_at(path: Path) -> Mount | None:
    """What is mounted exactly there (the topmost); the file system itself is not touched."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == path), None)


def mount_of(path: Path, among: list[Mount] | None = None) -> Mount | None:
    """The mount that `path` (absolute, no symbolic links) lies on; the file system itself is not touched."""
    candidates = [mount for mount in among or mounts() if path.is_relative_to(mount.mountpoint)]
    # Of two at the same place the later one covers the earlier, and max() would give the first.
    return max(reversed(candidates), key=lambda mount: len(mount.mountpoint.parts), default=None)


def within(timeout_s: float, question: Callable[[], T]) -> T | None:
    """What `question` finds out about a file system, which may be silent: None if that takes longer.

    It must not raise.
    """
    outcome: list[T] = []
    # A daemon thread: one that is stuck in the call must not keep this process from ending.
    asker = threading.Thread(target=lambda: outcome.append(question()), daemon=True)
    asker.start()
    asker.join(timeout_s)
    return outcome[0] if outcome else None


@contextmanager
def told_if_slow(log: logging.Logger, after_s: float, message: str, *args: object) -> Iterator[None]:
    """The message is a warning if the block takes longer: it may be inside a file system that is silent."""
    timer = threading.Timer(after_s, log.warning, (message, *args))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def life_of(path: Path, timeout_s: float = 5.0) -> Literal["alive", "dead", "silent"]:
    """Whether the file system at `path` answers; "dead" is a FUSE mount whose daemon is gone."""

    def ask() -> Literal["alive", "dead"]:
        try:
            os.statvfs(path)
        except OSError as exc:
            return "dead" if exc.errno in (errno.ENOTCONN, errno.ECONNABORTED) else "alive"
        return "alive"

    return within(timeout_s, ask) or "silent"


def detach(path: Path) -> None:
    """Take the mount at `path` out of the tree at once, whoever uses it; MountpointError if that fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) == 0:
        return
    refused = ctypes.get_errno()
    if refused != errno.EPERM:
        raise MountpointError(f"{path} cannot be unmounted: {os.strerror(refused)}")
    try:
        subprocess.run(
            ["fusermount3", "-u", "-z", "--", str(path)],
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        reason = getattr(exc, "stderr", None) or str(exc)
        raise MountpointError(f"{path} cannot be unmounted: {reason.strip()}") from None
