"""Events: what happens to the cache on this node is told to all, and nothing ever waits for that.

Concurrency: the trio thread tells, which only queues; a thread of its own writes, a batch at a time.  While the
backing directory is silent, or says no, events wait; of those that find MOST_WAITING before them no more is known than
how many there were.  Written twice is possible, after a write that failed half way.
"""

import logging
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import islice

import trio

from dsfs.cache.tolerance import Tolerance
from dsfs.metrics import Metrics
from dsfs.model.event import MOST_CHARACTERS, Event, Kind
from dsfs.storage.eventlog import EventLog
from dsfs.storage.nodes import NodesDirectory

log = logging.getLogger(__name__)

MOST_WAITING = 10_000  # some MB; as many as one round or `dsfs evict` may have versions leave
BATCH = 32  # far less than a file takes
RETRY_S = 10.0
TIDY_S = 86_400.0
END_S = 2.0  # what the last ones may take
UNCERTAIN_NS = 1_000_000_000  # two beats may tell the server's time as far apart: its clock ticks, answers take time


class Events:
    """Where everybody tells what has happened."""

    def __init__(self, event_log: EventLog, nodes: NodesDirectory, metrics: Metrics) -> None:
        self.log = event_log
        self._nodes = nodes
        self._metrics = metrics
        self._host = socket.gethostname()
        self._waiting: deque[tuple[float, Event]] = deque()
        self._is_news = trio.Event()
        self._turn = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._last_ns = 0  # of the thread that writes: when the last event was, by the server's clock
        self._tolerance = Tolerance(log, "events cannot be written, and wait")

    def tell(self, kind: Kind, dataset: str = "", version: str = "", why: str = "", bytes: int = 0) -> None:
        """That has happened just now, to so many bytes of the version.  Never waits, never fails."""
        if len(self._waiting) == MOST_WAITING:
            self._metrics.events_lost.add()
            return
        event = Event(0, kind.value, dataset, version, bytes, why[:MOST_CHARACTERS], "", self._host)
        self._waiting.append((time.monotonic(), event))
        self._is_news.set()

    async def serve(self) -> None:
        """Service: writes what was told, for as long as the daemon runs."""
        tidy_s = 0.0
        while True:
            await self._is_news.wait()
            self._is_news = trio.Event()
            while self._waiting:
                if not await self._is_done(self._write):
                    await trio.sleep(RETRY_S)
            if trio.current_time() >= tidy_s and await self._is_done(self._tidy):
                tidy_s = trio.current_time() + TIDY_S

    async def end(self) -> None:
        """Write what still waits, if that is possible now."""
        with trio.move_on_after(END_S):
            while self._waiting and await self._is_done(self._write):
                pass
        self._metrics.events_lost.add(len(self._waiting))
        self._waiting.clear()

    async def _is_done(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether that was possible."""
        async with self._turn:
            with self._tolerance:
                await work()
            return self._tolerance.is_well

    async def _write(self) -> None:
        batch = list(islice(self._waiting, BATCH))
        await self._in_thread(lambda: self._append(batch))
        for _ in batch:
            self._waiting.popleft()
        self._metrics.events_written.add(len(batch))

    async def _tidy(self) -> None:
        await self._in_thread(self.log.forget)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    def _append(self, batch: list[tuple[float, Event]]) -> None:
        """In a worker thread."""
        times = [self._in_order(self._nodes.time_at(moment_s)) for moment_s, _ in batch]
        node = self._nodes.node
        told = zip(times, batch, strict=True)
        self.log.append(node, [replace(event, at_ns=at_ns, node=node) for at_ns, (_, event) in told])

    def _in_order(self, at_ns: int) -> int:
        """That time, but not before the event that was told before, unless the server's clock was set."""
        if not 0 < self._last_ns - at_ns < UNCERTAIN_NS:
            self._last_ns = at_ns
        return self._last_ns
