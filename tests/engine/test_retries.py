"""When the origin fails: what is repeated, what is an error at once, how long it is believed, how long readers wait."""

import errno
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from dsfs.cache.fetch import AHEAD_ATTEMPTS
from dsfs.cache.memory import Discarding
from dsfs.cache.runs import ERROR_BELIEVED_S
from dsfs.model.errors import AccessDeniedError, DsfsError, OriginTemporaryError, OriginTimeoutError
from dsfs.model.retry import MAX_DELAY_S
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin, Get

SMALL = PREFIX + "v1/small"
CONTENT = Random(2).randbytes(MIB)
SLOW_DOWN = OriginTemporaryError("503 SlowDown")


def origin_with_small() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(SMALL, CONTENT)
    return origin


async def retried(engine: Engine, count: int) -> None:
    """Wait until so many attempts have failed and the delay before the next has begun: then the clock may jump."""
    await until(lambda: engine.metrics.origin_retries.value() == count)
    await trio.testing.wait_all_tasks_blocked()


async def test_failed_attempt_is_repeated_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    origin = origin_with_small()
    origin.fail(SMALL, OriginTemporaryError("reset"), after=300_000)
    origin.fail(SMALL, OriginTemporaryError("reset"), after=100_000)
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == CONTENT
        assert engine.metrics.origin_retries.value() == 2
    assert origin.sent_bytes == len(CONTENT)
    assert origin.gets == [Get(SMALL, start, MIB - start) for start in (0, 300_000, 400_000)]


async def test_repetition_comes_after_a_delay(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_small()
    origin.fail(SMALL, SLOW_DOWN)
    async with running(tmp_path, origin) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.read_path, "v1/small")
        await retried(engine, 1)
        assert len(origin.gets) == 1
        mock_clock.jump(MAX_DELAY_S)
        await until(lambda: len(origin.gets) == 2)


async def test_fault_behind_the_last_byte_costs_nothing(tmp_path: Path) -> None:
    origin = origin_with_small()
    origin.fail(SMALL, OriginTemporaryError("reset"), after=len(CONTENT))
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == CONTENT
    assert len(origin.gets) == 1


@pytest.mark.expects_log("fetch failed", "has drifted")
@pytest.mark.parametrize(
    ("fault", "expected"), [("deleted", errno.ESTALE), ("replaced", errno.ESTALE), ("refused", errno.EACCES)]
)
async def test_permanent_error_comes_at_once_and_only_to_the_readers_of_that_file(
    tmp_path: Path, mock_clock: MockClock, fault: str, expected: int
) -> None:
    origin = FakeOrigin()
    contents = {name: Random(name).randbytes(10_000) for name in ("a", "b", "c")}
    for name, content in contents.items():
        origin.put(f"{PREFIX}v1/{name}", content)
    key = f"{PREFIX}v1/b"
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/b")
        if fault == "deleted":
            origin.delete(key)
        elif fault == "replaced":
            origin.put(key, b"x" * 10_000)
        else:
            origin.fail_always(key, AccessDeniedError("403"))
        for name in ("a", "c"):
            assert await engine.read_path(f"v1/{name}") == contents[name]
        with pytest.raises(DsfsError) as caught:
            await engine.read(file)
        assert caught.value.errno == expected
        assert origin.count(key) == 1
        version = await engine.library.version(await engine.library.dataset("photos"), "v1")
        assert version.state == ("ready" if fault == "refused" else "drifted")
        await engine.settle()
        assert engine.metrics.fill_bytes.value() == 20_000, "the others of the pack were filled"
        engine.opener.release(file)


