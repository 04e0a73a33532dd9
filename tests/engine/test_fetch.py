"""Fetching: each block once for all who want it, answered as early as possible, readers before readahead."""

from functools import partial
from pathlib import Path
from random import Random

import trio

from dsfs.cache.memory import Discarding
from dsfs.model.blocks import BLOCK, RUN
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin

LARGE = PREFIX + "v1/large"
CONTENT = Random(1).randbytes(24 * MIB + 77)


def origin_with_large() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(LARGE, CONTENT)
    return origin


class Readers:
    """Tasks that read a block each and what they got."""

    def __init__(self, engine: Engine, nursery: trio.Nursery) -> None:
        self.engine = engine
        self.nursery = nursery
        self.got: dict[int, bytes] = {}

    async def _read(self, number: int, offset: int, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        file = await self.engine.open("v1/large")
        with trio.CancelScope() as scope:
            task_status.started(scope)
            self.got[number] = await self.engine.read(file, offset, 4096)
        self.engine.opener.release(file)

    async def start(self, number: int, offset: int) -> trio.CancelScope:
        scope: trio.CancelScope = await self.nursery.start(self._read, number, offset)
        return scope


async def test_fifty_readers_of_one_block_cause_one_get(tmp_path: Path) -> None:
    origin = origin_with_large()
    gate = origin.hold(LARGE)
    async with running(tmp_path, origin) as engine, trio.open_nursery() as nursery:
        readers = Readers(engine, nursery)
        for number in range(50):
            await readers.start(number, 5 * MIB + 3 + number)
        await until(lambda: engine.metrics.flight_joins.value() == 49)
        await until(gate.reached.is_set)
        gate.open()
    for number, got in readers.got.items():
        assert got == CONTENT[5 * MIB + 3 + number :][:4096]
    assert len(readers.got) == 50
    assert [(get.offset, get.length) for get in origin.gets] == [(5 * MIB, BLOCK)]


async def test_cancelled_first_reader_leaves_the_others_served(tmp_path: Path) -> None:
    origin = origin_with_large()
    gate = origin.hold(LARGE)
    async with running(tmp_path, origin) as engine:
        async with trio.open_nursery() as nursery:
            readers = Readers(engine, nursery)
            first = await readers.start(0, 0)
            await until(gate.reached.is_set)
            for number in (1, 2):
                await readers.start(number, 0)
            first.cancel()
            await until(lambda: first.cancelled_caught)
            gate.open()
        assert readers.got == {1: CONTENT[:4096], 2: CONTENT[:4096]}
    assert len(origin.gets) == 1


async def test_what_a_cancelled_reader_asked_for_is_fetched_and_filled_all_the_same(tmp_path: Path) -> None:
    origin = origin_with_large()
    gate = origin.hold(LARGE)
    async with running(tmp_path, origin) as engine:
        async with trio.open_nursery() as nursery:
            scope = await Readers(engine, nursery).start(0, 0)
            await until(gate.reached.is_set)
            scope.cancel()
        gate.open()
        await engine.settle()
        assert engine.metrics.fill_bytes.value() == BLOCK


async def test_reply_goes_out_as_soon_as_the_wanted_bytes_are_in_memory(tmp_path: Path) -> None:
    origin = origin_with_large()
    gate = origin.hold(LARGE, after=BLOCK)
    async with running(tmp_path, origin, Settings(connections=1)) as engine:
        file = await engine.open("v1/large")
        assert await engine.read(file, 0, BLOCK) == CONTENT[:BLOCK]
        assert origin.gets[0].length > BLOCK
        assert not gate.opened.is_set()
        gate.open()
        assert await engine.read(file, BLOCK, BLOCK) == CONTENT[BLOCK : 2 * BLOCK]
        engine.opener.release(file)


async def test_reader_overtakes_readahead_that_was_queued_before(tmp_path: Path) -> None:
    origin = origin_with_large()
    gate = origin.hold(LARGE)
    async with running(tmp_path, origin, Settings(connections=1)) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        engine.fetcher.ahead(file.segment, 0, 5 * RUN // BLOCK, RUN // BLOCK, Discarding.CONSUMED)
        await until(gate.reached.is_set)
        claimed = partial(engine.metrics.claims_asked.value, "granted")
        await until(lambda: claimed() == 5, "all of the readahead being queued")
        async with trio.open_nursery() as nursery:
            readers = Readers(engine, nursery)
            await readers.start(0, 5 * RUN)  # not asked for yet
            await until(lambda: claimed() == 6, "its claim")
            await readers.start(1, 3 * RUN)  # queued as readahead: promoted
            await until(lambda: engine.metrics.flight_joins.value() == 1)
            gate.open()
        await engine.settle()
        engine.opener.release(file)
        assert readers.got == {0: CONTENT[5 * RUN :][:4096], 1: CONTENT[3 * RUN :][:4096]}
    assert [get.offset // RUN for get in origin.gets] == [0, 5, 3, 1, 2, 4]


async def test_of_a_pack_only_the_wanted_file_goes_before_what_other_readers_wait_for(tmp_path: Path) -> None:
    origin = FakeOrigin()
    names = [f"{number:02d}" for number in range(20)]
    for name in names:
        origin.put(f"{PREFIX}v1/{name}", Random(name).randbytes(5_000))
    origin.put(LARGE, CONTENT)
    gate = origin.hold(LARGE)
    async with running(tmp_path, origin, Settings(connections=1)) as engine:
        large, small = await engine.open("v1/large"), await engine.open("v1/05")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.read, large, 0, 4096)
            await until(gate.reached.is_set)
            nursery.start_soon(engine.read, small)
            claimed = partial(engine.metrics.claims_asked.value, "granted")
            await until(lambda: claimed() == 2, "the pack being queued")
            nursery.start_soon(engine.read, large, 8 * MIB, 4096)
            await until(lambda: claimed() == 3, "the other run of the large file being queued")
            gate.open()
        await engine.settle()
        for file in (large, small):
            engine.opener.release(file)
    order = [get.key.removeprefix(PREFIX + "v1/") for get in origin.gets]
    assert order == ["large", "05", "large", *names[6:]]


async def test_bytes_behind_a_wanted_block_come_at_once_when_a_reader_wants_two_runs(tmp_path: Path) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        start = RUN - 100_000
        assert await engine.read(file, start, 200_000) == CONTENT[start : start + 200_000]
        assert await engine.read(file, len(CONTENT) - 50, 4096) == CONTENT[-50:]
        assert await engine.read(file, len(CONTENT), 4096) == b""
        engine.opener.release(file)
