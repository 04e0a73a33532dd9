"""Small files: packs grow with evidence, each object is one GET in whatever order, and a failure stays where it is."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from dsfs.cache.runs import ActiveSegment
from dsfs.model.blocks import RUN, pages
from dsfs.model.errors import AccessDeniedError, DriftedError
from dsfs.model.packing import PACK_MIN
from dsfs.storage.segment import State
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin


def origin_with(count: int, size: int) -> tuple[FakeOrigin, dict[str, bytes]]:
    """So many small files; with names in the order of their place in packs."""
    origin = FakeOrigin()
    block = Random(count).randbytes(size + count)
    contents = {f"v1/{number:05d}": block[number : number + size] for number in range(count)}
    for path, content in contents.items():
        origin.put(PREFIX + path, content)
    return origin, contents


def asked_for(origin: FakeOrigin) -> list[str]:
    return [get.key.removeprefix(PREFIX) for get in origin.gets]


async def test_one_file_brings_a_mebibyte_of_its_neighbours(tmp_path: Path) -> None:
    origin, contents = origin_with(100, 50_000)
    async with running(tmp_path, origin) as engine:
        assert await engine.read_path("v1/00010") == contents["v1/00010"]
        await engine.settle()
    count = MIB // pages(50_000)
    assert sorted(asked_for(origin)) == list(contents)[10 : 10 + count]


async def test_second_miss_brings_the_whole_pack(tmp_path: Path) -> None:
    origin, contents = origin_with(150, 50_000)
    async with running(tmp_path, origin) as engine:
        for path in ("v1/00010", "v1/00090"):
            assert await engine.read_path(path) == contents[path]
        await whole(engine, "v1/00000")
    assert sorted(asked_for(origin)) == list(contents)


async def whole(engine: Engine, path: str) -> None:
    """Wait until the pack of the file is sealed."""
    file = await engine.open(path)
    segment = file.segment
    assert segment is not None
    await until(lambda: segment.file.state is State.SEALED, "the seal")
    engine.opener.release(file)


async def test_reader_who_comes_from_the_pack_before_gets_the_next_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PACK_MIN", MIB), ("PACK_MAX", 2 * MIB), ("CUT_DISTANCE", MIB)):
        monkeypatch.setattr(f"dsfs.model.packing.{name}", value)
    origin, contents = origin_with(200, 50_000)
    async with running(tmp_path, origin) as engine:
        generation = await engine.library.generation(
            await engine.library.version(await engine.library.dataset("photos"), "v1")
        )
        catalog = generation.catalog
        assert catalog.summary.packs >= 3
        starts = [catalog.members(number, 0, 1)[0].obj.key.removeprefix(f"{PREFIX}v1/") for number in range(3)]
        for start in starts[:2]:
            await engine.read_path(f"v1/{start}")
        third = catalog.members(2, 0, 1)[0].obj.key
        await whole(engine, f"v1/{starts[2]}")
        assert origin.count(third) == 1
        assert await engine.read_path(f"v1/{starts[2]}") == contents[f"v1/{starts[2]}"]
        assert origin.count(third) == 1


@pytest.mark.parametrize("order", ["sorted", "shuffled", "eight readers"])
async def test_each_object_is_exactly_one_get(tmp_path: Path, order: str) -> None:
    origin, contents = origin_with(1_000, 20_000)
    paths = list(contents)
    if order != "sorted":
        Random(7).shuffle(paths)
    async with running(tmp_path, origin) as engine:

        async def reader(share: list[str]) -> None:
            for path in share:
                assert await engine.read_path(path) == contents[path]

        async with trio.open_nursery() as nursery:
            for start in range(8 if order == "eight readers" else 1):
                nursery.start_soon(reader, paths[start::8] if order == "eight readers" else paths)
    assert sorted(asked_for(origin)) == sorted(paths)


@pytest.mark.expects_log("fetch failed", "has drifted")
async def test_member_that_fails_leaves_the_others_of_its_pack_filled(tmp_path: Path) -> None:
    origin, contents = origin_with(60, 60_000)
    drifted, refused = "v1/00007", "v1/00030"
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/00000")
        origin.delete(PREFIX + drifted)
        origin.fail_always(PREFIX + refused, AccessDeniedError("403"))
        errors: dict[str, type[Exception]] = {}
        for path, content in contents.items():
            try:
                assert await engine.read_path(path) == content
            except (DriftedError, AccessDeniedError) as exc:
                errors[path] = type(exc)
        assert errors == {drifted: DriftedError, refused: AccessDeniedError}
        await engine.settle()
        assert file.segment is not None
        assert file.segment.file.presence.resident == 58
        engine.opener.release(file)
    good = [path for path in asked_for(origin) if path not in errors]
    assert sorted(good) == sorted(contents.keys() - errors)


async def test_pack_that_does_not_fit_into_memory_comes_whole_all_the_same(tmp_path: Path) -> None:
    origin, contents = origin_with(240, 50_000)
    assert sum(map(len, contents.values())) > PACK_MIN
    async with running(tmp_path, origin, Settings(memory_bytes=RUN)) as engine:
        for path in ("v1/00010", "v1/00100"):
            assert await engine.read_path(path) == contents[path]
        await whole(engine, "v1/00000")
    asked = asked_for(origin)
    assert len(asked) == len(set(asked)) > 100


@pytest.mark.parametrize("short_of", ["memory", "connections"])
async def test_pack_goes_on_when_there_is_room_again_and_not_by_the_clock(
    tmp_path: Path, mock_clock: MockClock, short_of: str
) -> None:
    origin, contents = origin_with(240, 50_000)
    settings = Settings(memory_bytes=RUN) if short_of == "memory" else Settings(connections=1)
    async with running(tmp_path, origin, settings) as engine:
        for path in ("v1/00010", "v1/00100"):
            assert await engine.read_path(path) == contents[path]
        await whole(engine, "v1/00000")


async def test_other_tasks_run_between_the_steps_of_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, _ = origin_with(240, 50_000)
    async with running(tmp_path, origin) as engine:
        ran: list[str] = []

        def ahead(segment: ActiveSegment, first: int, end: int, *rest: object) -> int:
            ran.append("step")
            return first + 1

        async def other() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                ran.append("other")

        monkeypatch.setattr(engine.fetcher, "ahead", ahead)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for path in ("v1/00010", "v1/00100"):
                await engine.read_path(path)
            await until(lambda: not engine.readahead._wishes, "the end of the pack")
            nursery.cancel_scope.cancel()
    steps = [index for index, what in enumerate(ran) if what == "step"]
    assert len(steps) == 240
    # Trio runs the tasks that are ready in turns, each turn in an order of its own.
    assert all("other" in ran[step:after_next] for step, after_next in pairwise(steps[::2]))


async def test_files_that_cannot_be_filled_are_still_one_get_each_while_memory_lasts(tmp_path: Path) -> None:
    origin, contents = origin_with(200, 50_000)
    paths = list(contents)
    Random(3).shuffle(paths)
    async with running(tmp_path, origin, Settings(limit_bytes=0)) as engine:
        for path in paths:
            assert await engine.read_path(path) == contents[path]
    assert sorted(asked_for(origin)) == sorted(paths)


@pytest.mark.expects_log("unexpected error while fetching pack .* ahead")
async def test_readahead_that_goes_wrong_ends_neither_readers_nor_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, contents = origin_with(150, 50_000)
    async with running(tmp_path, origin) as engine:
        await engine.read_path("v1/00010")
        with monkeypatch.context() as patched:
            patched.setattr(engine.fetcher, "ahead", lambda *args: 1 // 0)
            await engine.read_path("v1/00090")
            await engine.settle()
        for path in ("v1/00140", "v1/00050"):
            assert await engine.read_path(path) == contents[path]
