"""Little memory costs time: never more than the limit, never a standstill, never what a stream has not read."""

from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache.memory import PATIENCE_S, Discarding
from dsfs.cache.read import OpenFile
from dsfs.model.blocks import BLOCK, RUN
from dsfs.model.errors import OriginTimeoutError
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults

CONTENT = Random(4).randbytes(48 * MIB)
FOUR_RUNS = 4 * RUN


def origin_with_large() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(PREFIX + "v1/large", CONTENT)
    return origin


class Watch:
    """Notes the most memory that was ever allocated."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak_bytes = 0
        take = engine.memory._at_hand

        def watched(size: int) -> object:
            slot = take(size)
            self.peak_bytes = max(self.peak_bytes, engine.memory.allocated_bytes)
            engine.memory.check()
            return slot

        monkeypatch.setattr(engine.memory, "_at_hand", watched)


@pytest.mark.parametrize("limit_bytes", [RUN, FOUR_RUNS])
async def test_thirty_readers_share_the_memory_of_a_few_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_bytes: int
) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin, Settings(memory_bytes=limit_bytes)) as engine:
        watch = Watch(engine, monkeypatch)

        async def reader(number: int) -> None:
            random = Random(number)
            file = await engine.open("v1/large")
            start = random.randrange(len(CONTENT) - 3 * MIB)
            for step in range(6):  # streams and random reads at once
                offset = start + step * 300_000 if number % 2 else random.randrange(len(CONTENT))
                assert await engine.read(file, offset, 300_000) == CONTENT[offset : offset + 300_000]
            engine.opener.release(file)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(reader, number)
        assert 0 < watch.peak_bytes <= limit_bytes


async def test_readahead_stops_without_memory_and_discards_nothing_that_is_unread(tmp_path: Path) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin, Settings(memory_bytes=FOUR_RUNS)) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        blocks = RUN // BLOCK
        reached = engine.fetcher.ahead(file.segment, 0, 12 * blocks, blocks, Discarding.CONSUMED)
        assert reached == 4 * blocks
        await engine.settle()
        assert engine.fetcher.ahead(file.segment, reached, 12 * blocks, blocks, Discarding.CONSUMED) == reached
        for offset in range(0, RUN, MIB):
            await engine.read(file, offset, MIB)
        reached = engine.fetcher.ahead(file.segment, reached, 12 * blocks, blocks, Discarding.CONSUMED)
        assert reached == 5 * blocks, "the run that was read made room for one"
        await engine.settle()
        engine.opener.release(file)


async def test_an_origin_that_is_waited_for_holds_no_more_than_its_share(tmp_path: Path) -> None:
    origin = origin_with_large()
    gates = [origin.hold(PREFIX + "v1/large") for _ in range(16)]
    settings = Settings(memory_bytes=FOUR_RUNS, origin_bytes=2 * RUN, readahead=False)
    got: dict[int, bytes] = {}

    async def read(engine: Engine, file: OpenFile, offset: int) -> None:
        got[offset] = await engine.read(file, offset, RUN)

    async with running(tmp_path, origin, settings) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(read, engine, file, number * RUN)
            await until(lambda: engine.fetcher.in_flight, "the first run")
            await wait_all_tasks_blocked()
            assert engine.memory.used_bytes == engine.fetcher.lane(file.segment).held_bytes <= 2 * RUN
            assert engine.fetcher.in_flight < 8
            behind = 9 * RUN // BLOCK
            assert engine.fetcher.ahead(file.segment, behind, behind + 1, 1, Discarding.SETTLED) == behind
            for gate in gates:
                gate.open()
        assert got == {number * RUN: CONTENT[number * RUN : (number + 1) * RUN] for number in range(8)}
        await engine.fetcher.wait_idle()
        assert engine.fetcher.lane(file.segment).held_bytes == 0
        engine.opener.release(file)


async def test_stream_that_cannot_be_filled_is_fetched_once_all_the_same(tmp_path: Path) -> None:
    origin = origin_with_large()
    settings = Settings(memory_bytes=FOUR_RUNS, limit_bytes=0)
    async with running(tmp_path, origin, settings) as engine:
        assert await engine.read_path("v1/large") == CONTENT
        await engine.settle()
        assert origin.sent_bytes == len(CONTENT)
        assert engine.room.unfilled_bytes == len(CONTENT)


async def test_slow_backing_directory_does_not_hold_up_readers_for_long(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = origin_with_large()
    faults = Faults(monkeypatch)
    settings = Settings(memory_bytes=FOUR_RUNS, backing_threads=1, readahead=False)
    async with running(tmp_path, origin, settings) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        gate = faults.hold("segment.data")
        blocks = RUN // BLOCK
        engine.fetcher.ahead(file.segment, 0, 4 * blocks, blocks, Discarding.CONSUMED)
        await until(lambda: engine.filler.in_flight == 4)  # one in the hands of the thread, three queued
        got: list[bytes] = []

        async def reader(number: int) -> None:
            other = await engine.open("v1/large")  # no stream of its own yet
            got.append(await engine.read(other, 5 * RUN + number * RUN, 10))
            engine.opener.release(other)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader, 0)
            await wait_all_tasks_blocked()
            mock_clock.jump(PATIENCE_S - 0.1)
            await wait_all_tasks_blocked()
            assert len(origin.gets) == 4
            mock_clock.jump(0.1)
            await until(lambda: len(got) == 1)
            for number in (1, 2):
                nursery.start_soon(reader, number)
            await until(lambda: len(got) == 3)
        assert engine.metrics.fill_skipped_bytes.value("slow") == RUN
        gate.open()
        engine.opener.release(file)


async def test_reader_for_whom_there_is_no_memory_in_time_gets_an_error(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = origin_with_large()
    gate = origin.hold(PREFIX + "v1/large")
    async with running(tmp_path, origin, Settings(memory_bytes=RUN, timeout_s=20)) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        engine.fetcher.ahead(file.segment, 0, RUN // BLOCK, RUN // BLOCK, Discarding.CONSUMED)
        await until(gate.reached.is_set)
        errors: list[OriginTimeoutError] = []

        async def reader() -> None:
            for _ in range(2):  # the kernel asks once more for what failed in its readahead
                with pytest.raises(OriginTimeoutError, match="no memory") as caught:
                    await engine.read(file, 2 * RUN, 10)
                errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await wait_all_tasks_blocked()
            mock_clock.jump(20)
            await until(lambda: len(errors) == 2, "failing without another wait")
        gate.open()
        engine.opener.release(file)


async def test_resident_block_of_an_unfinished_segment_is_read_while_a_silent_origin_holds_all_memory(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        await engine.read(file, 5 * RUN, 10)
        engine.opener.release(file)
    gate = origin.hold(PREFIX + "v1/large")
    async with running(tmp_path, origin, Settings(memory_bytes=RUN)) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        got: list[bytes] = []

        async def reader(offset: int) -> None:
            got.append(await engine.read(file, offset, 10))

        engine.fetcher.ahead(file.segment, 0, RUN // BLOCK, RUN // BLOCK, Discarding.CONSUMED)
        async with trio.open_nursery() as nursery:
            await until(gate.reached.is_set)
            nursery.start_soon(reader, 10 * RUN)
            await wait_all_tasks_blocked()
            nursery.start_soon(reader, 5 * RUN)
            await until(lambda: got, "reading what is resident")
            assert got == [CONTENT[5 * RUN : 5 * RUN + 10]]
            gate.open()
        engine.opener.release(file)
