"""Nodes that share a backing directory: who fetches what, who waits for whom, and for how long."""

from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache.claims import DISTRUST_S, LEAST_PATIENCE_S
from dsfs.cache.fill import LOOK_S
from dsfs.model.blocks import BLOCK, RUN
from dsfs.storage.segment import State
from tests.engine.claiming import CONTENT, LARGE, SMALL, TOTAL_BYTES, Reading, asked, fetching, nodes, sample
from tests.engine.engine import MIB, Engine, Settings, until
from tests.engine.fake_origin import Get
from tests.engine.faults import Faults

# -------------------------------------------------------------------- nothing twice


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("order", ["same", "own"])
async def test_nodes_that_read_everything_at_once_fetch_each_byte_once(
    tmp_path: Path, shared: bool, order: str
) -> None:
    origin = sample()

    async def read_all(engine: Engine, number: int) -> None:
        steps: list[tuple[str, int]] = [("v1/large", offset) for offset in range(0, len(CONTENT), MIB)]
        steps += [(path, 0) for path in SMALL]
        if order == "own":
            Random(number).shuffle(steps)
        for path, offset in steps:
            file = await engine.open(path)
            expected = (CONTENT if path == "v1/large" else SMALL[path])[offset : offset + MIB]
            assert await engine.read(file, offset, MIB) == expected
            engine.opener.release(file)

    async with nodes(tmp_path, origin, 3, Settings(shared=shared)) as engines, trio.open_nursery() as nursery:
        for number, engine in enumerate(engines):
            nursery.start_soon(read_all, engine, number)
    assert origin.sent_bytes == TOTAL_BYTES
    assert len({(get.key, get.offset) for get in origin.gets}) == len(origin.gets)


async def test_reader_waits_for_what_another_node_fetches_and_finds_it_filled(tmp_path: Path) -> None:
    origin = sample()
    gate = origin.hold(LARGE)
    async with nodes(tmp_path, origin, 2) as (a, b), trio.open_nursery() as nursery:
        first = Reading(a, nursery, 0)
        await until(gate.reached.is_set)
        second = Reading(b, nursery, 0)
        await until(lambda: asked(b, "held") > 1, "the other node asking more than once")
        gate.open()
    assert first.is_right
    assert second.is_right
    assert origin.count(LARGE) == 1


async def test_what_nobody_waits_for_is_left_to_the_node_that_is_at_it(tmp_path: Path) -> None:
    origin = sample()
    gate = origin.hold(LARGE)
    async with nodes(tmp_path, origin, 2) as (a, b), fetching(a, (0, 1)):
        await until(gate.reached.is_set)
        async with fetching(b, (0, 1)) as file:
            await b.fetcher.wait_idle()
            assert asked(b, "held") == 1
            assert file.segment is not None
            assert not file.segment.runs
            assert b.memory.used_bytes == 0
        gate.open()
    assert origin.count(LARGE) == 1


async def test_block_that_is_free_is_fetched_though_another_node_is_at_those_behind_it(tmp_path: Path) -> None:
    origin = sample()
    gate = origin.hold(LARGE)
    async with nodes(tmp_path, origin, 2) as (a, b), fetching(a, (2, 3)), trio.open_nursery() as nursery:
        await until(gate.reached.is_set)
        reading = Reading(b, nursery, 0, 4 * BLOCK)
        await until(lambda: Get(LARGE, 0, 2 * BLOCK) in origin.gets, "the blocks before it being fetched")
        gate.open()
    assert reading.is_right
    fetched = [block for get in origin.gets for block in range(get.offset, get.offset + get.length, BLOCK)]
    assert len(set(fetched)) == len(fetched)


