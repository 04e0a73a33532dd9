"""A turn: what one node is to do for all, such as a listing, whoever has the file of it locked does.

Who has it touches the file now and then, so that those who wait see that it lives.  Nobody's clock enters: a sign of
life is an mtime that has changed.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import os
import threading
from pathlib import Path

from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import attributes_of
from dsfs.storage.rangelock import try_lock


class Turn:
    """The file at `path`, open from the first `try_take` until `end`; made if it is missing (not its folder)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._has_ended = False

    def try_take(self) -> bool:
        """Whether this node has the turn now; OSError if the file cannot be opened, or its file system cannot lock."""
        with self._lock:
            if self._has_ended:
                return False
            if self._fd is None:
                reach("turn.open")
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            return try_lock(self._fd, 0, 1)

    def show_life(self) -> None:
        """To be done by who has the turn, every few seconds."""
        with self._lock:
            if self._fd is not None:
                os.utime(self._fd)

    def sign_of_life(self) -> int:
        """Changes while somebody who has the turn lives."""
        with self._lock:
            if self._fd is None:
                return 0
            return attributes_of(self._fd, anew=True).mtime_ns

    def end(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
            self._fd, self._has_ended = None, True
