"""Shares: whether what was fetched of a version may be filled, as far as the others leave room for it.

Concurrency: a thread of its own looks at the file of shares now and then; filling threads ask and tell.  While the
backing directory is silent what was known last holds, and nothing waits.
"""

import logging
import math
import threading
import time

import trio

from dsfs.cache.tolerance import Tolerance
from dsfs.model.nodes import VersionKey
from dsfs.model.share import Fillings, Share, Shares
from dsfs.storage.bulletin import Bulletin
from dsfs.storage.nodes import NodesDirectory

log = logging.getLogger(__name__)

LOOK_S = 10.0  # how often the file is looked at


class ShareBook:
    """What each version may hold, and what this node has filled of it.  A version without a share has no limit."""

    def __init__(self, file: Bulletin[Shares], nodes: NodesDirectory) -> None:
        self._file = file
        self._nodes = nodes
        self._fillings = Fillings()
        self._lock = threading.Lock()
        self._filled_s: dict[VersionKey, float] = {}
        self._dropped_s: dict[VersionKey, float] = {}
        self._limiter = trio.CapacityLimiter(1)
        self._tolerance = Tolerance(log, "what versions may hold cannot be seen")

    async def serve(self) -> None:
        """Service: learns of new shares for as long as the daemon runs."""
        while True:
            with self._tolerance:
                await trio.to_thread.run_sync(self.look, abandon_on_cancel=True, limiter=self._limiter)
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """In a worker thread: learn what the file says.  OSError."""
        shares = self._file.look()
        now_s = time.monotonic()
        counted_s, versions = now_s, tuple[Share, ...]()
        if shares is not None and not shares.are_over(now_ns := self._nodes.time_at(now_s)):
            counted_s, versions = now_s - (now_ns - shares.counted_ns) / 1e9, shares.versions
        with self._lock:
            self._fillings.learn(versions, counted_s, now_s)

    def has_room(self, owner: VersionKey | None, size_bytes: int) -> bool:
        """Whether so much more may be filled for that version; for nobody, anything."""
        with self._lock:
            return owner is None or self._fillings.has_room(owner, size_bytes)

    def take(self, owner: VersionKey | None, size_bytes: int) -> bool:
        """The same, and it will be filled now."""
        with self._lock:
            if owner is None:
                return True
            has_room = self._fillings.has_room(owner, size_bytes)
            if has_room:
                self._fillings.note(owner, size_bytes)
                self._filled_s[owner] = time.monotonic()
            return has_room

    def give_back(self, owner: VersionKey | None, size_bytes: int) -> None:
        """What was taken could not be filled."""
        if owner is not None:
            with self._lock:
                self._fillings.note(owner, -size_bytes)

    def share(self, key: VersionKey) -> Share | None:
        """That of the version, as far as this node knows; None: it has none."""
        with self._lock:
            return self._fillings.share(key)

    def filled_s(self, key: VersionKey) -> float:
        """When this node filled some of the version last, by its monotonic clock; -inf if it never did."""
        return self._filled_s.get(key, -math.inf)

    def dropped_s(self, key: VersionKey) -> float:
        """The same of a drop."""
        return self._dropped_s.get(key, -math.inf)

    def note_drop(self, key: VersionKey) -> None:
        """What was resident of the version was removed by this node."""
        self._dropped_s[key] = time.monotonic()
