"""A fault of the backing directory is never the reader's: the bytes come from the origin, and it is counted."""

import errno
import os
from pathlib import Path
from random import Random

import pytest
import trio

from dsfs.model.blocks import BLOCK, PAGE
from dsfs.storage.segment import State
from dsfs.storage.segmentnames import overhead
from tests.engine.backing_sample import indexed_bytes
from tests.engine.engine import MIB, PREFIX, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults

CONTENT = Random(5).randbytes(9 * MIB + 5)
SMALL = Random(6).randbytes(50_000)
LARGE_KEY = PREFIX + "v1/large"


def sample_origin() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(LARGE_KEY, CONTENT)
    origin.put(PREFIX + "v1/small", SMALL)
    return origin


def data_files(tmp_path: Path) -> list[Path]:
    """The sealed files and those being filled, largest first."""
    found = [path for path in (tmp_path / "backing" / "segments").rglob("*") if path.suffix in ("", ".part")]
    return sorted((path for path in found if path.is_file()), key=lambda path: -path.stat().st_size)


async def test_without_room_readers_are_served_and_nothing_is_filled(tmp_path: Path) -> None:
    origin = sample_origin()
    async with running(tmp_path, origin, Settings(limit_bytes=0)) as engine:
        assert await engine.read_path("v1/large") == CONTENT
        assert await engine.read_path("v1/small") == SMALL
        await engine.settle()
        assert not data_files(tmp_path)
        assert not list(engine.backing.generations.iterdir()), "nor a catalog"
        assert engine.room.unfilled_bytes == len(CONTENT) + len(SMALL)
        assert engine.metrics.fill_skipped_bytes.value("limit") == len(CONTENT) + len(SMALL)
        assert engine.metrics.fill_bytes.value() == 0


async def test_fills_stop_at_the_limit_and_go_on_after_a_drop(tmp_path: Path) -> None:
    origin = sample_origin()
    limit = 5 * MIB
    async with running(tmp_path, origin, Settings(limit_bytes=limit)) as engine:
        assert await engine.read_path("v1/large") == CONTENT
        await engine.settle()
        assert MIB < engine.segment_bytes() < engine.room.used_bytes <= limit
        assert (await engine.drop("v1"))[0] > MIB
        assert engine.segment_bytes() == 0
        assert engine.surplus_bytes() < 10 * PAGE
        assert await engine.read_path("v1/small") == SMALL
        await engine.settle()
        assert indexed_bytes(engine.index) == 13 * 4096


@pytest.mark.expects_log("a fill failed", "cannot be sealed")
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("point", ["segment.data", "segment.map", "segment.seal"])
async def test_error_in_a_fill_costs_the_reader_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, number: int
) -> None:
    origin = sample_origin()
    faults = Faults(monkeypatch)
    faults.fail(point, number)
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == SMALL
        await engine.settle()
        assert engine.metrics.backing_errors.value(errno.errorcode[number]) == 1
        assert engine.room.why_not_filling()
        assert await engine.read_path("v1/small") == SMALL
        assert await engine.read_path("v1/large") == CONTENT
        assert origin.count(PREFIX + "v1/small") == 1


async def test_backing_directory_that_is_gone_costs_the_reader_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample_origin()
    async with running(tmp_path, origin) as engine:
        Faults(monkeypatch).fail("backing.statvfs", errno.ESTALE, times=1_000)
        assert await engine.read_path("v1/small") == SMALL
        await engine.settle()
        assert "not usable" in engine.room.why_not_filling()
        assert engine.room.unfilled_bytes == len(SMALL)


async def make_resident(tmp_path: Path, origin: FakeOrigin, state: State) -> None:
    """Leave the large file sealed, or a segment being filled with a few of its blocks."""
    async with running(tmp_path, origin) as engine:
        if state is State.SEALED:
            await engine.read_path("v1/large")
        else:
            file = await engine.open("v1/large")
            for offset in (8 * MIB, 5 * MIB, 2 * MIB):  # backwards: no stream
                await engine.read(file, offset, 10_000)
            engine.opener.release(file)


@pytest.mark.expects_log("could not be used, the origin is asked")
@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("state", [State.FILLING, State.SEALED])
async def test_error_when_reading_resident_bytes_is_no_error_to_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: State, inline: bool
) -> None:
    origin = sample_origin()
    await make_resident(tmp_path, origin, state)
    faults = Faults(monkeypatch)
    monkeypatch.setattr("os.preadv", _with_cold_page_cache(os.preadv))
    async with running(tmp_path, origin, Settings(inline=inline)) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        assert file.segment.file.state is state
        gets = len(origin.gets)
        faults.fail("segment.read", errno.EIO)
        assert await engine.read(file, 5 * MIB, 10_000) == CONTENT[5 * MIB : 5 * MIB + 10_000]
        assert [(get.offset, get.length) for get in origin.gets[gets:]] == [(5 * MIB, BLOCK)]
        assert engine.metrics.backing_errors.value("EIO") == 1
        await engine.settle()
        assert await engine.read(file, 2 * MIB, 10_000) == CONTENT[2 * MIB : 2 * MIB + 10_000]
        assert len(origin.gets) == gets + 1, "what can be read is read"
        engine.opener.release(file)


def _with_cold_page_cache(preadv):
    """os.preadv where the page cache has nothing."""

    def cold(fd, buffers, offset, flags=0):
        if flags:
            raise BlockingIOError(errno.EAGAIN, "cold")
        return preadv(fd, buffers, offset)

    return cold


