"""The composition root: builds everything, starts it in order, stops it in order.

    services     index writer, readahead of packs, warms, heartbeat, events, control socket, signals   cancelled last
      requests   FUSE                                                                          ends first

Stopping: no more requests, unmount, let the queued fills end (within a deadline: what is lost can be
fetched again), write the index and take the mark of a running daemon out of it.  A second signal skips the
waiting.
"""

import ctypes
import gc
import logging
import os
import random
import resource
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from dsfs import __version__
from dsfs.admin.control import ControlServer
from dsfs.admin.events import EventVerbs
from dsfs.admin.nodes import Neighbours
from dsfs.admin.notify import Notifier
from dsfs.admin.pins import PinVerbs
from dsfs.admin.queries import Queries
from dsfs.admin.verbs import Verbs
from dsfs.admin.warming import WarmVerbs
from dsfs.cache.ahead import Readahead
from dsfs.cache.catalogs import Catalogs
from dsfs.cache.claims import Claims
from dsfs.cache.datasets import Datasets
from dsfs.cache.drop import Dropper
from dsfs.cache.events import Events
from dsfs.cache.fetch import Fetcher
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.heartbeat import Heartbeat
from dsfs.cache.lanes import Lanes
from dsfs.cache.lastuse import UseRecorder
from dsfs.cache.library import Library
from dsfs.cache.memory import Memory, fills_at_once, shares
from dsfs.cache.open import Opener
from dsfs.cache.pool import Bridge, Pool
from dsfs.cache.read import Reader
from dsfs.cache.recovery import Recovery
from dsfs.cache.segments import SegmentTable
from dsfs.cache.warm import ALL, THIS, Services
from dsfs.cache.warmer import Warmer
from dsfs.cache.warmfill import WarmFiller
from dsfs.config import Config
from dsfs.metrics import Metrics
from dsfs.model.errors import DsfsError
from dsfs.model.event import Kind
from dsfs.model.health import Health
from dsfs.mount.mountpoint import prepare_mountpoint
from dsfs.mount.operations import Operations
from dsfs.mount.session import Session
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.eventlog import EventLog
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.generations import GenerationStore
from dsfs.storage.known import refuse_if_gone, remember
from dsfs.storage.lastuses import LastUses
from dsfs.storage.mounts import told_if_slow, within
from dsfs.storage.nodes import NodesDirectory, node_id
from dsfs.storage.pins import PinFolder
from dsfs.storage.rebuild import recover
from dsfs.storage.requests import RequestFolder
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.statelock import state_lock
from dsfs.storage.tidy import tidy_state

log = logging.getLogger(__name__)

BACKING_THREADS = 16  # reads at once: few enough, with the fills, to leave an NFS client's slots to others
CLAIMS_THREADS = 4
SEALING_THREADS = 2  # each may read a whole segment
REQUESTS_END_S = 2.0  # requests at work may take so long to end after the first signal
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3  # of malloc.h
# Larger buffers go back to the system when freed; in the heap they leave holes: 60 MiB at the peak of 40 readers.
# Not where the directory is on a network: there the bytes of each READ are such a buffer.
LARGE_BYTES = 512 * 1024
DRAIN_S = 10.0  # and fills and seals so long
CLOSE_S = 5.0  # and files that are open, each of which waits for an NFS server


def run(config: Config, *, force: bool) -> None:
    """Mount and serve until told to stop.  DsfsError if it cannot start."""
    try:
        with ExitStack() as stack:
            stack.enter_context(state_lock(config.state_dir))
            tidy_state(config.state_dir)
            # Open segments, connections, the kernel's requests: more than the usual soft limit of 1,024.
            _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
            # An arena for each of 80 threads would keep 17 MiB that nobody uses.
            libc = ctypes.CDLL(None)
            libc.mallopt(M_ARENA_MAX, 2)
            prepare_mountpoint(config.mountpoint, force=force)
            path = config.backing.path
            with told_if_slow(log, config.backing.timeout_s, "%s does not answer yet: dsfs starts when it does", path):
                if not force:
                    refuse_if_gone(config.state_dir, path)
                backing = BackingDirectory(path, config.backing.limit_bytes, config.backing.floor.of)
            if not backing.file_system.is_network:
                libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
            remember(config.state_dir, path, backing.cluster)
            index = ResidencyIndex(config.state_dir / "residency.mdb", backing.cluster)
            metrics = Metrics()
            datasets = Datasets(config, metrics)
            stack.callback(datasets.close)
            trio.run(Daemon(config, backing, index, metrics, datasets).serve)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, DsfsError):
            raise error from None
        raise


