"""Last use: this node tells all others which versions come into use, and that they still are, now and then.

A version is in use when somebody opens, reads or looks into it, or has a file of it open: what the kernel has in its
page cache is read, and what is mapped is used, without a word to the daemon.

Concurrency: the trio thread marks versions and looks at them; a thread of its own takes the news to the backing
directory.  While that is silent the news is late, and nothing waits for it.
"""

import logging
import time
from collections.abc import Callable

import trio

from dsfs.cache.library import Library
from dsfs.cache.tolerance import Tolerance
from dsfs.cache.versions import Version
from dsfs.model.lastuse import TOLD_EVERY_S
from dsfs.model.retention import ACTIVE_S
from dsfs.storage.lastuses import LastUses
from dsfs.storage.nodes import NodesDirectory

log = logging.getLogger(__name__)

LOOK_S = 5.0  # how often it is looked what has come into use
FORGET_S = 86_400.0
FIRST_FORGET_S = 3_600.0
END_S = 2.0  # what the last news may take


class UseRecorder:
    """Tells of the versions of `library`, each at most every TOLD_EVERY_S."""

    def __init__(self, library: Library, uses: LastUses, nodes: NodesDirectory) -> None:
        self.uses = uses
        self._library = library
        self._nodes = nodes
        self._told_s: dict[Version, float] = {}
        self._turn = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._tolerance = Tolerance(log, "the other nodes cannot be told which versions are in use")

    async def serve(self) -> None:
        """Service: tells for as long as the daemon runs."""
        forget_s = trio.current_time() + FIRST_FORGET_S
        while True:
            await self._tell(trio.current_time() - TOLD_EVERY_S)
            if trio.current_time() >= forget_s:
                forget_s = trio.current_time() + FORGET_S
                await self._in_thread(lambda: self.uses.forget(self._nodes.now_ns()))
            await trio.sleep(LOOK_S)

    async def end(self) -> None:
        """Tell what was not told yet, if that is possible now."""
        with trio.move_on_after(END_S):
            await self._tell(trio.current_time())

    async def _tell(self, told_before_s: float) -> None:
        """Tell of the versions in use of which nothing was told since then."""
        async with self._turn:
            due = [version for version in self._library.versions if self._is_due(version, told_before_s)]
            began_s = trio.current_time() - ACTIVE_S
            old = {version for version in due if self._told_s.get(version, began_s) > began_s}
            told: list[Version] = []

            def work() -> None:
                fault: OSError | None = None
                for version in due:
                    try:
                        if version in old:
                            self.uses.touch(version.dataset.name, version.name)
                        else:
                            now_ns = self._nodes.time_at(time.monotonic())
                            self.uses.begin(version.dataset.name, version.name, now_ns)
                        told.append(version)
                    except OSError as exc:
                        fault = exc
                if fault is not None:
                    raise fault

            for version in due:
                version.was_used = False
            if due:
                await self._in_thread(work)
            self._told_s.update(dict.fromkeys(told, trio.current_time()))
            for version in set(due).difference(told):
                version.was_used = True
                self._told_s.pop(version, None)  # its file may be gone: begin anew

    def _is_due(self, version: Version, told_before_s: float) -> bool:
        is_used = version.was_used or any(generation.is_held for generation in version.generations)
        return is_used and self._told_s.get(version, told_before_s) <= told_before_s

    async def _in_thread(self, work: Callable[[], None]) -> None:
        with self._tolerance:
            await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
