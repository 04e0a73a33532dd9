"""Several nodes that share a backing directory warm one version: nothing is fetched twice, and nobody waits idly."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from dsfs.cache.memory import Discarding
from dsfs.cache.pool import Priority
from dsfs.cache.warm import ALL, NOT_YET, Phase
from dsfs.storage.segment import State
from tests.engine.engine import PREFIX, Engine, Settings, running, until
from tests.engine.warming import LARGE, begin, ended, found, requests_in, sample, warmed


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr("dsfs.cache.warmer.LOOK_S", 0.05)
    return Settings(backing=tmp_path / "backing", connections=2)


async def has_all(engine: Engine, contents: dict[str, bytes]) -> bool:
    return all([await engine.read_path(path) == content for path, content in contents.items()])


async def test_nodes_that_warm_together_fetch_each_byte_once(tmp_path: Path, settings: Settings) -> None:
    origin, contents = sample()
    gate = origin.hold(PREFIX + "v1/small/000")  # until both are at it
    async with (
        running(tmp_path / "a", origin, settings) as a,
        running(tmp_path / "b", origin, replace(settings, seed=2)) as b,
    ):
        asked = await begin(a, nodes=ALL)
        warms = asked, await found(b)
        gate.open()
        assert [await ended(warm) for warm in warms] == [Phase.COMPLETE] * 2
        await until(lambda: requests_in(tmp_path / "backing") == [], "the request being taken away")
        assert origin.sent_bytes == sum(map(len, contents.values()))
        for engine in (a, b):
            assert await has_all(engine, contents)
    assert origin.sent_bytes == sum(map(len, contents.values()))


async def test_what_another_node_is_at_is_let_go_and_found_in_a_later_pass(tmp_path: Path, settings: Settings) -> None:
    origin, contents = sample()
    gate = origin.hold(PREFIX + "v1/small/000")
    total = sum(map(len, contents.values()))
    async with running(tmp_path / "a", origin, settings) as a, running(tmp_path / "b", origin, settings) as b:
        first = await begin(a)
        await until(gate.reached.is_set)
        second = await begin(b)
        await until(lambda: second.phase is Phase.WAITING, "the second node's having done the rest")
        assert b.metrics.claims_asked.value("held")
        assert b.warm_filler.flying_bytes == 0  # it waits with empty hands
        assert not second.is_over
        gate.open()
        assert [await ended(warm) for warm in (first, second)] == [Phase.COMPLETE] * 2
        assert origin.sent_bytes == total
        assert await has_all(b, contents)
        assert b.metrics.claims_ignored.value() == 0


async def test_what_a_warm_begins_behind_what_another_node_is_at_is_its_own(tmp_path: Path, settings: Settings) -> None:
    """It counts in the memory that warms may take, and is waited for."""
    origin, contents = sample()
    theirs, before, behind = (origin.hold(f"{PREFIX}v1/small/{number:03}") for number in (5, 4, 6))
    settings = replace(settings, connections=8)  # beside those that are held
    async with running(tmp_path / "a", origin, settings) as a, running(tmp_path / "b", origin, settings) as b:
        file = await a.open("v1/small/005")
        assert file.segment is not None
        block = file.segment.file.blocks.at(file.offset)
        a.fetcher.ahead(file.segment, block, block + 1, 1, Discarding.SETTLED)
        await until(theirs.reached.is_set)
        warm = await begin(b, "small/*")
        await until(lambda: before.reached.is_set() and behind.reached.is_set(), "both parts of the run being fetched")
        segment = b.segments.find(file.segment.identity)
        assert segment is not None
        first, rest = (segment.runs[at].slot.size for at in (block - 1, block + 1))
        await until(lambda: b.warm_filler.flying_bytes == first + rest, "both parts, and nothing else, being counted")
        before.open()
        await until(lambda: b.warm_filler.flying_bytes == rest, "the end of the first part")
        assert warm.phase is Phase.FILLING
        behind.open()
        await until(lambda: warm.phase is Phase.WAITING)
        assert warm.missing[NOT_YET].bytes == len(contents["v1/small/005"])
        theirs.open()
        assert await ended(warm) is Phase.COMPLETE
        a.opener.release(file)
    assert origin.count(PREFIX + "v1/small/006") == 1


async def test_reader_of_what_another_node_warms_waits_for_that(tmp_path: Path, settings: Settings) -> None:
    origin, _ = sample()
    gate = origin.hold(PREFIX + "v1/large")
    async with running(tmp_path / "a", origin, settings) as a, running(tmp_path / "b", origin, settings) as b:
        warm = await begin(a, "large")
        await until(gate.reached.is_set)
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def read() -> None:
                got.append(await b.read_path("v1/large"))

            nursery.start_soon(read)
            await until(lambda: b.metrics.claims_asked.value("held"), "the reader's being told to wait")
            gate.open()
        assert got == [LARGE]
        assert await ended(warm) is Phase.COMPLETE
        assert origin.sent_bytes == len(LARGE)


async def test_segment_that_another_node_has_dropped_is_fetched_again(tmp_path: Path, settings: Settings) -> None:
    origin, contents = sample()
    async with running(tmp_path / "a", origin, settings) as a, running(tmp_path / "b", origin, settings) as b:
        assert (await warmed(a)).phase is Phase.COMPLETE
        file = await a.open("v1/large")
        assert file.segment is not None
        await until(lambda: file.segment.file.state is State.SEALED)  # type: ignore[union-attr]
        await b.drop("v1")
        assert (await warmed(a)).phase is Phase.COMPLETE
        a.opener.release(file)
        assert origin.sent_bytes == 2 * sum(map(len, contents.values()))
        assert await has_all(b, contents)
        assert origin.sent_bytes == 2 * sum(map(len, contents.values()))


async def test_run_of_a_warm_that_readahead_wants_is_claimed_before_those_of_warms(
    tmp_path: Path, settings: Settings
) -> None:
    origin, _ = sample()
    async with running(tmp_path / "a", origin, settings) as engine:
        file = await engine.open("v1/large")
        segment = file.segment
        assert segment is not None
        engine.fetcher.ahead(segment, 0, 32, 32, Discarding.SETTLED, Priority.WARM)
        run, ticket = segment.runs[0], segment.others.ticket
        assert ticket is not None
        assert (run.priority, run.unhurried, ticket.priority) == (Priority.WARM, Priority.WARM, Priority.WARM)
        engine.fetcher.ahead(segment, 0, 32, 32, Discarding.SETTLED)
        assert (run.priority, run.unhurried, ticket.priority) == (Priority.AHEAD, Priority.AHEAD, Priority.AHEAD)
        await engine.settle()
        assert segment.file.presence.resident == 32
        engine.opener.release(file)
