"""The file of shares in the backing directory: how much each version in use may hold (model/share.py).

    <backing>/shares        replaced by whoever evicts, with each round

Concurrency: blocking calls; one thread at a time.
"""

import logging
from pathlib import Path

from dsfs.model.share import MOST_BYTES, Shares, content_of, shares_in
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, mtime_ns, refresh_names, replace_direct

log = logging.getLogger(__name__)


class SharesFile:
    """The file at `path`."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs
        self._read_ns: int | None = None  # its mtime when it was read
        self._shares: Shares | None = None

    def place(self, shares: Shares) -> None:
        """Tell all nodes.  OSError."""
        reach("shares.place")
        replace_direct(self._path, content_of(shares))

    def look(self) -> Shares | None:
        """What it says now; None if there is none, or it cannot be understood.  OSError.

        Costs 2 GETATTR, and 3 requests more when it was replaced.
        """
        reach("shares.look")
        refresh_names(self._path.parent, self._fs)
        try:
            changed_ns = mtime_ns(self._path)
            if changed_ns != self._read_ns:
                self._shares = self._read()
                self._read_ns = changed_ns
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            self._shares = self._read_ns = None
        return self._shares

    def _read(self) -> Shares | None:
        with self._path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        try:
            return shares_in(content)
        except ValueError as exc:
            log.info("%s cannot be understood, so no version has a share: %s", self._path, exc)
            return None
