"""Files that several threads use: closed when they are retired and the last thread has left.

An open file must not outlive its name for long: NFS would keep it under another one (`.nfs...`), and a remount
read-only would be refused.

Concurrency: `lock` (the segment's) guards `users` and `is_retired`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dsfs.model.errors import BlockLostError


class OpenFiles:
    """`users`: threads that are inside now."""

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self.users = 0
        self.is_retired = False

    def close(self) -> None:
        """Close the files; called once, when nobody is inside."""
        raise NotImplementedError

    def retire(self) -> None:
        """Nobody may come in any more."""
        with self._lock:
            self.is_retired = True
            if not self.users:
                self.close()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread uses the files: they stay open.  BlockLostError if they were retired before."""
        with self._lock:
            if self.is_retired:
                raise BlockLostError("the segment was sealed or dropped meanwhile")
            self.users += 1
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self.users -= 1
            if self.is_retired and not self.users:
                self.close()