@pytest.mark.expects_log("fetch failed")
async def test_error_is_believed_for_a_moment_and_not_for_ever(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_small()
    origin.fail_always(SMALL, AccessDeniedError("403"))
    async with running(tmp_path, origin) as engine:
        for _ in range(10):
            with pytest.raises(AccessDeniedError):
                await engine.read_path("v1/small")
        assert len(origin.gets) == 1
        origin.fail_always(SMALL, None)
        mock_clock.jump(ERROR_BELIEVED_S)
        assert await engine.read_path("v1/small") == CONTENT


class Waiting:
    """A reader in a task, and how its read ended."""

    def __init__(self, engine: Engine, nursery: trio.Nursery) -> None:
        self.engine = engine
        self.ended: bytes | DsfsError | None = None
        self.after_s = -1.0
        nursery.start_soon(self._read)

    async def _read(self) -> None:
        began = trio.current_time()
        try:
            self.ended = await self.engine.read_path("v1/small")
        except DsfsError as exc:
            self.ended = exc
        self.after_s = trio.current_time() - began


async def test_reader_waits_no_longer_than_the_timeout(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_small()
    gate = origin.hold(SMALL, after=10)
    async with running(tmp_path, origin, Settings(timeout_s=20)) as engine:
        async with trio.open_nursery() as nursery:
            first = Waiting(engine, nursery)
            await until(gate.reached.is_set)
            mock_clock.jump(15)
            second = Waiting(engine, nursery)
            await until(lambda: engine.metrics.flight_joins.value() == 1)
            mock_clock.jump(5)
            await until(lambda: first.ended)
            assert isinstance(first.ended, OriginTimeoutError)
            assert (first.ended.errno, first.after_s) == (errno.EIO, 20)
            again = Waiting(engine, nursery)  # as the kernel asks once more for what failed in its readahead
            await until(lambda: again.ended)
            assert isinstance(again.ended, OriginTimeoutError)
            assert again.after_s == 0
            assert second.after_s < 0, "who came later waits his own time"
            gate.open()
        assert second.ended == CONTENT
        assert await engine.read_path("v1/small") == CONTENT, "what has come is no error any more"
    assert len(origin.gets) == 1


async def test_origin_that_comes_back_within_the_timeout_costs_the_reader_only_time(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = origin_with_small()
    async with running(tmp_path, origin, Settings(timeout_s=30)) as engine:
        file = await engine.open("v1/small")
        origin.fail_everything(SLOW_DOWN)
        async with trio.open_nursery() as nursery:
            reader = Waiting(engine, nursery)
            for count in range(1, 6):
                await retried(engine, count)
                mock_clock.jump(MAX_DELAY_S)
            origin.fail_everything(None)
            await until(lambda: engine.metrics.origin_retries.value() == 6 or reader.ended)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(MAX_DELAY_S - 1)  # in case the last of these jumps was too early for it
        assert reader.ended == CONTENT
        engine.opener.release(file)


async def test_timeout_names_the_last_fault(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_small()
    origin.fail(SMALL, SLOW_DOWN)
    gate = origin.hold(SMALL)
    async with running(tmp_path, origin, Settings(timeout_s=20)) as engine:
        async with trio.open_nursery() as nursery:
            reader = Waiting(engine, nursery)
            await retried(engine, 1)
            mock_clock.jump(1)
            await until(gate.reached.is_set)
            mock_clock.jump(19)
            await until(lambda: reader.ended)
            gate.open()
        assert "503 SlowDown" in str(reader.ended)


@pytest.mark.expects_log("fetch failed: 503")
async def test_readahead_that_fails_is_no_error_to_the_reader_who_comes_next(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = origin_with_small()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/small")
        assert file.segment is not None
        origin.fail_everything(SLOW_DOWN)
        engine.fetcher.ahead(file.segment, 0, 1, 1, Discarding.CONSUMED)
        for count in range(1, AHEAD_ATTEMPTS):
            await retried(engine, count)
            mock_clock.jump(MAX_DELAY_S)
        await until(lambda: not engine.fetcher.in_flight)
        origin.fail_everything(None)
        assert await engine.read(file) == CONTENT
        engine.opener.release(file)
    assert len(origin.gets) == AHEAD_ATTEMPTS + 1


async def test_reader_who_joins_failing_readahead_keeps_it_going(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_small()
    origin.fail(SMALL, *[SLOW_DOWN] * (AHEAD_ATTEMPTS + 2))
    async with running(tmp_path, origin, Settings(timeout_s=60)) as engine:
        file = await engine.open("v1/small")
        assert file.segment is not None
        engine.fetcher.ahead(file.segment, 0, 1, 1, Discarding.CONSUMED)
        async with trio.open_nursery() as nursery:
            await retried(engine, 1)
            reader = Waiting(engine, nursery)
            await until(lambda: engine.metrics.flight_joins.value() == 1)
            for count in range(2, AHEAD_ATTEMPTS + 3):
                mock_clock.jump(MAX_DELAY_S)
                await retried(engine, count)
            mock_clock.jump(MAX_DELAY_S)
        assert reader.ended == CONTENT
        engine.opener.release(file)


@pytest.mark.expects_log("unexpected error while fetching")
async def test_unexpected_error_in_the_origin_is_repeated_like_a_fault(tmp_path: Path) -> None:
    origin = origin_with_small()
    origin.fail(SMALL, RuntimeError("a bug"))
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == CONTENT
