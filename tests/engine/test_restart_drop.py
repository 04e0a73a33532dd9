"""What stays: after a restart nothing is fetched again; after a drop everything is, and the account is right."""

import errno
from pathlib import Path
from random import Random

import pytest
import trio

from dsfs.cache import segments
from dsfs.model.errors import BackingError
from dsfs.storage.residency import SegmentRecord
from tests.engine.backing_sample import indexed_bytes
from tests.engine.engine import MIB, PREFIX, Engine, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults

LARGE = Random(10).randbytes(10 * MIB + 1)


def sample() -> tuple[FakeOrigin, dict[str, bytes]]:
    origin = FakeOrigin()
    contents = {f"v1/small/{number}": Random(number).randbytes(3_000 + number) for number in range(40)}
    contents["v1/large"] = LARGE
    for path, content in contents.items():
        origin.put(PREFIX + path, content)
    return origin, contents


async def read_all(engine: Engine, contents: dict[str, bytes]) -> None:
    for path, content in contents.items():
        assert await engine.read_path(path) == content


def forget(engine: Engine) -> None:
    """Make the index that of an empty backing directory."""
    engine.index.put([SegmentRecord(identity, False, 0, 0, 0) for identity in engine.index.identities()])


async def test_restart_fetches_and_lists_nothing_again(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        used_bytes = engine.room.used_bytes
    gets, lists = len(origin.gets), len(origin.lists)
    async with running(tmp_path, origin) as engine:
        assert engine.room.used_bytes == used_bytes
        await read_all(engine, contents)
    assert (len(origin.gets), len(origin.lists)) == (gets, lists)


async def test_restart_in_the_middle_fetches_only_what_is_missing(tmp_path: Path) -> None:
    origin, _ = sample()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        await engine.read(file, 6 * MIB, 10)
        engine.opener.release(file)
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/large") == LARGE
    assert origin.sent_bytes == len(LARGE)


async def test_segments_that_are_closed_are_counted_once_and_reach_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CAPACITY", 2)
    origin = FakeOrigin()
    contents = {f"v1/{number}": Random(number).randbytes(5 * MIB) for number in range(5)}
    for path, content in contents.items():
        origin.put(PREFIX + path, content)
    async with running(tmp_path, origin) as engine:
        for _ in range(2):
            for path, content in contents.items():
                assert await engine.read_path(path) == content
                await engine.fetcher.wait_idle()
                await engine.filler.wait_idle()
                for segment in list(engine.segments):
                    for run in set(segment.runs.values()):
                        engine.memory.discard(run)
                assert len(list(engine.segments)) <= 3
        await engine.settle()
        assert indexed_bytes(engine.index) == sum(map(len, contents.values()))
        assert engine.surplus_bytes() == 0
    assert origin.sent_bytes == sum(map(len, contents.values()))


async def test_segment_opened_by_many_at_once_is_counted_once(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        used_bytes = engine.room.used_bytes
    async with running(tmp_path, origin) as engine:
        forget(engine)  # so that each open finds more than the index knows
        async with trio.open_nursery() as nursery:
            for path in contents:
                nursery.start_soon(engine.read_path, path)
        await engine.settle()
        assert engine.room.used_bytes == used_bytes


async def test_segment_in_use_is_never_closed_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "CAPACITY", 1)
    origin, contents = sample()
    contents["v1/larger"] = LARGE + b"x"
    origin.put(PREFIX + "v1/larger", contents["v1/larger"])
    async with running(tmp_path, origin) as engine:
        paths = ["v1/large", "v1/larger", "v1/small/3"]
        files = [await engine.open(path) for path in paths]
        for path, file in zip(paths, files, strict=True):
            assert await engine.read(file, 0, 100) == contents[path][:100]
            again = await engine.open(path)
            assert again.segment is file.segment
            engine.opener.release(again)
            engine.opener.release(file)


async def test_drop_gives_the_bytes_back_and_the_next_read_fetches_them(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        used_bytes = engine.room.used_bytes
        freed_bytes, segments = await engine.drop("v1")
        assert segments == 2
        assert freed_bytes == used_bytes - engine.room.used_bytes > len(LARGE)
        assert indexed_bytes(engine.index) == 0
        assert engine.surplus_bytes() == 0
        assert await engine.drop("v1") == (0, 0)
        await read_all(engine, contents)
        await engine.settle()
        assert engine.room.used_bytes == used_bytes
    assert origin.sent_bytes == 2 * sum(map(len, contents.values()))


async def test_drop_of_closed_segments_is_counted_right(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        segment_bytes = engine.segment_bytes()
    async with running(tmp_path, origin) as engine:
        assert await engine.drop("v1") == (segment_bytes, 2)
        assert engine.surplus_bytes() == 0
    assert not [path for path in (tmp_path / "backing" / "segments").rglob("*") if path.is_file()]


async def test_open_reader_reads_on_through_a_drop(tmp_path: Path) -> None:
    origin, _ = sample()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        got = [await engine.read(file, 0, MIB)]
        await engine.drop("v1")
        got += [await engine.read(file, offset, MIB) for offset in range(MIB, len(LARGE), MIB)]
        assert b"".join(got) == LARGE
        await engine.settle()
        await engine.drop("v1")
        assert await engine.read(file, 3, 5) == LARGE[3:8]
        engine.opener.release(file)


async def test_fill_under_way_during_a_drop_gives_up_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        faults = Faults(monkeypatch)
        gate = faults.hold("segment.data")
        assert await engine.read_path("v1/small/1") == contents["v1/small/1"]
        await until(gate.reached.is_set)
        await engine.drop("v1")
        gate.open()
        await engine.settle()
        assert await engine.read_path("v1/small/1") == contents["v1/small/1"]


async def test_reader_who_opens_what_is_being_dropped_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        used_bytes = engine.room.used_bytes
    async with running(tmp_path, origin) as engine:
        gate = Faults(monkeypatch).hold("segment.remove")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.drop, "v1")
            await until(gate.reached.is_set)
            nursery.start_soon(read_all, engine, contents)
            await until(lambda: list(engine.segments))
            gate.open()
        await engine.settle()
        assert engine.room.used_bytes == used_bytes


async def test_drop_that_fails_says_so_and_leaves_the_account_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
    async with running(tmp_path, origin) as engine:
        faults = Faults(monkeypatch)
        faults.fail("segment.remove", errno.EIO)
        used_bytes = engine.room.used_bytes
        with pytest.raises(BackingError, match="cannot be removed"):
            await engine.drop("v1")
        await engine.settle()
        assert engine.room.used_bytes == used_bytes
        await engine.drop("v1")
        assert engine.surplus_bytes() == 0


@pytest.mark.expects_log("the residency index cannot be written")
async def test_index_that_cannot_be_written_ends_nothing_and_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        faults = Faults(monkeypatch)
        assert await engine.read_path("v1/small/1") == contents["v1/small/1"]
        await engine.fetcher.wait_idle()
        await engine.filler.wait_idle()
        faults.fail("index.write", errno.EIO)
        await engine.filler.flush_index()
        assert indexed_bytes(engine.index) == 0
        await read_all(engine, contents)


async def test_rebuilt_index_hears_again_of_segments_in_use(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        before = indexed_bytes(engine.index)
        forget(engine)
        await engine.filler.tell_again(engine.segments)
        await engine.filler.flush_index()
        assert indexed_bytes(engine.index) == before


async def test_drop_while_the_index_is_rebuilt_waits_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash: the index does not know of the newest fills."""
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        segment_bytes = engine.segment_bytes()
    async with running(tmp_path, origin) as engine:
        forget(engine)
        gate = Faults(monkeypatch).hold("index.write")
        dropped: list[tuple[int, int]] = []

        async def drop() -> None:
            dropped.append(await engine.drop("v1"))

        async with trio.open_nursery() as nursery:
            await nursery.start(engine.recovery.run)
            await until(gate.reached.is_set)
            nursery.start_soon(drop)
            await until(lambda: engine.recovery.turn.statistics().tasks_waiting, "the drop waiting", timeout_s=5)
            gate.open()
        assert dropped == [(segment_bytes, 2)]
        assert indexed_bytes(engine.index) == 0
        assert engine.surplus_bytes() == 0
        assert not list((tmp_path / "backing" / "segments").glob("*/*"))


@pytest.mark.expects_log("the residency index cannot be rebuilt")
async def test_rebuild_that_fails_holds_up_no_drop_and_is_repeated_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await read_all(engine, contents)
        await engine.settle()
        segment_bytes = engine.segment_bytes()
        monkeypatch.setattr("dsfs.cache.recovery.recover", fails)
        await engine.recovery.run()
        assert not engine.recovery.is_inside
        assert await engine.drop("v1") == (segment_bytes, 2)
    async with running(tmp_path, origin) as engine:
        assert engine.index.was_unclean