async def test_readahead_goes_on_behind_what_another_node_is_at(tmp_path: Path) -> None:
    origin = sample()
    gate = origin.hold(LARGE)
    async with nodes(tmp_path, origin, 2) as (a, b), fetching(a, (3, 5)):
        await until(gate.reached.is_set)
        async with fetching(b, (0, RUN // BLOCK)):
            await b.fetcher.wait_idle()
        gate.open()
    assert {(get.offset // BLOCK, get.length // BLOCK) for get in origin.gets} == {(0, 3), (3, 2), (5, 27)}


async def test_segment_that_two_nodes_fill_between_them_is_sealed_and_sealed_to_both(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    """Though none of them reads what the other has filled."""
    origin = sample()
    blocks = -(-len(CONTENT) // BLOCK)
    async with nodes(tmp_path, origin, 2) as (a, b), fetching(a, (0, 30), (30, 50)), fetching(b, (50, blocks)):
        for engine in (a, b):
            await engine.fetcher.wait_idle()
            await engine.filler.wait_idle()

        def are_sealed() -> bool:
            return all(segment.file.state is State.SEALED for engine in (a, b) for segment in engine.segments)

        for _ in range(5):
            if are_sealed():
                break
            await wait_all_tasks_blocked()
            mock_clock.jump(LOOK_S)
            await wait_all_tasks_blocked()
            for engine in (a, b):
                await engine.filler.wait_idle()
        assert are_sealed()
    assert origin.sent_bytes == len(CONTENT)


# -------------------------------------------------------------------- patience


async def test_reader_waits_no_longer_than_patience_for_a_node_that_stands_still(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = sample()
    gate = origin.hold(LARGE)
    async with nodes(tmp_path, origin, 2) as (a, b), trio.open_nursery() as nursery:
        first = Reading(a, nursery, 0)
        await until(gate.reached.is_set)
        second = Reading(b, nursery, 0)
        await until(lambda: asked(b, "held") == 1)
        await wait_all_tasks_blocked()
        mock_clock.jump(LEAST_PATIENCE_S - 0.1)
        await until(lambda: asked(b, "held") == 2)
        assert second.got is None
        await wait_all_tasks_blocked()
        mock_clock.jump(0.3)
        await until(lambda: second.got is not None, "the read")
        assert b.metrics.claims_ignored.value() == 1
        await b.filler.wait_idle()
        assert b.metrics.fill_bytes.value()  # though the other one has its claim yet
        gate.open()
    assert first.is_right
    assert second.is_right
    assert origin.count(LARGE) == 2


async def test_node_that_stood_still_is_not_waited_for_a_second_time(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = sample()
    gates = [origin.hold(LARGE) for _ in range(3)]
    async with (
        nodes(tmp_path, origin, 2) as (a, b),
        fetching(a, *((block, block + 1) for block in (0, 40, 80))),
        trio.open_nursery() as nursery,
    ):
        await until(gates[-1].reached.is_set)
        reading = Reading(b, nursery, 0)
        await until(lambda: asked(b, "held") == 1)
        await wait_all_tasks_blocked()
        mock_clock.jump(LEAST_PATIENCE_S + 0.3)
        await until(lambda: reading.got is not None)

        again = Reading(b, nursery, 40 * BLOCK)
        await until(lambda: again.got is not None, "the read, without a wait")
        assert b.metrics.claims_ignored.value() == 2

        mock_clock.jump(DISTRUST_S)
        later = Reading(b, nursery, 80 * BLOCK)
        held = asked(b, "held")
        await until(lambda: asked(b, "held") == held + 1)
        await wait_all_tasks_blocked()
        assert later.got is None
        for gate in gates:
            gate.open()
        mock_clock.rate = 1.0  # so that it is asked again
    assert again.is_right
    assert later.is_right


async def test_patience_lasts_as_long_as_claims_do_from_their_grant_to_the_end_of_the_fill(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backing directory that is slow, and not the origin, makes claims long."""
    origin = sample()
    async with nodes(tmp_path, origin, 1, Settings(timeout_s=300)) as (engine,):
        assert engine.claims.patience_s == LEAST_PATIENCE_S
        gate = Faults(monkeypatch).hold("segment.data")
        async with trio.open_nursery() as nursery:
            Reading(engine, nursery, 0)
            await until(gate.reached.is_set)
            mock_clock.jump(80)
            gate.open()
        await engine.filler.wait_idle()
        assert engine.claims.patience_s >= 40  # it follows slowly: an eighth of 80 s, four times


async def test_patience_ends_with_a_third_of_the_origins_timeout(tmp_path: Path) -> None:
    async with nodes(tmp_path, sample(), 1, Settings(timeout_s=3)) as (engine,):
        assert engine.claims.patience_s == 1
