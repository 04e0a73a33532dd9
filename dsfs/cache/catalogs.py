"""Catalogs of versions, here and in the backing directory: found, shared, and made by one node for all.

What lies in the backing directory is waited for in its pool, and only while it answers: without it there is what lies
here.

A node lists a version when it is its turn, so that the others find the catalog instead of listing too.  Turns save work
only: where none is to be had, and behind a node that shows no sign of life, one goes on without.

Concurrency: the trio thread; what blocks runs in threads.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import trio

from dsfs.cache.health import BackingHealth
from dsfs.cache.pool import Pool, Priority, Ticket
from dsfs.model.errors import BackingSilentError
from dsfs.storage.generations import GenerationStore, PlacedGeneration
from dsfs.storage.segmentlist import SegmentList
from dsfs.storage.turn import Turn

log = logging.getLogger(__name__)
T = TypeVar("T")

WORKERS = 8  # threads for what lies here
POLL_S = 0.25  # between two questions whether it is one's turn
LIFE_S = 3.0  # how often who has a turn shows that it lives
SHARE_AGAIN_S = 60.0  # far less than the hour after which what belongs to no catalog leaves
QUIET_S = 15.0  # who has shown no sign of life for so long is not waited for


@dataclass
class Catalogs:
    """`turns`: the folder of their files; `nursery`: for the signs of life."""

    store: GenerationStore
    turns: Path
    pool: Pool
    health: BackingHealth
    nursery: trio.Nursery

    def __post_init__(self) -> None:
        self._limiter = trio.CapacityLimiter(WORKERS)
        self._later: set[PlacedGeneration] = set()  # a task sees to them

    async def datasets(self) -> set[str]:
        """Datasets that have a catalog."""
        return await self._names(self.store.datasets)

    async def versions(self, dataset: str) -> set[str]:
        """Versions of the dataset that have a catalog."""
        return await self._names(partial(self.store.versions, dataset))

    async def _names(self, names: Callable[[bool], list[str]]) -> set[str]:
        here = set(await self._here(partial(names, False)))
        try:
            return here | set(await self._there(partial(names, True)))
        except BackingSilentError as exc:
            log.info("only what is here is known: %s", exc)
            return here

    async def current(self, dataset: str, version: str) -> PlacedGeneration | None:
        """The current generation, on local disk; None if there is none."""
        try:
            placed = await self._there(partial(self.store.current, dataset, version), is_long=True)
        except BackingSilentError as exc:
            log.info("%s/%s: only catalogs that are here are known: %s", dataset, version, exc)
            placed = await self._here(partial(self.store.current, dataset, version, here_only=True))
        self._share_later(dataset, version, placed)
        return placed

    async def add(
        self, dataset: str, version: str, built: Path, summary: Mapping[str, object], segments: SegmentList
    ) -> PlacedGeneration:
        """Make the catalog file `built`, which is moved, the current generation, for all nodes if possible."""
        placed = await self._here(partial(self.store.add, dataset, version, built, summary, segments))
        try:
            await self._there(partial(self.store.share, dataset, version, placed), is_long=True)
        except BackingSilentError as exc:
            log.info("catalog of %s/%s is shared later: %s", dataset, version, exc)
        self._share_later(dataset, version, placed)
        return placed

    def _share_later(self, dataset: str, version: str, placed: PlacedGeneration | None) -> None:
        """See to it that the others get it, if they have not."""
        if placed in self.store.unshared and placed not in self._later:
            self._later.add(placed)
            self.nursery.start_soon(self._share, dataset, version, placed)

    async def _share(self, dataset: str, version: str, placed: PlacedGeneration) -> None:
        while placed in self.store.unshared:
            await trio.sleep(SHARE_AGAIN_S)
            with suppress(BackingSilentError):
                await self._there(partial(self.store.share, dataset, version, placed, is_again=True), is_long=True)
        self._later.discard(placed)

    async def _here(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    async def _there(self, work: Callable[[], T], *, is_long: bool = False) -> T:
        """`is_long`: it may take as long as it wants while the server answers."""
        with self.health.patience(is_long=is_long):
            return await self.pool.run(work)

    # ---------------------------------------------------------------- turns

    @asynccontextmanager
    async def turn(self, dataset: str, version: str) -> AsyncIterator[None]:
        """In the block it is this node's turn to list the version, unless another has done so."""
        name = blake2b(f"{dataset}/{version}".encode(), digest_size=20).hexdigest()
        turn = Turn(self.turns / name)
        scope = trio.CancelScope()
        try:
            await self._wait_for(turn)
            self.nursery.start_soon(self._show_life, turn, scope)
            yield
        finally:
            scope.cancel()
            self.pool.submit(Ticket(turn.end), Priority.READER)

    async def _wait_for(self, turn: Turn) -> None:
        """Until it is this node's turn, or nobody's."""
        seen, seen_s = 0, trio.current_time()
        while await self._if_possible(turn.try_take) is False:
            sign = await self._if_possible(turn.sign_of_life)
            now_s = trio.current_time()
            if sign is None or (sign == seen and now_s - seen_s >= QUIET_S):
                log.info("another node was about to list the same version, and shows no sign of life")
                return
            if sign != seen:
                seen, seen_s = sign, now_s
            await trio.sleep(POLL_S)

    async def _show_life(self, turn: Turn, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await self._if_possible(turn.show_life)
                await trio.sleep(LIFE_S)

    async def _if_possible(self, work: Callable[[], T]) -> T | None:
        try:
            return await self._there(work)
        except (OSError, BackingSilentError) as exc:
            log.info("nodes cannot take turns: %s", exc)
            return None
