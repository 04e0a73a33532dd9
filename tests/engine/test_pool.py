"""Worker threads and the bridge to trio: order, promotion, cancellation, errors."""

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import pytest
import trio

from dsfs.cache.pool import Bridge, Pool, Priority, Ticket
from tests.engine.engine import until


@asynccontextmanager
async def pool_of(count: int) -> AsyncIterator[Pool]:
    pool = Pool("pool", count, Bridge())
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def busy(pool: Pool) -> Iterator[None]:
    """The only thread of the pool is held up while this lasts."""
    started, end = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        end.wait(20)

    pool.submit(Ticket(work), Priority.READER)
    started.wait(20)
    try:
        yield
    finally:
        end.set()


async def test_reader_work_goes_before_work_ahead_and_each_in_order() -> None:
    done: list[str] = []
    async with pool_of(1) as pool:
        with busy(pool):
            for number in range(3):
                pool.submit(Ticket(partial(done.append, f"ahead {number}")), Priority.AHEAD)
            for number in range(3):
                pool.submit(Ticket(partial(done.append, f"reader {number}")), Priority.READER)
        await until(lambda: len(done) == 6)
    assert done == [f"{kind} {number}" for kind in ("reader", "ahead") for number in range(3)]


async def test_promoted_work_overtakes_and_is_done_once() -> None:
    done: list[int] = []
    tickets = [Ticket(partial(done.append, number)) for number in range(50)]
    async with pool_of(1) as pool:
        with busy(pool):
            for ticket in tickets:
                pool.submit(ticket, Priority.AHEAD)
            for _ in range(30):
                pool.submit(tickets[40], Priority.READER)
                pool.submit(tickets[40], Priority.AHEAD)
            assert len(pool._queues[Priority.READER]) == 1
        await until(lambda: len(done) == 50)
    assert done == [40, *range(40), *range(41, 50)]


async def test_every_ticket_is_done_whoever_submits_and_promotes() -> None:
    done: list[int] = []
    count = 3_000
    tickets = [Ticket(partial(done.append, number)) for number in range(count)]
    async with pool_of(8) as pool:
        for ticket in tickets:
            pool.submit(ticket, Priority.AHEAD)
        for ticket in tickets[::3]:
            pool.submit(ticket, Priority.READER)
        await until(lambda: len(done) == count)
    assert sorted(done) == list(range(count))


async def test_result_and_error_of_the_work_reach_the_caller() -> None:
    def fail() -> None:
        raise OSError("from the thread")

    async with pool_of(2) as pool:
        assert await pool.run(threading.get_ident) != threading.get_ident()
        with pytest.raises(OSError, match="from the thread"):
            await pool.run(fail)


async def test_cancelled_caller_leaves_the_work_to_end_and_what_comes_after_it() -> None:
    started, end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        started.set()
        end.wait(20)

    async with pool_of(1) as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: pool.run(work, after=lambda: ended.append(end.is_set())))
                await until(started.is_set)
                scope.cancel()
        assert not ended
        end.set()
        await until(lambda: ended)
    assert ended == [True]


@pytest.mark.expects_log("unexpected error while taking up")
async def test_caller_goes_on_though_what_comes_after_fails() -> None:
    def fail() -> None:
        raise RuntimeError("after")

    async with pool_of(1) as pool:
        with trio.fail_after(10):
            assert await pool.run(lambda: 7, after=fail) == 7


@pytest.mark.expects_log("unexpected error in a worker thread")
async def test_thread_survives_work_that_fails() -> None:
    async with pool_of(1) as pool:
        pool.submit(Ticket(lambda: logging.getLogger(None).undefined), Priority.READER)  # type: ignore[attr-defined]
        assert await pool.run(lambda: 7) == 7


async def test_news_of_many_threads_arrive_in_the_order_of_each() -> None:
    bridge = Bridge()
    news: list[tuple[int, int]] = []

    def post(thread: int) -> None:
        for number in range(500):
            bridge.post(partial(news.append, (thread, number)))

    threads = [threading.Thread(target=post, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    await until(lambda: len(news) == 4_000)
    for thread in threads:
        thread.join()
    for number in range(8):
        assert [place for thread_number, place in news if thread_number == number] == list(range(500))


def test_post_after_the_end_of_trio_does_nothing() -> None:
    async def make() -> Bridge:
        return Bridge()

    bridge = trio.run(make)
    bridge.post(lambda: pytest.fail("nobody is there"))
