"""How processes of several nodes wait for each other, without the file system under test."""

import os
import time
from pathlib import Path


class Bell:
    """A file that both nodes have without NFS: one rings by a byte more, the other waits for it."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._heard = 0

    def ring(self) -> None:
        with self._path.open("ab") as file:
            file.write(b".")

    def wait(self, timeout_s: float) -> None:
        self._heard += 1
        deadline = time.monotonic() + timeout_s
        while self._path.stat().st_size < self._heard:
            assert time.monotonic() < deadline
            os.sched_yield()  # not asleep: it is about milliseconds
