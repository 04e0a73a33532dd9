"""Heartbeat: every few seconds this node tells the others that it is alive, what it has in use, and how it fares.

Concurrency: the trio thread gathers what is told; a thread of its own takes it to the backing directory, one beat at a
time.  While that is silent the beat is late, and nothing but the next beat waits for it.
"""

import logging
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import trio

from dsfs import __version__
from dsfs.cache.datasets import Datasets
from dsfs.cache.library import Library
from dsfs.cache.segments import SegmentTable
from dsfs.cache.tolerance import Tolerance
from dsfs.cache.versions import Generation
from dsfs.metrics import Metrics
from dsfs.model.nodes import BEAT_S, Look
from dsfs.model.recent import Recent
from dsfs.model.retention import ACTIVE_S
from dsfs.model.reuse import Reading
from dsfs.model.usage import (
    MOST_CHARACTERS,
    MOST_SEGMENTS,
    MOST_VERSIONS,
    Dependency,
    Host,
    Program,
    Traffic,
    Usage,
    UsedVersion,
)
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.nodes import NodesDirectory, nfs_unique_id
from dsfs.storage.origin import Origin
from dsfs.storage.room import Room

log = logging.getLogger(__name__)

LOOK_S = 300.0  # how often a node looks at all others by itself: each look costs a few requests for each of them
RECENT_S = 60.0
END_S = 2.0  # what the last beat may take
MOST_TROUBLE = 20
MOST_ORIGINS = 20


@dataclass(slots=True)
class _Use:
    """One generation in use: since when, by the server's clock (0: not known yet); until when it was for sure, by this
    node's; and how much of it had been read by the last beat.
    """

    since_ns: int = 0
    until_s: float = 0.0
    read_bytes: int = 0


@dataclass
class Heartbeat:
    """Beats as long as `serve` runs, and looks at the others."""

    nodes: NodesDirectory
    library: Library
    segments: SegmentTable
    datasets: Datasets
    backing: BackingDirectory
    room: Room
    metrics: Metrics
    mountpoint: Path

    def __post_init__(self) -> None:
        self._host = Host(socket.gethostname(), nfs_unique_id())
        self._program = Program(uuid.uuid4().hex, __version__, os.getpid(), str(self.mountpoint), is_stopped=False)
        self._limiter = trio.CapacityLimiter(1)
        self._recent = Recent(RECENT_S)
        self._uses: dict[Generation, _Use] = {}
        self._told_s = self._looked_s = -math.inf
        self._tolerance = Tolerance(log, "the other nodes cannot be told that this one is alive, or be seen")

    async def serve(self) -> None:
        """Service: beat and now and then look, until `end`."""
        while not self._program.is_stopped:
            began_s = trio.current_time()
            await self._beat(self.nodes.beat)
            if began_s - self._looked_s >= LOOK_S:
                self._looked_s = began_s
                await self._look_after_others()
            await trio.sleep_until(began_s + BEAT_S)

    async def end(self) -> None:
        """Tell the others that this node stops."""
        self._program = replace(self._program, is_stopped=True)
        with trio.move_on_after(END_S):
            await self._beat(self.nodes.leave)

    def look(self) -> Look:
        """In a worker thread: all nodes as they are now; OSError if they cannot be seen."""
        look = self.nodes.look()
        self.metrics.heartbeat_alive_nodes.read_from(lambda: look.alive)
        return look

    # ---------------------------------------------------------------- by its thread

    async def _beat(self, tell: Callable[[Usage], None]) -> None:
        with self._tolerance:
            usage = self._usage()

            def work() -> None:
                tell(replace(usage, backing=self._state_of_backing()))
                beat_s = time.monotonic()
                self.metrics.heartbeat_age_seconds.read_from(lambda: time.monotonic() - beat_s)

            await self._in_thread(work)

    async def _look_after_others(self) -> None:
        with self._tolerance:
            await self._in_thread(lambda: self.nodes.forget(self.look()))

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    def _state_of_backing(self) -> Dependency:
        reason = self.room.why_not_filling()
        return Dependency(str(self.backing.path), "paused" if reason else "ok", reason[:MOST_CHARACTERS])

    # ---------------------------------------------------------------- what is told

    def _usage(self) -> Usage:
        """All but what only the thread can know."""
        now_s = trio.current_time()
        elapsed_s = max(1.0, now_s - self._told_s)  # the last beat may come right behind another one
        used = self._used_versions(now_s, elapsed_s)
        versions = sorted(used, key=lambda each: (each.is_held, each.bytes_per_s), reverse=True)
        segments = [segment.identity for segment in self.segments if segment.users]
        self._told_s = now_s
        told_segments = segments[-MOST_SEGMENTS:]  # those that were used last
        return Usage(
            host=self._host,
            program=self._program,
            beat_ns=0,
            versions=tuple(versions[:MOST_VERSIONS]),
            versions_left_out=sum(each.is_held for each in versions[MOST_VERSIONS:]),
            segments=tuple(told_segments),
            segments_left_out=len(segments) - len(told_segments),
            traffic=self._traffic(now_s),
            backing=Dependency(str(self.backing.path), "unknown", ""),
            origins=tuple(_state_of(origin) for origin in self.datasets.origins[:MOST_ORIGINS]),
            trouble=tuple(islice(self._troubles(), MOST_TROUBLE)),
        )

    def _used_versions(self, now_s: float, elapsed_s: float) -> Iterator[UsedVersion]:
        for version in self.library.versions:
            for generation in version.generations:
                use = self._uses.get(generation, _Use())
                read_bytes = generation.reading.read_bytes
                if generation.is_held or read_bytes > use.read_bytes:
                    use.until_s = now_s
                    self._uses[generation] = use
                elif generation not in self._uses:
                    continue
                elif now_s - use.until_s > ACTIVE_S:
                    del self._uses[generation]
                    generation.reading = Reading()
                    continue
                use.since_ns = use.since_ns or self.nodes.known_time_at(time.monotonic()) or 0
                speed = round((read_bytes - use.read_bytes) / elapsed_s)
                use.read_bytes = read_bytes
                yield UsedVersion(
                    *generation.key, generation.open_files, bool(generation.warms), use.since_ns, float(speed),
                    read_bytes, generation.reading.sample.again,
                )  # fmt: skip

    def _traffic(self, now_s: float) -> Traffic:
        totals = (
            int(self.metrics.read_bytes.value()),
            int(self.metrics.read_resident_bytes.value()),
            sum(origin.statistics()["get_bytes"] for origin in self.datasets.origins),
        )
        elapsed_s, growth = self._recent.note(now_s, totals)
        return Traffic(*totals, float(round(elapsed_s)) if any(growth) else 0.0, *growth)

    def _troubles(self) -> Iterator[str]:
        for version in self.library.versions:
            name = f"{version.dataset.name}/{version.name}"
            if version.state == "drifted":
                yield f"{name} has drifted"
            if version.error is not None:
                yield f"{name}: {version.error}"[:MOST_CHARACTERS]
            if version.current is not None and (left_out := version.current.catalog.summary.left_out):
                yield f"{name}: {left_out:,} keys that no path can hold are left out"


def _state_of(origin: Origin) -> Dependency:
    failure = origin.failure
    return Dependency(origin.origin_id, origin.state, failure[1][:MOST_CHARACTERS] if failure else "")
