"""A cheaper event loop for pyfuse3: the reader of /dev/fuse does not go through the scheduler for every
request.

pyfuse3 takes its lock and waits for its file descriptor by the module global `trio`, which may be replaced
(its own asyncio support does that).  With the stock loop each request costs 60 us of CPU, with this one 15-20
us (measured: lookup 93 -> 38 us, cold 4 KiB read 79 -> 24 us, 5,000 small files x2 to x2.5).  What changes: a
free lock is taken without a checkpoint, and the descriptor is polled before the task is parked.  After BURST
requests in a row the others get their turn.
"""

import select
import types
from collections import deque

import trio

BURST = 32  # requests taken in a row before other tasks run


class BargingLock:
    """A lock without a checkpoint while it is free; whom `release` wakes has to try again."""

    def __init__(self) -> None:
        self._is_held = False
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._is_one_woken = False

    async def __aenter__(self) -> None:
        while self._is_held:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
            self._is_one_woken = False
        self._is_held = True

    async def __aexit__(self, *_: object) -> None:
        self._is_held = False
        if self._waiting and not self._is_one_woken:
            self._is_one_woken = True
            trio.lowlevel.reschedule(self._waiting.popleft())


class _Readable:
    """Waits for a descriptor, most often by one poll(2)."""

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._in_a_row = 0

    async def wait(self, fd: int) -> None:
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        if self._in_a_row < BURST:
            self._in_a_row += 1
            if self._poll.poll(0):
                return
        self._in_a_row = 0
        await trio.lowlevel.wait_readable(fd)


def facade() -> types.SimpleNamespace:
    """What stands in for the module `trio` inside pyfuse3, for one session."""
    lowlevel = types.SimpleNamespace(
        wait_readable=_Readable().wait,
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
    )
    return types.SimpleNamespace(
        lowlevel=lowlevel,
        Lock=BargingLock,
        open_nursery=trio.open_nursery,
        ClosedResourceError=trio.ClosedResourceError,
        from_thread=trio.from_thread,
    )