@dataclass
class Daemon:
    """One mount and its cache."""

    config: Config
    backing: BackingDirectory
    index: ResidencyIndex
    metrics: Metrics
    datasets: Datasets

    # ---------------------------------------------------------------- building

    def _build(self, services: trio.Nursery) -> None:
        config, metrics, backing, index = self.config, self.metrics, self.backing, self.index
        bridge = Bridge()
        origins = self.datasets.origins
        self.backing_pool = Pool("backing", BACKING_THREADS, bridge)
        self.memory, self.resident_memory = (
            Memory(share_bytes, lambda run: run.segment.forget(run))
            for share_bytes in shares(config.memory.limit_bytes, config.origin.connections * len(origins))
        )
        self.filling_pool = Pool("filling", fills_at_once(self.memory.limit_bytes), bridge)
        self.sealing_pool = Pool("sealing", SEALING_THREADS, bridge)
        self.claims_pool = Pool("claims", CLAIMS_THREADS, bridge)
        self.health = BackingHealth(Health(config.backing.timeout_s), bridge, backing.probe)
        claims = Claims(
            self.claims_pool, bridge, backing, self.health, services, metrics, config.origin.timeout_s / 3,
            random.Random(),
        )  # fmt: skip
        nodes = NodesDirectory(backing.nodes, node_id(config.state_dir), backing.file_system)
        self.events = Events(EventLog(backing.events, backing.file_system), nodes, metrics)
        self.lanes = Lanes(bridge, config.origin.connections, self.memory.limit_bytes // min(2, len(origins)))
        self.filler = Filler(
            self.memory, self.filling_pool, self.sealing_pool, bridge, backing, self.health, claims, index, metrics
        )
        self.segments = SegmentTable(backing, self.backing_pool, self.health, self.filler)
        self.fetcher = Fetcher(
            self.memory, self.lanes, bridge, self.filler, claims, services, metrics, config.origin.timeout_s,
            random.Random(),
        )  # fmt: skip
        self.readahead = Readahead(self.fetcher, self.segments, config.origin.connections)
        self.library = Library(
            Catalogs(
                GenerationStore(config.state_dir / "catalogs", backing.generations, backing.file_system),
                backing.turns,
                self.backing_pool,
                self.health,
                services,
            ),
            config.state_dir / "listing",
            self.datasets,
            services,
            config.origin.names_ttl_s,
            config.origin.list_timeout_s,
            self.events,
        )
        uses = LastUses(backing.uses, backing.file_system)
        self.use_recorder = UseRecorder(self.library, uses, nodes)
        opener = Opener(self.segments, index)
        reader = Reader(
            self.fetcher,
            self.filler,
            self.readahead,
            self.memory,
            self.resident_memory,
            self.backing_pool,
            self.health,
            metrics,
            inline=not backing.file_system.is_network,
        )
        self.operations = Operations(
            self.library,
            opener,
            reader,
            backing,
            metrics,
            config.mount.owner.id,
            config.mount.group.id,
        )
        self._build_warmer(opener)
        self.queries = Queries(
            self.library, opener, self.filler, self._buffered_bytes, backing, self.health, index, self.datasets,
            self.warmer, uses, nodes, config.mountpoint, config.source, config.memory.limit_bytes,
            started_s=time.time(),
        )  # fmt: skip
        self.recovery = Recovery(index, backing, self.segments, self.filler)
        self.dropper = Dropper(
            self.library, self.segments, self.filler, self.memory, backing, self.health, self.backing_pool, metrics,
            self.recovery.turn,
        )  # fmt: skip
        self.heartbeat = Heartbeat(
            nodes, self.library, self.segments, self.datasets, backing, metrics, config.mountpoint
        )
        neighbours = Neighbours(self.heartbeat, self.queries.ask_backing)
        pins = PinFolder(backing.pins, backing.file_system, backing.space)
        self.verbs = {
            **Verbs(
                self.queries, self.library, self.dropper, neighbours, metrics, self.datasets, self.events, self.stop
            ).table(),
            **WarmVerbs(self.warmer, self.library, config.mountpoint).table(),
            **PinVerbs(pins, nodes, self.queries, self.events).table(),
            **EventVerbs(self.events.log, nodes, self.queries).table(),
        }
        self._connect_gauges()

    def _build_warmer(self, opener: Opener) -> None:
        warm_filler = WarmFiller(
            self.fetcher, self.filler, self.memory, self.backing_pool, self.backing, self.health,
            self.config.origin.connections, self.readahead.window_limit,
        )  # fmt: skip
        state_dir, backing = self.config.state_dir, self.backing
        folders = {
            THIS: RequestFolder(state_dir / "requests", file_system_of(state_dir), lambda: None),
            ALL: RequestFolder(backing.requests, backing.file_system, backing.space),
        }
        seed = random.SystemRandom().getrandbits(64)
        services = Services(self.library, opener, self.index, warm_filler, self.events, seed)
        self.warmer = Warmer(services, folders)

    def _connect_gauges(self) -> None:
        self.metrics.backing_used_bytes.read_from(lambda: self.backing.used_bytes)
        self.metrics.memory_used_bytes.read_from(self._buffered_bytes)
        self.metrics.memory_limit_bytes.read_from(lambda: self.config.memory.limit_bytes)

    def _buffered_bytes(self) -> int:
        return self.memory.used_bytes + self.resident_memory.used_bytes

    # ---------------------------------------------------------------- serving

    async def serve(self) -> None:
        """Everything from the start of trio to its end."""
        self._stopping, self._hurrying = trio.Event(), trio.Event()
        self._notifier = Notifier.from_environment()
        if self.index.was_lost:
            await trio.to_thread.run_sync(recover, self.index, self.backing)
        self.backing.used_bytes = await trio.to_thread.run_sync(self.index.total_bytes)
        async with trio.open_nursery() as services:
            self._build(services)
            services.start_soon(self._watch_signals)
            services.start_soon(self.filler.keep_index)
            services.start_soon(self.filler.keep_sealing)
            services.start_soon(self.readahead.serve)
            services.start_soon(self.health.serve)
            services.start_soon(self.recovery.tidy_later)
            services.start_soon(self.heartbeat.serve)
            services.start_soon(self.events.serve)
            services.start_soon(self.use_recorder.serve)
            if self.index.was_unclean and not self.index.was_lost:
                await services.start(self.recovery.run)
            await services.start(self.warmer.serve)
            await services.start(ControlServer(self.config.control_socket, self.verbs).serve)
            session = Session(
                self.operations, self.config.mountpoint, allow_other=self.config.mount.allow_other
            )
            try:
                await self._serve_requests(session)
            finally:
                session.close()
            self.queries.state = "stopping"
            is_drained = await self._drain()
            services.cancel_scope.cancel()
        if is_drained and self.filler.is_idle:  # else a thread is inside, and the end of the process closes the files
            within(CLOSE_S, self._close_segments)
        self.library.close()
        if not self.recovery.is_inside:  # else its thread goes on, and the next start rebuilds anew
            self.index.close(clean=is_drained and not self.backing.was_away)
        log.info("stopped")

    def _close_segments(self) -> None:
        try:
            self.segments.close()
        except OSError as exc:
            log.info("not all segments were closed: %s", exc)

    async def _serve_requests(self, session: Session) -> None:
        """Answer requests until a signal, the verb `stop`, or an unmount by somebody else."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._announce, session)
            nursery.start_soon(self._end_in_time, session, nursery.cancel_scope)
            await session.serve()
            nursery.cancel_scope.cancel()

    async def _announce(self, session: Session) -> None:
        await session.wait_answering()
        # What exists now stays: collections need not look at it again (2-5 % of the CPU of a cold read).
        gc.collect()
        gc.freeze()
        log.info("mounted at %s (pid %d)", session.mountpoint, os.getpid())
        self.events.tell(Kind.STARTED, why=f"dsfs {__version__} at {session.mountpoint}")
        self._notifier.ready(f"mounted at {session.mountpoint}")
        if (watchdog_s := self._notifier.watchdog_s) is not None:
            while True:  # this loop answers the requests too: while it turns, so does the mount
                self._notifier.alive()
                await trio.sleep(watchdog_s / 3)

    # ---------------------------------------------------------------- stopping

    def stop(self, *, now: bool) -> None:
        """Begin to stop; `now`: without waiting for requests and fills.  On the trio thread."""
        if self._stopping.is_set() or now:
            self._hurrying.set()
        self._stopping.set()

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info(
                    "%s: stopping%s", signal.Signals(number).name, " now" if self._stopping.is_set() else ""
                )
                self.stop(now=False)

    async def _end_in_time(self, session: Session, requests: trio.CancelScope) -> None:
        await self._stopping.wait()
        self._notifier.stopping()
        session.end()
        with trio.move_on_after(REQUESTS_END_S):
            await self._hurrying.wait()
        requests.cancel()

    async def _drain(self) -> bool:
        """Let what was fetched be filled, and tell the index; False if it did not all come to its end.

        A seal that does not is no matter: what is resident stays resident.
        """
        self.readahead.stop()
        self.warmer.close()
        is_drained = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_hurried, scope)
                with trio.move_on_after(DRAIN_S):
                    with trio.move_on_after(REQUESTS_END_S):  # nobody waits any more for an origin that is silent
                        await self.fetcher.wait_idle()
                    await self.filler.wait_idle()
                await self.filler.flush_index()
                self.events.tell(Kind.STOPPED)
                await self._tell_the_end()
                is_drained = not (self.filler.in_flight or self.fetcher.in_flight or self.dropper.in_flight)
                nursery.cancel_scope.cancel()
        self.lanes.close()
        for pool in (self.backing_pool, self.filling_pool, self.sealing_pool, self.claims_pool):
            pool.close()
        return is_drained and not scope.cancelled_caught

    async def _tell_the_end(self) -> None:
        """What the others are to know of this node, while the backing directory answers: each has a time limit."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.events.end)
            nursery.start_soon(self.use_recorder.end)
        await self.heartbeat.end()  # last: who asks for the time after it would be alive again

    async def _cancel_when_hurried(self, scope: trio.CancelScope) -> None:
        await self._hurrying.wait()
        scope.cancel()
