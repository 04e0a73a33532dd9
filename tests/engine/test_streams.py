"""Large files: streams are fetched ahead in few large GETs, random reads one block each, and nothing comes twice."""

from pathlib import Path
from random import Random

import pytest
import trio

from dsfs.model.blocks import BLOCK, RUN
from tests.engine.engine import MIB, PREFIX, Settings, running
from tests.engine.fake_origin import FakeOrigin

SIZE = 64 * MIB
CONTENT = Random(8).randbytes(SIZE)
YOUNG = 8  # GETs more than SIZE / RUN that the first, small window may cost


def origin_with_large() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(PREFIX + "v1/large", CONTENT)
    return origin


def assert_nothing_twice(origin: FakeOrigin) -> None:
    ends = 0
    for get in sorted(origin.gets, key=lambda get: get.offset):
        assert get.offset >= ends, f"{get} overlaps what ends at {ends}"
        ends = get.offset + get.length


@pytest.mark.parametrize("step", [BLOCK, MIB])
@pytest.mark.parametrize(("memory_bytes", "run"), [(24 * MIB, MIB), (256 * MIB, RUN)])
async def test_sequential_reader_causes_few_large_gets(tmp_path: Path, step: int, memory_bytes: int, run: int) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin, Settings(memory_bytes=memory_bytes)) as engine:
        assert await engine.read_path("v1/large", step) == CONTENT
        await engine.settle()
        assert engine.metrics.fill_bytes.value() == SIZE
    assert origin.sent_bytes == SIZE
    assert len(origin.gets) <= SIZE / run + YOUNG
    assert_nothing_twice(origin)


async def test_reads_of_one_stream_may_come_out_of_order(tmp_path: Path) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        got: dict[int, bytes] = {}

        async def reader(offset: int) -> None:
            got[offset] = await engine.read(file, offset, MIB)

        offsets = list(range(0, SIZE, MIB))
        for start in range(0, len(offsets), 4):
            async with trio.open_nursery() as nursery:
                for offset in Random(start).sample(offsets[start : start + 4], 4):
                    nursery.start_soon(reader, offset)
        assert b"".join(got[offset] for offset in offsets) == CONTENT
        engine.opener.release(file)
    assert origin.sent_bytes == SIZE
    assert_nothing_twice(origin)


async def test_two_readers_of_one_file_share_its_fetches(tmp_path: Path) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin) as engine:
        got: list[bytes] = []

        async def reader() -> None:
            got.append(await engine.read_path("v1/large"))

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(reader)
        assert got == [CONTENT] * 2
    assert origin.sent_bytes == SIZE
    assert_nothing_twice(origin)


async def test_random_reads_fetch_one_block_each(tmp_path: Path) -> None:
    origin = origin_with_large()
    random = Random(9)
    blocks = random.sample(range(0, SIZE // BLOCK, 80), 6)
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        for block in sorted(blocks, reverse=True):
            offset = block * BLOCK + random.randrange(BLOCK - 4096)
            assert await engine.read(file, offset, 4096) == CONTENT[offset : offset + 4096]
        engine.opener.release(file)
    assert sorted((get.offset, get.length) for get in origin.gets) == [
        (block * BLOCK, BLOCK) for block in sorted(blocks)
    ]


async def test_second_reader_of_resident_bytes_asks_nobody(tmp_path: Path) -> None:
    origin = origin_with_large()
    async with running(tmp_path, origin) as engine:
        await engine.read_path("v1/large")
        await engine.settle()
        sent = origin.sent_bytes
        assert await engine.read_path("v1/large") == CONTENT
        assert origin.sent_bytes == sent
        assert engine.metrics.read_resident_bytes.value() > 0
