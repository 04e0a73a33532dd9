"""Refill: what found no room when it came is filled out of memory when there is some.

Else a version that is small enough to be served from memory would never be resident, and every other node would fetch
it anew.

Concurrency: the trio thread decides; a thread of the filling pool asks whether there is room.
"""

import logging
from dataclasses import dataclass

import trio

from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.memory import Memory
from dsfs.cache.pool import Pool, Priority
from dsfs.cache.runs import Run
from dsfs.cache.segments import SegmentTable
from dsfs.model.blocks import pages
from dsfs.model.errors import BackingSilentError, NoRoomError
from dsfs.model.retention import Amount
from dsfs.storage.room import Room

log = logging.getLogger(__name__)

LOOK_S = 10.0  # longer than a refusal is believed (storage/room.py)


@dataclass
class Refiller:
    """Fills runs that are in memory, and that readers still use or have not come for."""

    segments: SegmentTable
    memory: Memory
    filler: Filler
    room: Room
    health: BackingHealth
    pool: Pool

    async def serve(self) -> None:
        """Service: looks every LOOK_S, for as long as the daemon runs."""
        while True:
            await trio.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # a service that ends would end the mount
                log.exception("unexpected error while filling out of memory")

    async def look(self) -> None:
        """Fill what is in memory, one run after the other, until there is no room."""
        if self.room.unfilled_at_s is None:
            return  # nothing ever found no room
        for run in [run for segment in self.segments for run in set(segment.runs.values())]:
            if not self._is_unfilled(run):
                continue
            if not await self._has_room(run):
                return
            if self._is_unfilled(run):  # still
                self.filler.fill_again(run)

    def _is_unfilled(self, run: Run) -> bool:
        return (
            not run.filled
            and self.memory.is_settled(run)
            and run.segment.runs.get(run.first) is run
            and any(piece.is_done for piece in run.pieces)
            and self.filler.shares.has_room(run.segment.owner, pages(run.length))
        )

    async def _has_room(self, run: Run) -> bool:
        def ask() -> bool:
            try:
                self.room.check(Amount(pages(run.length)))
            except NoRoomError:
                return False
            return True

        try:
            with self.health.patience():
                return await self.pool.run(ask, Priority.AHEAD)
        except BackingSilentError:
            return False
