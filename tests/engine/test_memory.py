"""The budget of buffers: never exceeded, fair to readers, and the right run leaves first."""

import mmap
from dataclasses import dataclass
from typing import cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dsfs.cache.memory import PATIENCE_S, Discarding, Memory, fills_at_once, shares
from dsfs.cache.pool import Ticket
from dsfs.cache.runs import Run
from dsfs.cache.slot import SLOT_SIZES, Slot

SMALL, MEDIUM, LARGE = SLOT_SIZES


@dataclass(eq=False)
class StubRun:
    """What Memory looks at of a run."""

    slot: Slot
    users: int = 0
    consumed: bool = False
    filled: bool = False
    fill_ticket: Ticket | None = None


class Scene:
    """A Memory for two large slots and the runs that were discarded from it."""

    def __init__(self, limit_bytes: int = 2 * LARGE) -> None:
        self.discarded: list[Run] = []
        self.memory = Memory(limit_bytes, self.discarded.append)

    def run(self, *, consumed: bool = False, filled: bool = False) -> Run:
        """A run in a large slot, settled."""
        run = self.in_flight()
        run.consumed, run.filled = consumed, filled
        self.memory.settle(run)
        return run

    def in_flight(self) -> Run:
        slot = self.memory.try_take(LARGE, Discarding.CONSUMED)
        assert slot is not None
        return cast(Run, StubRun(slot))

    def queued(self) -> Run:
        """A run whose fill is queued; given up, it settles."""
        run = self.in_flight()
        ticket = run.fill_ticket = Ticket(lambda: None)

        def give_up() -> None:
            if ticket.take():
                self.memory.settle(run)

        self.memory.queued(run, give_up)
        return run


@pytest.mark.parametrize("connections", [1, 64, 1024])
@pytest.mark.parametrize("limit_bytes", [16 * LARGE, 128 * LARGE, 1 << 36])
def test_the_limit_holds_both_budgets_and_each_holds_the_largest_slot(limit_bytes: int, connections: int) -> None:
    for_runs, for_resident = shares(limit_bytes, connections)
    assert for_runs + for_resident < limit_bytes
    assert for_runs >= for_resident >= LARGE


@pytest.mark.parametrize(("limit_bytes", "count"), [(LARGE, 1), (6 * LARGE, 3), (16 * LARGE, 8), (1 << 36, 8)])
def test_fills_that_hang_leave_half_of_the_memory(limit_bytes: int, count: int) -> None:
    assert fills_at_once(limit_bytes) == count


def test_slot_is_the_smallest_that_holds_the_length() -> None:
    memory = Memory(16 * LARGE, lambda run: None)
    sizes = [1, SMALL, SMALL + 1, MEDIUM, MEDIUM + 1, LARGE]
    taken = [memory.try_take(size, Discarding.SETTLED) for size in sizes]
    assert [slot.size for slot in taken if slot] == [SMALL, SMALL, MEDIUM, MEDIUM, LARGE, LARGE]


def test_buffer_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    slot = Slot(SMALL)
    assert slot.put(SMALL - 3, memoryview(b"abc")) == 3
    with pytest.raises(ValueError, match="do not fit"):
        slot.put(SMALL - 2, b"xyz")
    assert bytes(slot.view[-4:]) == b"\0abc"


def test_a_kernel_without_huge_pages_gives_slots_of_ordinary_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 12_345)  # an advice that no kernel knows
    assert Slot(LARGE).put(0, b"abc") == 3


