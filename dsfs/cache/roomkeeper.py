"""Keeps this node's side of the account of room: tells what is news, gives back what is idle, counts what nobody has.

Concurrency: a thread of its own, one at a time, as it may have to wait for the backing directory, or to count.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from dsfs.cache.tolerance import Tolerance
from dsfs.storage.room import Room

log = logging.getLogger(__name__)

KEEP_S = 20.0  # who counts waits until all nodes have looked; far within what a grant is valid for (storage/room.py)
FIRST_S = 2.0  # so long the start waits for the account, so that what is read at once can be filled
END_S = 2.0  # what giving back may take


@dataclass
class RoomKeeper:
    """Keeps the account as long as `serve` runs, until `end`."""

    room: Room

    def __post_init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)
        self._has_ended = False
        self._is_known = trio.Event()
        self._tolerance = Tolerance(log, "the account of room cannot be kept")

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Service: started once the account is known, or that takes longer."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            with trio.move_on_after(FIRST_S):
                await self._is_known.wait()
            task_status.started()

    async def _keep(self) -> None:
        while not self._has_ended:
            await self._in_thread(self.room.keep)
            self._is_known.set()
            await trio.sleep(KEEP_S)

    async def end(self) -> None:
        """Give back what was taken ahead."""
        self._has_ended = True
        with trio.move_on_after(END_S):
            await self._in_thread(self.room.leave)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        with self._tolerance:
            await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)
