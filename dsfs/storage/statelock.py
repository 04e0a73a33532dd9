"""One daemon for each state directory: a lock that dies with its process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsfs.model.errors import BackingError, BusyError
from dsfs.storage.faultpoint import reach


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the state directory (made if it is missing); BusyError names the daemon that has it."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        fd = os.open(state_dir / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise BackingError(f"state directory {state_dir}: {exc.strerror}") from exc
    try:
        _take(fd, state_dir)
        yield
    finally:
        os.close(fd)


def _take(fd: int, state_dir: Path) -> None:
    try:
        reach("state.lock")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        reach("state.locked")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        pid = os.read(fd, 20).decode("ascii", "replace").strip()
        raise BusyError(f"{state_dir} is in use by another dsfs daemon (pid {pid or 'unknown'})") from None
    except OSError as exc:
        raise BackingError(f"state directory {state_dir}: {exc.strerror}") from exc
