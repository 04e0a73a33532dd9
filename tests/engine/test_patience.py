"""A read waits for the origin no longer than the timeout: for memory and for bytes, all its runs together."""

from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache.memory import Discarding
from dsfs.cache.read import OpenFile
from dsfs.model.blocks import BLOCK, RUN
from dsfs.model.errors import OriginTimeoutError
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults

LARGE = PREFIX + "v1/large"
CONTENT = Random(6).randbytes(24 * MIB)


def origin_with_large() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(LARGE, CONTENT)
    return origin


class Read:
    """A read in a task, and how it ended."""

    def __init__(self, engine: Engine, nursery: trio.Nursery, file: OpenFile, offset: int, size: int) -> None:
        self.ended: bytes | OriginTimeoutError | None = None
        nursery.start_soon(self._read, engine, file, offset, size)

    async def _read(self, engine: Engine, file: OpenFile, offset: int, size: int) -> None:
        try:
            self.ended = await engine.read(file, offset, size)
        except OriginTimeoutError as exc:
            self.ended = exc


async def fails_at(mock_clock: MockClock, seconds: float, read: Read) -> None:
    """Let so many seconds pass: the read ends with the last tenth of them, and not before."""
    await wait_all_tasks_blocked()
    mock_clock.jump(seconds - 0.1)
    await wait_all_tasks_blocked()
    assert read.ended is None
    mock_clock.jump(0.2)
    await until(lambda: read.ended, "the end of the read")
    assert isinstance(read.ended, OriginTimeoutError)


async def test_read_of_two_runs_waits_for_both_no_longer_than_for_one(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_large()
    first, second = origin.hold(LARGE), origin.hold(LARGE)
    async with running(tmp_path, origin, Settings(timeout_s=20)) as engine:
        file = await engine.open("v1/large")
        async with trio.open_nursery() as nursery:
            read = Read(engine, nursery, file, 2 * RUN - 1_000, 2_000)
            await until(first.reached.is_set)
            mock_clock.jump(15)
            first.open()
            await until(second.reached.is_set)
            await fails_at(mock_clock, 5, read)
        second.open()
        engine.opener.release(file)


async def test_read_waits_for_memory_and_then_for_bytes_no_longer_than_for_one(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = origin_with_large()
    first, second = origin.hold(LARGE), origin.hold(LARGE)
    async with running(tmp_path, origin, Settings(memory_bytes=RUN, timeout_s=20)) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        engine.fetcher.ahead(file.segment, 0, RUN // BLOCK, RUN // BLOCK, Discarding.CONSUMED)
        await until(first.reached.is_set)
        async with trio.open_nursery() as nursery:
            read = Read(engine, nursery, file, 3 * RUN, 10)
            await wait_all_tasks_blocked()
            mock_clock.jump(15)
            first.open()
            await until(second.reached.is_set)
            await fails_at(mock_clock, 5, read)
        second.open()
        engine.opener.release(file)


async def test_time_that_the_backing_directory_takes_is_not_the_origins(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = origin_with_large()
    start = 3 * RUN
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        await engine.read(file, start + BLOCK, 10)
        engine.opener.release(file)
    asked = origin.hold(LARGE)
    async with running(tmp_path, origin, Settings(timeout_s=20)) as engine:
        file = await engine.open("v1/large")
        slow = Faults(monkeypatch).hold("segment.read")
        async with trio.open_nursery() as nursery:
            read = Read(engine, nursery, file, start, 3 * BLOCK)  # missing, resident, missing
            await until(asked.reached.is_set)
            mock_clock.jump(15)
            asked.open()
            await until(slow.reached.is_set)
            mock_clock.jump(60)
            slow.open()
        assert read.ended == CONTENT[start : start + 3 * BLOCK]
        engine.opener.release(file)
