"""The budget of buffers: page-aligned slots, reused, in three sizes.

There are two: one for runs, and a small one for blocks that are read from unfinished segments, so that resident bytes
never wait for memory that readers of a silent origin hold.

Concurrency: the trio thread only.  A slot is written by the worker threads of its run and read by the kernel
while a reply is sent; it goes back to the free list only when its run is discarded, and a run with users or
work in flight is never discarded.  Readers that wait for room get it in the order they came; meanwhile nobody
else gets any.

INVARIANT: `allocated_bytes` is the size of all slots, in use or free, and at most `limit_bytes`.
INVARIANT: a run is in `_settled` exactly while no worker can touch its slot.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from enum import IntEnum

import trio

from dsfs.cache.runs import Run
from dsfs.cache.slot import SLOT_SIZES, Slot
from dsfs.model.blocks import RUN

# What the origin's library holds for each connection: its pieces are copied into slots as they come.
CONNECTION_BYTES = 512 * 1024
RESIDENT_BYTES = 4 * RUN  # a slot of a mebibyte (the kernel's largest READ) for each thread of the backing pool
MOST_FILLS = 8
PATIENCE_S = 2.0  # a fill that has been queued for so long is given up when a reader waits for memory


def shares(limit_bytes: int, connections: int) -> tuple[int, int]:
    """What of `memory.limit` is for runs, and what for blocks of unfinished segments.

    The rest is what the origin's library takes.
    """
    left_bytes = limit_bytes - min(connections * CONNECTION_BYTES, limit_bytes // 2)
    resident_bytes = min(RESIDENT_BYTES, left_bytes // 4)
    return left_bytes - resident_bytes, resident_bytes


def fills_at_once(limit_bytes: int) -> int:
    """How many threads may fill out of a budget of so many bytes.

    While the backing directory is silent each may hang with a run in its hands, and half is to be left for readers.
    """
    return max(1, min(MOST_FILLS, limit_bytes // (2 * RUN)))


class Discarding(IntEnum):
    """What a want for memory may push out: settled runs of this kind and of those before it, oldest first."""

    CONSUMED = 0  # runs that readers have had to their end
    FILLED = 1  # runs that can be read back from the backing directory
    SETTLED = 2  # runs that could not be filled


class Memory:
    """Hands out slots; discards settled runs when it must.  `forget(run)` takes a discarded run out of its segment."""

    def __init__(self, limit_bytes: int, forget: Callable[[Run], None]) -> None:
        self.limit_bytes = limit_bytes
        self.allocated_bytes = 0
        self.free_bytes = 0
        self._forget = forget
        self._free: dict[int, list[Slot]] = {size: [] for size in SLOT_SIZES}
        self._settled: tuple[OrderedDict[Run, None], ...] = tuple(OrderedDict() for _ in Discarding)
        self._queued_fills: OrderedDict[Run, tuple[float, Callable[[], None]]] = OrderedDict()
        self._turn = trio.Lock()
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def used_bytes(self) -> int:
        return self.allocated_bytes - self.free_bytes

    def try_take(self, length: int, discarding: Discarding) -> Slot | None:
        """A slot for `length` bytes; None if nothing that `discarding` allows makes room, or if readers wait for it."""
        return None if self._turn.locked() else self._take(length, discarding)

    async def take(self, length: int) -> Slot:
        """The same for a reader: waits for room.  Fills that are late for it are given up."""
        try:
            async with self._turn:
                while (slot := self._take(length, Discarding.SETTLED)) is None:
                    late_in_s, give_up = self._oldest_fill()
                    if late_in_s <= 0:
                        give_up()
                        continue
                    with trio.move_on_after(late_in_s):
                        await self._changed.park()
                return slot
        finally:
            self._changed.unpark_all()  # whoever may not overtake readers

    async def wait_changed(self) -> None:
        """Wait until `try_take` may have another answer."""
        await self._changed.park()

    def _take(self, length: int, discarding: Discarding) -> Slot | None:
        size = next(size for size in SLOT_SIZES if size >= length)
        # Memory that was in use is faster than fresh pages: rather discard what nobody will miss than grow.
        oldest = next(iter(self._settled[Discarding.CONSUMED]), None)
        if oldest is not None and oldest.filled and not oldest.users and not self._free[size]:
            self.discard(oldest)
        while (slot := self._at_hand(size)) is None:
            if not self._discard_one(discarding):
                return None
        return slot

    def _at_hand(self, size: int) -> Slot | None:
        if self._free[size]:
            self.free_bytes -= size
            return self._free[size].pop()
        if self.used_bytes + size > self.limit_bytes:
            return None
        for other in SLOT_SIZES:
            while self.allocated_bytes + size > self.limit_bytes and self._free[other]:
                self._free[other].pop().return_pages()
                self.allocated_bytes -= other
                self.free_bytes -= other
        slot = Slot(size)
        self.allocated_bytes += size
        return slot

    def _discard_one(self, discarding: Discarding) -> bool:
        for runs in self._settled[: discarding + 1]:
            for run in runs:
                if not run.users:
                    self.discard(run)
                    return True
        return False

    def discard(self, run: Run) -> None:
        """Take a settled run out of memory."""
        self.unsettle(run)
        self._forget(run)
        self.give_back(run.slot)

    def give_back(self, slot: Slot) -> None:
        """The slot is unused."""
        self._free[slot.size].append(slot)
        self.free_bytes += slot.size
        self._changed.unpark_all()

    # ---------------------------------------------------------------- what becomes of a run

    def queued(self, run: Run, give_up: Callable[[], None]) -> None:
        """The run waits to be filled; `give_up` lets it go unfilled (and settles it)."""
        self._queued_fills[run] = (trio.current_time(), give_up)

    def give_up_fills(self) -> None:
        """Let every queued fill go: the backing directory does not answer."""
        for _, give_up in list(self._queued_fills.values()):
            give_up()

    def settle(self, run: Run) -> None:
        """No worker touches the run any more."""
        self._queued_fills.pop(run, None)
        rest = Discarding.FILLED if run.filled else Discarding.SETTLED
        self._settled[Discarding.CONSUMED if run.consumed else rest][run] = None
        self._changed.unpark_all()

    def unsettle(self, run: Run) -> None:
        """A worker is to touch the run once more."""
        for runs in self._settled:
            runs.pop(run, None)

    def is_settled(self, run: Run) -> bool:
        return any(run in runs for runs in self._settled)

    def consume(self, run: Run) -> None:
        """Readers have had all of the run: it goes first."""
        run.consumed = True
        for runs in self._settled[Discarding.FILLED :]:
            if run in runs:
                del runs[run]
                self._settled[Discarding.CONSUMED][run] = None
                self._changed.unpark_all()

    def leave(self, run: Run) -> None:
        """One user of the run less."""
        run.users -= 1
        if not run.users:
            self._changed.unpark_all()

    def _oldest_fill(self) -> tuple[float, Callable[[], None]]:
        """In how many seconds the oldest fill that can be given up will be late, and how to give it up."""
        for run, (queued_s, give_up) in self._queued_fills.items():
            if not run.users and run.fill_ticket is not None and run.fill_ticket.is_queued:
                return queued_s + PATIENCE_S - trio.current_time(), give_up
        return math.inf, lambda: None

    def check(self) -> None:
        """Assert the invariants (for tests)."""
        assert self.allocated_bytes <= self.limit_bytes
        assert self.free_bytes == sum(size * len(slots) for size, slots in self._free.items())
        settled = [run for runs in self._settled for run in runs]
        assert len(settled) == len(set(settled))
        assert not set(settled) & set(self._queued_fills)
