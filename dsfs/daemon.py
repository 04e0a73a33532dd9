"""The composition root: has everything built (assembly.py), starts it in order, stops it in order.

    services     account, index writer, readahead, warms, heartbeat, events, control socket, signals   cancelled last
      requests   FUSE                                                                                  ends first

Stopping: no more requests, unmount, let the queued fills end (within a deadline: what is lost can be
fetched again), write the index and take the mark of a running daemon out of it.  A second signal skips the
waiting.
"""

import ctypes
import gc
import logging
import os
import resource
import signal
from contextlib import ExitStack
from dataclasses import dataclass

import trio

from dsfs import __version__
from dsfs.admin.control import ControlServer
from dsfs.admin.notify import Notifier
from dsfs.assembly import Assembly
from dsfs.cache.datasets import Datasets
from dsfs.config import Config
from dsfs.metrics import Metrics
from dsfs.model.errors import DsfsError
from dsfs.model.event import Kind
from dsfs.mount.mountpoint import prepare_mountpoint
from dsfs.mount.session import Session
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.known import refuse_if_gone, remember
from dsfs.storage.mounts import told_if_slow, within
from dsfs.storage.rebuild import recover
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.statelock import state_lock
from dsfs.storage.tidy import tidy_state

log = logging.getLogger(__name__)

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
                backing = BackingDirectory(path)
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

    # ---------------------------------------------------------------- serving

    async def serve(self) -> None:
        """Everything from the start of trio to its end."""
        self._stopping, self._hurrying = trio.Event(), trio.Event()
        self._notifier = Notifier.from_environment()
        if self.index.was_lost:
            await trio.to_thread.run_sync(recover, self.index, self.backing)
        async with trio.open_nursery() as services:
            self.parts = Assembly(
                self.config, self.backing, self.index, self.metrics, self.datasets, services, self.stop
            )
            services.start_soon(self._watch_signals)
            await services.start(self.parts.room_keeper.serve)
            services.start_soon(self.parts.filler.keep_index)
            services.start_soon(self.parts.filler.keep_sealing)
            services.start_soon(self.parts.refiller.serve)
            services.start_soon(self.parts.segments.serve)
            services.start_soon(self.parts.readahead.serve)
            services.start_soon(self.parts.health.serve)
            services.start_soon(self.parts.recovery.tidy_later)
            services.start_soon(self.parts.heartbeat.serve)
            services.start_soon(self.parts.events.serve)
            services.start_soon(self.parts.use_recorder.serve)
            services.start_soon(self.parts.shares.serve)
            services.start_soon(self.parts.evictor.serve)
            if self.index.was_unclean and not self.index.was_lost:
                await services.start(self.parts.recovery.run)
            await services.start(self.parts.warmer.serve)
            await services.start(ControlServer(self.config.control_socket, self.parts.verbs).serve)
            session = Session(
                self.parts.operations, self.config.mountpoint, allow_other=self.config.mount.allow_other
            )
            try:
                await self._serve_requests(session)
            finally:
                session.close()
            self.parts.queries.state = "stopping"
            is_drained = await self._drain()
            services.cancel_scope.cancel()
        # Else a thread is inside, and the end of the process closes the files.
        if is_drained and self.parts.filler.is_idle:
            within(CLOSE_S, self._close_segments)
        self.parts.evictor.close()
        self.parts.library.close()
        if not self.parts.recovery.is_inside:  # else its thread goes on, and the next start rebuilds anew
            self.index.close(clean=is_drained and not self.backing.was_away)
        log.info("stopped")

    def _close_segments(self) -> None:
        try:
            self.parts.segments.close()
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
        self.parts.events.tell(Kind.STARTED, why=f"dsfs {__version__} at {session.mountpoint}")
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
        self.parts.readahead.stop()
        self.parts.warmer.close()
        is_drained = False
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_when_hurried, scope)
                with trio.move_on_after(DRAIN_S):
                    with trio.move_on_after(REQUESTS_END_S):  # nobody waits any more for an origin that is silent
                        await self.parts.fetcher.wait_idle()
                    await self.parts.filler.wait_idle()
                await self.parts.filler.flush_index()
                self.parts.events.tell(Kind.STOPPED)
                await self._tell_the_end()
                is_drained = not any(
                    part.in_flight for part in (self.parts.filler, self.parts.fetcher, self.parts.dropper)
                )
                nursery.cancel_scope.cancel()
        self.parts.lanes.close()
        for pool in (self.parts.backing_pool, self.parts.filling_pool, self.parts.sealing_pool, self.parts.claims_pool):
            pool.close()
        return is_drained and not scope.cancelled_caught

    async def _tell_the_end(self) -> None:
        """What the others are to know of this node, while the backing directory answers: each has a time limit."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.parts.events.end)
            nursery.start_soon(self.parts.use_recorder.end)
            nursery.start_soon(self.parts.room_keeper.end)
            nursery.start_soon(self.parts.evictor.end)
        await self.parts.heartbeat.end()  # last: who asks for the time after it would be alive again

    async def _cancel_when_hurried(self, scope: trio.CancelScope) -> None:
        await self._hurrying.wait()
        scope.cancel()