def test_memory_of_another_size_is_freed_for_a_want_within_the_limit() -> None:
    scene = Scene(LARGE)
    memory = scene.memory
    slots = [memory.try_take(SMALL, Discarding.SETTLED) for _ in range(LARGE // SMALL)]
    assert memory.try_take(SMALL, Discarding.SETTLED) is None
    for slot in slots:
        assert slot is not None
        memory.give_back(slot)
    assert memory.try_take(LARGE, Discarding.SETTLED) is not None
    assert memory.allocated_bytes == LARGE
    memory.check()


def test_free_slots_are_kept_when_they_would_not_make_enough_room() -> None:
    scene = Scene(LARGE)
    memory = scene.memory
    kept, other = memory.try_take(SMALL, Discarding.SETTLED), memory.try_take(SMALL, Discarding.SETTLED)
    assert kept is not None
    assert other is not None
    memory.give_back(kept)
    assert memory.try_take(LARGE, Discarding.SETTLED) is None
    assert memory.try_take(SMALL, Discarding.SETTLED) is kept


@pytest.mark.parametrize(
    ("discarding", "leaves"), [(Discarding.CONSUMED, 1), (Discarding.FILLED, 2), (Discarding.SETTLED, 3)]
)
def test_what_pushes_out_what(discarding: Discarding, leaves: int) -> None:
    scene = Scene(4 * LARGE)
    unfilled, filled = scene.run(), scene.run(filled=True)
    in_flight, consumed = scene.in_flight(), scene.run(consumed=True)
    taken = 0
    while scene.memory.try_take(LARGE, discarding):
        taken += 1
    assert scene.discarded == [consumed, filled, unfilled][:leaves]
    assert taken == leaves
    assert in_flight not in scene.discarded
    scene.memory.check()


def test_consumed_runs_leave_in_the_order_they_were_consumed() -> None:
    scene = Scene(3 * LARGE)
    first, second, third = scene.run(filled=True), scene.run(filled=True), scene.run(filled=True)
    scene.memory.consume(third)
    scene.memory.consume(first)
    for _ in range(2):
        scene.memory.try_take(LARGE, Discarding.CONSUMED)
    assert scene.discarded == [third, first]
    assert scene.memory.is_settled(second)


def test_run_with_users_stays() -> None:
    scene = Scene()
    used = scene.run()
    used.users = 1
    unused = scene.run()
    assert scene.memory.try_take(LARGE, Discarding.SETTLED) is not None
    assert scene.memory.try_take(LARGE, Discarding.SETTLED) is None
    assert scene.discarded == [unused]


def test_consumed_memory_is_used_again_before_fresh_memory_is_taken() -> None:
    scene = Scene(16 * LARGE)
    for _ in range(5):
        scene.run(consumed=True, filled=True)
    assert scene.memory.allocated_bytes == LARGE
    for _ in range(5):
        scene.run(consumed=True)
    assert scene.memory.allocated_bytes == 5 * LARGE, "what could not be filled stays while there is room"


async def test_reader_goes_on_when_the_last_user_of_a_settled_run_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene(LARGE)
    run = scene.run()
    run.users = 1
    began = trio.current_time()
    got: list[Slot] = []

    async def reader() -> None:
        got.append(await scene.memory.take(LARGE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert not got
        scene.memory.leave(run)
        await wait_all_tasks_blocked()
        assert got == [run.slot]
    assert trio.current_time() == began


async def test_readers_get_memory_in_the_order_they_came_and_nobody_overtakes_them() -> None:
    scene = Scene(LARGE)
    run = scene.in_flight()
    order: list[int] = []

    async def reader(number: int) -> None:
        slot = await scene.memory.take(LARGE if number % 2 else SMALL)
        order.append(number)
        await trio.lowlevel.checkpoint()
        scene.memory.give_back(slot)

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(reader, number)
            await wait_all_tasks_blocked()
        scene.memory.settle(run)
        assert scene.memory.try_take(SMALL, Discarding.SETTLED) is None
    assert order == list(range(10))
    assert scene.memory.try_take(SMALL, Discarding.SETTLED) is not None


@pytest.mark.parametrize("change", ["given back", "settled", "consumed", "reader gone"])
async def test_whoever_does_not_wait_in_the_queue_is_told_when_there_is_room(change: str) -> None:
    scene = Scene()
    memory = scene.memory
    unfilled = scene.run()
    in_flight = scene.in_flight()
    if change == "reader gone":
        memory.discard(unfilled)
        memory.try_take(SMALL, Discarding.CONSUMED)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery, trio.open_nursery() as readers:
            if change == "reader gone":
                readers.start_soon(memory.take, LARGE)
            await wait_all_tasks_blocked()
            assert memory.try_take(SMALL, Discarding.FILLED) is None
            nursery.start_soon(memory.wait_changed)
            await wait_all_tasks_blocked()
            if change == "given back":
                memory.give_back(in_flight.slot)
            elif change == "settled":
                in_flight.filled = True
                memory.settle(in_flight)
            elif change == "consumed":
                memory.consume(unfilled)
            readers.cancel_scope.cancel()
    assert memory.try_take(SMALL, Discarding.FILLED) is not None


async def test_cancelled_reader_leaves_the_queue_and_the_memory_to_the_next() -> None:
    scene = Scene(LARGE)
    run = scene.in_flight()
    with trio.CancelScope() as first:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.memory.take, LARGE)
            await wait_all_tasks_blocked()
            first.cancel()
    scene.memory.settle(run)
    with trio.fail_after(1):
        await scene.memory.take(LARGE)
    assert scene.memory.used_bytes == LARGE


async def test_fill_is_given_up_when_it_has_been_queued_too_long_for_a_reader(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene()
    oldest = scene.queued()
    await trio.sleep(0.5)
    scene.queued()
    began = trio.current_time()
    assert await scene.memory.take(LARGE) is oldest.slot
    assert trio.current_time() - began == pytest.approx(PATIENCE_S - 0.5)
    began = trio.current_time()
    await scene.memory.take(LARGE)
    assert trio.current_time() - began == pytest.approx(0.5), "the next is late too, without another PATIENCE_S"


async def test_fill_that_a_reader_uses_or_a_thread_writes_is_not_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scene = Scene(3 * LARGE)
    used, written, idle = scene.queued(), scene.queued(), scene.queued()
    used.users = 1
    assert written.fill_ticket is not None
    written.fill_ticket.take()
    assert await scene.memory.take(LARGE) is idle.slot
    with trio.move_on_after(100) as waiting:
        await scene.memory.take(LARGE)
    assert waiting.cancelled_caught
    scene.memory.check()
