"""A turn: what one node is to do for all, such as a listing, whoever has the file of it locked does.

Who has it touches the file now and then, so that those who wait see that it lives.  Nobody's clock enters: a sign of
life is an mtime that has changed.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import os
import threading
from pathlib import Path

from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import refresh_attributes
from dsfs.storage.rangelock import try_lock


class Turn:
    """The open file; made if there is none, in a folder that is there."""

    def __init__(self, path: Path) -> None:
        reach("turn.open")
        self._lock = threading.Lock()
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def try_take(self) -> bool:
        """Whether this node has the turn now; OSError if the file system cannot lock."""
        with self._lock:
            return self._fd is not None and try_lock(self._fd, 0, 1)

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
            refresh_attributes(self._fd)
            return os.fstat(self._fd).st_mtime_ns

    def end(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
            self._fd = None
