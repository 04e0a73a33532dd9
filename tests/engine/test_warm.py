"""Warming: only what is missing, after everybody else, in bounded memory, and truthful about its end."""

from pathlib import Path
from random import Random

import trio

from dsfs.cache.memory import Discarding
from dsfs.cache.warm import ALL, Phase
from dsfs.model.blocks import RUN
from dsfs.model.errors import OriginTemporaryError
from tests.engine.engine import DATASET, MIB, PREFIX, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.warming import LARGE, begin, ended, found, requests_in, sample, warmed


async def test_whole_version_is_there_with_one_get_for_each_unit_and_then_the_origin_is_not_needed(
    tmp_path: Path,
) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        warm = await warmed(engine)
        assert (warm.phase, warm.reason, warm.missing) == (Phase.COMPLETE, "", {})
        assert warm.plan is not None
        assert warm.plan.done == warm.plan.total == sum(map(len, contents.values())) == origin.sent_bytes
        assert len(origin.gets) == 100 + -(-len(LARGE) // RUN)
        await until(lambda: requests_in(tmp_path / "state") == [], "the request being taken away")
    origin.fail_everything(OriginTemporaryError("gone"))
    gets = len(origin.gets)
    async with running(tmp_path, origin) as engine:
        for path, content in contents.items():
            assert await engine.read_path(path) == content
    assert len(origin.gets) == gets


async def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        file = await engine.open("v1/large")
        await engine.read(file, 9 * MIB, 10)
        engine.opener.release(file)
        await engine.read_path("v1/small/050")
        assert (await warmed(engine)).phase is Phase.COMPLETE
        assert origin.sent_bytes == sum(map(len, contents.values()))
        gets = len(origin.gets)
        assert (await warmed(engine)).phase is Phase.COMPLETE  # again: there is nothing to do
        assert len(origin.gets) == gets


async def test_pattern_selects_whole_files_and_no_others(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        warm = await warmed(engine, "small/0[1-3]*")
        wanted = [PREFIX + path for path in contents if path[:10] in ("v1/small/0",) and path[10] in "123"]
        assert warm.phase is Phase.COMPLETE
        assert sorted(get.key for get in origin.gets) == wanted
        assert len(wanted) == 30
        assert warm.plan is not None
        assert warm.plan.total == sum(len(contents[key.removeprefix(PREFIX)]) for key in wanted)
        assert (await warmed(engine, "l*")).phase is Phase.COMPLETE
        assert {get.key for get in origin.gets[30:]} == {PREFIX + "v1/large"}


async def test_pattern_that_selects_nothing_is_no_success(tmp_path: Path) -> None:
    origin, _ = sample()
    async with running(tmp_path, origin) as engine:
        for path in ("nothing", "empty"):
            warm = await warmed(engine, path)
            assert (warm.phase, warm.reason) == (Phase.INCOMPLETE, f"--path {path} has no file with content")


async def test_readers_and_readahead_go_before_a_warm(tmp_path: Path) -> None:
    origin, _ = sample()
    origin.put(PREFIX + "v1/zzz", LARGE)  # comes last in a warm
    settings = Settings(connections=1, readahead=False)
    gate = origin.hold(PREFIX + "v1/small/000")
    async with running(tmp_path, origin, settings) as engine, trio.open_nursery() as nursery:
        warm = await begin(engine)
        await until(gate.reached.is_set)
        # More than one GET is queued now; each is less urgent than what a reader wants and what is read ahead for him.
        assert engine.warm_filler.flying_bytes
        file = await engine.open("v1/zzz")
        got: list[bytes] = []

        async def read() -> None:
            got.extend([await engine.read(file, offset, MIB) for offset in range(0, 12 * MIB, MIB)])

        nursery.start_soon(read)
        runs = file.segment.runs  # type: ignore[union-attr]
        await until(lambda: sum(run.claimed_s is not None for run in set(runs.values())) == 5)
        gate.open()
        await until(lambda: len(got) == 12)
        # Right behind the one that was under way: what he waits for, and what was read ahead for him.
        assert [get.key.rpartition("/")[2] for get in origin.gets[:6]] == ["000", *["zzz"] * 5]
        assert b"".join(got) == LARGE[: 12 * MIB]
        engine.opener.release(file)
        assert await ended(warm) is Phase.COMPLETE


async def test_what_a_reader_wants_of_a_queued_warm_is_fetched_at_once_and_once(tmp_path: Path) -> None:
    origin, _ = sample()
    gate = origin.hold(PREFIX + "v1/small/000")
    async with running(tmp_path, origin, Settings(connections=1, readahead=False)) as engine:
        warm = await begin(engine)
        await until(gate.reached.is_set)
        async with trio.open_nursery() as nursery:
            file = await engine.open("v1/small/020")
            assert 20 in file.segment.runs  # type: ignore[union-attr]
            nursery.start_soon(engine.read, file)
            await until(lambda: file.segment.runs[20].users == 1)  # type: ignore[union-attr]
            gate.open()
        engine.opener.release(file)
        assert [get.key.rpartition("/")[2] for get in origin.gets[:2]] == ["000", "020"]
        assert await ended(warm) is Phase.COMPLETE
    assert len(origin.gets) == 100 + -(-len(LARGE) // RUN)


async def test_what_readahead_wants_of_a_queued_warm_goes_before_the_rest_of_it(tmp_path: Path) -> None:
    origin, _ = sample()
    gate = origin.hold(PREFIX + "v1/small/000")
    async with running(tmp_path, origin, Settings(connections=1, readahead=False)) as engine:
        warm = await begin(engine)
        await until(gate.reached.is_set)
        file = await engine.open("v1/small/020")
        assert file.segment is not None
        engine.fetcher.ahead(file.segment, 20, 23, 3, Discarding.CONSUMED)
        gate.open()
        engine.opener.release(file)
        assert await ended(warm) is Phase.COMPLETE
    assert [get.key.rpartition("/")[2] for get in origin.gets[:5]] == ["000", "020", "021", "022", "001"]


async def test_memory_stays_within_its_bound_and_most_of_it_is_left_to_readers(tmp_path: Path) -> None:
    origin = FakeOrigin()
    for number in range(4):
        origin.put(f"{PREFIX}v1/{number}", Random(number).randbytes(20 * MIB))
    settings = Settings(memory_bytes=32 * MIB, connections=16)
    most = 0
    async with running(tmp_path, origin, settings) as engine:
        warm = await begin(engine)
        while not warm.is_over:
            most = max(most, engine.warm_filler.flying_bytes)
            engine.memory.check()
            await trio.lowlevel.checkpoint()
        assert warm.phase is Phase.COMPLETE
        assert RUN < most <= engine.readahead.window_limit == 16 * MIB
        assert engine.memory.allocated_bytes <= 32 * MIB


async def test_warm_in_memory_for_one_run_comes_to_its_end(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin, Settings(memory_bytes=RUN)) as engine:
        assert (await warmed(engine)).phase is Phase.COMPLETE
    assert origin.sent_bytes == sum(map(len, contents.values()))


async def test_warm_outlives_the_daemon_and_fetches_the_rest(tmp_path: Path) -> None:
    origin, contents = sample()
    gate = origin.hold(PREFIX + "v1/large")
    async with running(tmp_path, origin, Settings(connections=2)) as engine:  # two runs at once
        warm = await begin(engine)
        await until(gate.reached.is_set)
        assert not warm.is_over
        gate.open()
    assert len(requests_in(tmp_path / "state")) == 1
    assert origin.sent_bytes < sum(map(len, contents.values()))
    async with running(tmp_path, origin) as engine:
        assert await ended(await found(engine)) is Phase.COMPLETE
        await until(lambda: requests_in(tmp_path / "state") == [], "the request being taken away")
    assert origin.sent_bytes == sum(map(len, contents.values()))


async def test_stopped_warm_starts_nothing_more_and_is_not_taken_up_again(tmp_path: Path) -> None:
    origin, _ = sample()
    gate = origin.hold(PREFIX + "v1/small/000")
    async with running(tmp_path, origin, Settings(connections=1)) as engine:
        warm = await begin(engine, nodes=ALL)
        await until(gate.reached.is_set)
        assert len(requests_in(tmp_path / "backing")) == 1
        assert await engine.warmer.stop(DATASET, "v2") == 0
        assert await engine.warmer.stop(DATASET, "v1") == 1
        assert (warm.phase, warm.reason) == (Phase.STOPPED, "on request")
        gate.open()
        await engine.settle()
        gets = len(origin.gets)
        assert gets < 100
        assert requests_in(tmp_path / "backing") == []
    async with running(tmp_path, origin) as engine:
        await engine.settle()
        assert engine.warmer.warms == []
    assert len(origin.gets) == gets


async def test_after_a_refresh_a_warm_is_of_the_new_generation(tmp_path: Path) -> None:
    origin, _ = sample()
    gate = origin.hold(PREFIX + "v1/large", after=MIB)
    async with running(tmp_path, origin) as engine:
        warm = await begin(engine)
        await until(gate.reached.is_set)
        origin.put(PREFIX + "v1/new", LARGE[::-1])
        version = await engine.library.version(await engine.library.dataset(DATASET), "v1")
        await engine.library.refresh(version)
        gate.open()
        assert await ended(warm) is Phase.COMPLETE
        gets = len(origin.gets)
        assert await engine.read_path("v1/new") == LARGE[::-1]
        assert len(origin.gets) == gets
