"""What each origin has of this node: threads of its own, and at most a share of memory while it is waited for.

So a silent origin holds up nobody who reads from another one.

Concurrency: the trio thread.
"""

from dataclasses import dataclass, field

import trio

from dsfs.cache.pool import Bridge, Pool
from dsfs.storage.origin import Origin


@dataclass
class Lane:
    """One origin's.

    INVARIANT: `under_way` is the number of its pieces that wait for a claim, are queued, or are in the hands of a
    thread, `held_bytes` the size of the slots of its runs that wait for a claim or for it.
    """

    pool: Pool
    most_bytes: int
    under_way: int = 0
    held_bytes: int = 0
    _less: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    def has_room(self, length: int) -> bool:
        """Whether a run of `length` bytes may start; one at a time always may."""
        return not self.held_bytes or self.held_bytes + length <= self.most_bytes

    async def wait_room(self, length: int) -> None:
        """Wait until a run of `length` bytes may start."""
        while not self.has_room(length):
            await self._less.park()

    async def wait_few(self, count: int) -> None:
        """Wait until fewer than `count` pieces are under way; lets other tasks run in any case."""
        await trio.lowlevel.checkpoint()
        while self.under_way >= count:
            await self._less.park()

    def pieces_ended(self, count: int) -> None:
        """So many pieces less are under way."""
        self.under_way -= count
        self._less.unpark_all()

    def run_ended(self, slot_bytes: int) -> None:
        """A run no longer waits for the origin."""
        self.held_bytes -= slot_bytes
        self._less.unpark_all()


class Lanes:
    """A lane for each origin, made when it is first asked for.

    `connections`: threads of each; `most_bytes`: what its runs may hold while they wait for it.
    """

    def __init__(self, bridge: Bridge, connections: int, most_bytes: int) -> None:
        self._bridge = bridge
        self._connections = connections
        self._most_bytes = most_bytes
        self._lanes: dict[Origin, Lane] = {}

    def of(self, origin: Origin) -> Lane:
        lane = self._lanes.get(origin)
        if lane is None:
            pool = Pool(f"origin-{len(self._lanes)}", self._connections, self._bridge)
            lane = self._lanes[origin] = Lane(pool, self._most_bytes)
        return lane

    def close(self) -> None:
        """Let the idle threads end."""
        for lane in self._lanes.values():
            lane.pool.close()
