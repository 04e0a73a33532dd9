"""One budget for all buffers: page-aligned slots, reused, in three sizes.

Concurrency: the trio thread only.  A slot is written by the worker threads of its run and read by the kernel
while a reply is sent; it goes back to the free list only when its run is dropped, and a run with users or
work in flight is never dropped.

INVARIANT: `allocated_bytes` is the size of all slots, in use or free, and at most `limit_bytes`.
INVARIANT: a run is in `_settled` exactly while no worker can touch its slot.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum

import trio

from dsfs.cache.runs import Run
from dsfs.cache.slot import SLOT_SIZES, Slot

PATIENCE_S = 2.0  # a reader waits so long for fills to free memory before queued fills are given up


class Dropping(IntEnum):
    """What a want for memory may push out."""

    CONSUMED = 0  # runs that a reader has had to their end
    FILLED = 1  # and those that can be read back from the backing directory
    SETTLED = 2  # and those that could not be filled


class Memory:
    """Hands out slots; drops settled runs when it must.  `forget(run)` takes a dropped run out of its segment."""

    def __init__(self, limit_bytes: int, forget: Callable[[Run], None]) -> None:
        self.limit_bytes = limit_bytes
        self.allocated_bytes = 0
        self.free_bytes = 0
        self._forget = forget
        self._free: dict[int, list[Slot]] = {size: [] for size in SLOT_SIZES}
        self._settled: OrderedDict[Run, None] = OrderedDict()
        self._queued_fills: OrderedDict[Run, Callable[[Run], None]] = OrderedDict()
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def used_bytes(self) -> int:
        return self.allocated_bytes - self.free_bytes

    def try_take(self, length: int, dropping: Dropping) -> Slot | None:
        """A slot for `length` bytes, or None if nothing that `dropping` allows makes room."""
        size = next(size for size in SLOT_SIZES if size >= length)
        while not (slot := self._at_hand(size)):
            if not self._drop_one(dropping):
                return None
        return slot

    async def take(self, length: int) -> Slot:
        """The same for a reader: waits for room.  Fills that hold it up for longer than PATIENCE_S are given up."""
        while True:
            if slot := self.try_take(length, Dropping.SETTLED):
                return slot
            with trio.move_on_after(PATIENCE_S) as patience:
                await self._changed.park()
            if patience.cancelled_caught:
                self._give_up_a_fill()

    def _at_hand(self, size: int) -> Slot | None:
        if self._free[size]:
            self.free_bytes -= size
            return self._free[size].pop()
        for other in SLOT_SIZES:
            while self.allocated_bytes + size > self.limit_bytes and self._free[other]:
                self._free[other].pop()  # unmapped with its last reference
                self.allocated_bytes -= other
                self.free_bytes -= other
        if self.allocated_bytes + size > self.limit_bytes:
            return None
        self.allocated_bytes += size
        return Slot(size)

    def _drop_one(self, dropping: Dropping) -> bool:
        for run in self._settled:
            if run.users:
                continue
            if dropping is Dropping.CONSUMED and not run.consumed:
                break  # consumed runs stand in front
            if dropping is Dropping.FILLED and not (run.filled or run.consumed):
                continue
            self.drop(run)
            return True
        return False

    def drop(self, run: Run) -> None:
        """Take a settled run out of memory."""
        del self._settled[run]
        self._forget(run)
        self.give_back(run.slot)

    def give_back(self, slot: Slot) -> None:
        """The slot is unused."""
        self._free[slot.size].append(slot)
        self.free_bytes += slot.size
        self._changed.unpark_all()

    def queued(self, run: Run, give_up: Callable[[Run], None]) -> None:
        """The run waits to be filled; `give_up(run)` lets it go unfilled (and settles it)."""
        self._queued_fills[run] = give_up

    def settle(self, run: Run) -> None:
        """No worker touches the run any more."""
        self._queued_fills.pop(run, None)
        self._settled[run] = None
        if run.consumed:
            self._settled.move_to_end(run, last=False)
        self._changed.unpark_all()

    def consume(self, run: Run) -> None:
        """A reader has had the run to its end: it goes first."""
        run.consumed = True
        if run in self._settled:
            self._settled.move_to_end(run, last=False)

    def is_settled(self, run: Run) -> bool:
        return run in self._settled

    def _give_up_a_fill(self) -> None:
        """The backing directory is slower than readers can wait: let a queued run go unfilled."""
        for run, give_up in self._queued_fills.items():
            if not run.users and run.fill_ticket is not None and run.fill_ticket.take():
                give_up(run)
                return

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        assert self.allocated_bytes <= self.limit_bytes
        assert self.free_bytes == sum(size * len(slots) for size, slots in self._free.items())
        assert not set(self._settled) & set(self._queued_fills)