@pytest.mark.expects_log("is not what was written", "was changed after it was sealed")
@pytest.mark.parametrize("state", [State.FILLING, State.SEALED])
async def test_bad_block_is_fetched_again_once(tmp_path: Path, state: State) -> None:
    origin = sample_origin()
    await make_resident(tmp_path, origin, state)
    (path,) = data_files(tmp_path)
    with path.open("r+b") as damaged:
        damaged.seek(5 * MIB + 500)
        damaged.write(b"damaged")
    gets = len(origin.gets)
    async with running(tmp_path, origin) as engine:
        for _ in range(3):
            file = await engine.open("v1/large")
            await engine.settle()
            assert await engine.read(file, 5 * MIB, 4096) == CONTENT[5 * MIB : 5 * MIB + 4096]
            await engine.settle()
            engine.opener.release(file)
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        for offset in (8 * MIB, 5 * MIB, 2 * MIB):
            assert await engine.read(file, offset, 10_000) == CONTENT[offset : offset + 10_000]
        engine.opener.release(file)
    assert [(get.offset, get.length) for get in origin.gets[gets:]] == [(5 * MIB, BLOCK)]


async def test_segment_that_is_sealed_while_it_is_read_gives_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample_origin()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        await engine.read(file, 0, 10)
        await engine.settle()
        assert file.segment is not None
        for run in set(file.segment.runs.values()):
            engine.memory.discard(run)
        faults = Faults(monkeypatch)
        gate = faults.hold("segment.read")
        got: list[bytes] = []

        async def reader() -> None:
            got.append(await engine.read(file, 0, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader)
            await until(gate.reached.is_set)
            for offset in range(BLOCK, len(CONTENT), MIB):
                await engine.read(file, offset, MIB)
            await until(lambda: file.segment is not None and file.segment.file.state is State.SEALED)
            gate.open()
        assert got == [CONTENT[:10]]
        assert origin.sent_bytes == len(CONTENT)
        engine.opener.release(file)


async def test_thread_that_outlives_its_cancelled_reader_keeps_slot_and_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample_origin()
    await make_resident(tmp_path, origin, State.FILLING)
    async with running(tmp_path, origin, Settings(inline=False)) as engine:
        file = await engine.open("v1/large")
        segment = file.segment
        assert segment is not None
        gate = Faults(monkeypatch).hold("segment.read")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.read, file, 5 * MIB, 10)
                await until(gate.reached.is_set)
                scope.cancel()
        engine.opener.release(file)
        assert segment.users == 1
        assert engine.resident_memory.used_bytes == BLOCK
        gate.open()
        await until(lambda: not segment.users)
        assert engine.resident_memory.used_bytes == 0


@pytest.mark.expects_log("cannot be sealed")
async def test_segment_that_could_not_be_sealed_is_sealed_when_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample_origin()
    Faults(monkeypatch).fail("segment.sum_written", errno.ENOSPC)
    async with running(tmp_path, origin) as engine:
        await engine.read_path("v1/small")
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/small")
        await engine.settle()
        assert file.segment is not None
        assert file.segment.file.state is State.SEALED
        assert await engine.read(file) == SMALL
        engine.opener.release(file)
    assert origin.count(PREFIX + "v1/small") == 1


@pytest.mark.expects_log("cannot be opened", "a (fill|claim) failed")
async def test_segment_that_cannot_be_opened_is_read_from_the_origin_and_counted_right_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample_origin()
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == SMALL
    faults = Faults(monkeypatch)
    faults.fail("segment.open_sealed", errno.EIO, times=1_000)
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == SMALL
        assert origin.count(PREFIX + "v1/small") == 2
        await engine.settle()
        faults.fail("segment.open_sealed", errno.EIO, times=0)
        assert await engine.read_path("v1/small") == SMALL
    assert origin.count(PREFIX + "v1/small") == 2


@pytest.mark.expects_log("cannot be opened")
async def test_segment_that_could_not_be_opened_for_a_moment_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is fetched it is looked once more what is there."""
    origin = sample_origin()
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/small") == SMALL
    async with running(tmp_path, origin) as engine:
        Faults(monkeypatch).fail("segment.open_sealed", errno.EIO)
        assert await engine.read_path("v1/small") == SMALL
    assert origin.count(PREFIX + "v1/small") == 1


@pytest.mark.expects_log("fetch failed", "has drifted")
async def test_run_is_filled_as_far_as_there_is_room(tmp_path: Path) -> None:
    origin = FakeOrigin()
    contents = {f"{number}": Random(number).randbytes(8_192) for number in range(5)}
    for name, content in contents.items():
        origin.put(f"{PREFIX}v1/{name}", content)
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/0")
        assert file.segment is not None
        engine.leave_room(3 * 8_192 + PAGE + overhead(file.segment.file.blocks).size_bytes)  # with the folder
        origin.delete(f"{PREFIX}v1/2")  # two extents: 0..1 and 3..4
        for name in ("0", "1", "3", "4"):
            assert await engine.read_path(f"v1/{name}") == contents[name]
        await engine.settle()
        assert indexed_bytes(engine.index) == 2 * 8_192
        assert engine.room.unfilled_bytes == 2 * 8_192
        engine.opener.release(file)
