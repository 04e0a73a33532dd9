"""A mark on local disk that stands while this process is inside of what may end it, for the next one to find.

LMDB ends the process over a damaged page, by a signal that nobody can catch; who opened that file again would be ended
again.  The mark need not outlive the machine, only the process: so it is a byte that is not synced, which costs
microseconds.

Concurrency: any number of threads are inside.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsfs.model.errors import BackingError

_INSIDE, _OUTSIDE = b"+", b"-"


class InsideMark:
    """The file at `path`.  `was_left`: whose process had it last, that ended inside.  OSError if the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._inside = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self.was_left = os.pread(self._fd, 1, 0) == _INSIDE
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        os.close(self._fd)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is inside until the end of the block; BackingError if the mark cannot be set."""
        with self._lock:
            if not self._inside:
                try:
                    os.pwrite(self._fd, _INSIDE, 0)
                except OSError as exc:
                    raise BackingError(f"{self._path}: {exc}") from exc
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    with suppress(OSError):  # the next one is careful without need
                        os.pwrite(self._fd, _OUTSIDE, 0)
