"""Warming while the origin, the backing directory, another node or time itself is in its way."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache.fetch import AHEAD_ATTEMPTS
from dsfs.cache.memory import Discarding
from dsfs.cache.warm import ALL, NOT_YET, THIS, Phase
from dsfs.model.blocks import BLOCK, RUN
from dsfs.model.errors import OriginTemporaryError
from dsfs.model.request import WarmRequest
from dsfs.model.warming import MOST_PAUSE_S
from tests.engine.engine import MIB, PREFIX, Settings, running, until
from tests.engine.warming import LARGE, begin, ended, found, requests_in, sample, warmed


@pytest.mark.expects_log("has ETag|has drifted")
async def test_drifted_objects_end_a_warm_with_the_reason_and_cost_the_others_nothing(tmp_path: Path) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin, Settings(connections=1)) as engine:  # so that it learns before it asks again
        await engine.read_path("v1/small/000")
        origin.put(PREFIX + "v1/small/050", b"new")
        origin.put(PREFIX + "v1/large", b"new")
        warm = await warmed(engine)
        assert warm.phase is Phase.INCOMPLETE
        (reason, missing), = warm.missing.items()
        assert reason == "the origin has other objects than were listed: dsfs refresh photos/v1" == warm.reason
        assert missing.bytes == len(LARGE) + len(contents["v1/small/050"])
        assert missing.example in (PREFIX + "v1/small/050", PREFIX + "v1/large")
        assert origin.count(PREFIX + "v1/small/050") <= 2
        assert origin.count(PREFIX + "v1/large") < 7
        origin.fail_everything(OriginTemporaryError("gone"))
        for path, content in contents.items():
            if path not in ("v1/small/050", "v1/large"):
                assert await engine.read_path(path) == content


async def passing(clock: MockClock, condition: Callable[[], bool]) -> None:
    """Time passes, a second at a time, in which threads do something, until the condition is true."""
    while not condition():
        clock.jump(1)
        await wait_all_tasks_blocked()
        await trio.to_thread.run_sync(time.sleep, 0.001)


@pytest.mark.expects_log("fetch failed")
async def test_silent_origin_pauses_a_warm_which_goes_on_by_itself(tmp_path: Path, mock_clock: MockClock) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin) as engine:
        await engine.read_path("v1/small/000")  # so that it is listed
        await engine.settle()
        sent_bytes = origin.sent_bytes
        origin.fail_everything(OriginTemporaryError("HTTP 503 SlowDown"))
        warm = await begin(engine)
        await passing(mock_clock, lambda: warm.course.pause_until_s - trio.current_time() > MOST_PAUSE_S / 2)
        assert "SlowDown" in warm.course.trouble
        gets, began_s = len(origin.gets), trio.current_time()
        await passing(mock_clock, lambda: len(origin.gets) >= gets + 4 * AHEAD_ATTEMPTS)
        runs = (len(origin.gets) - gets) / AHEAD_ATTEMPTS / 28  # of so many pieces at most
        assert runs <= 2 + (trio.current_time() - began_s) / MOST_PAUSE_S
        assert warm.phase is Phase.PAUSED
        assert origin.sent_bytes == sent_bytes
        origin.fail_everything(None)
        await passing(mock_clock, lambda: warm.is_over)
        assert await ended(warm) is Phase.COMPLETE
    assert origin.sent_bytes == sum(map(len, contents.values()))


@pytest.mark.expects_log("fetch failed")
async def test_trouble_that_is_over_is_not_told_of_what_another_node_is_at(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    settings = Settings(backing=tmp_path / "backing")
    (origin_a, _), (origin_b, _) = sample(), sample()
    gates = [origin_a.hold(PREFIX + "v1/large") for _ in range(-(-len(LARGE) // RUN))]
    async with running(tmp_path / "a", origin_a, settings) as a, running(tmp_path / "b", origin_b, settings) as b:
        file = await a.open("v1/large")
        assert file.segment is not None
        origin_b.fail_everything(OriginTemporaryError("HTTP 503 SlowDown"))
        warm = await begin(b, "large")
        await passing(mock_clock, lambda: warm.phase is Phase.PAUSED and not b.fetcher.in_flight)
        blocks = len(file.segment.file.blocks)
        a.fetcher.ahead(file.segment, 0, blocks, RUN // BLOCK, Discarding.SETTLED)
        await until(lambda: all(gate.reached.is_set() for gate in gates), "the other node being at all of it")
        origin_b.fail_everything(None)
        await passing(mock_clock, lambda: warm.phase is not Phase.PAUSED and bool(warm.missing))
        await passing(mock_clock, lambda: warm.phase is not Phase.FILLING)
        assert (warm.phase, warm.course.trouble) == (Phase.WAITING, "")
        assert [(reason, missing.bytes) for reason, missing in warm.missing.items()] == [(NOT_YET, len(LARGE))]
        for gate in gates:
            gate.open()
        await passing(mock_clock, lambda: warm.is_over)
        assert warm.phase is Phase.COMPLETE
        a.opener.release(file)
    assert origin_b.sent_bytes == 0


async def test_full_backing_directory_pauses_a_warm_before_it_fetches_in_vain(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin, contents = sample()
    async with running(tmp_path, origin, Settings(limit_bytes=20 * MIB)) as engine:
        warm = await begin(engine)
        await passing(mock_clock, lambda: warm.course.pause_until_s - trio.current_time() > MOST_PAUSE_S / 2)
        assert (warm.phase, warm.course.trouble) == (Phase.PAUSED, "backing.limit is reached")
        assert engine.room.unfilled_bytes == 0
        assert 15 * MIB < origin.sent_bytes <= 20 * MIB
        for path, content in contents.items():  # no reader is told
            assert await engine.read_path(path) == content
        engine.room.limit_bytes = 1 << 40
        await passing(mock_clock, lambda: warm.is_over)
        assert await ended(warm) is Phase.COMPLETE


async def test_what_is_dropped_behind_a_warm_is_found_by_its_check(tmp_path: Path) -> None:
    origin, contents = sample()
    gate = origin.hold(PREFIX + "v1/large", after=MIB)
    async with running(tmp_path, origin) as engine:
        warm = await begin(engine)
        await until(gate.reached.is_set)
        await until(lambda: engine.metrics.seal_segments.value() == 2)  # the packs
        await engine.drop("v1")
        gate.open()
        assert await ended(warm) is Phase.COMPLETE
        for path, content in contents.items():
            if content:
                file = await engine.open(path)
                assert file.segment is not None
                assert file.segment.file.is_complete
                engine.opener.release(file)


@pytest.mark.expects_log("fetch failed")
async def test_request_for_all_nodes_is_found_by_another_whose_work_completes_it_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsfs.cache.warmer.LOOK_S", 0.05)
    backing = tmp_path / "backing"
    (origin_a, contents), (origin_b, _) = sample(), sample()
    async with running(tmp_path / "a", origin_a, Settings(backing=backing, seed=1)) as a:
        await a.read_path("v1/small/000")
        await a.settle()
        origin_a.fail_everything(OriginTemporaryError("HTTP 503 SlowDown"))
        asked = await begin(a, nodes=ALL)
        await until(lambda: asked.phase is Phase.PAUSED)
        async with running(tmp_path / "b", origin_b, Settings(backing=backing, seed=2)) as b:
            assert await ended(await found(b)) is Phase.COMPLETE
            assert origin_b.lists == []
        assert await ended(asked) is Phase.COMPLETE
        assert origin_a.sent_bytes + origin_b.sent_bytes == sum(map(len, contents.values()))
        await until(lambda: requests_in(backing) == [], "the request being taken away")
        for path, content in contents.items():
            assert await a.read_path(path) == content


async def test_request_that_is_withdrawn_elsewhere_stops_the_warm_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsfs.cache.warmer.LOOK_S", 0.05)
    origin, _ = sample()
    gate = origin.hold(PREFIX + "v1/small/000")
    async with running(tmp_path, origin, Settings(connections=1)) as engine:
        warm = await begin(engine, nodes=ALL)
        await until(gate.reached.is_set)
        for path in (tmp_path / "backing" / "requests").iterdir():
            path.unlink()
        await until(lambda: warm.is_withdrawn)
        gate.open()
        assert await ended(warm) is Phase.STOPPED
        assert warm.reason == "the request was withdrawn"


async def test_request_that_this_node_cannot_serve_is_left_to_the_others(tmp_path: Path) -> None:
    origin, _ = sample()
    async with running(tmp_path, origin) as engine:
        for nodes in (ALL, THIS):
            warm = await engine.warmer.begin(WarmRequest("speech", "v1"), nodes)
            assert await ended(warm) is Phase.INCOMPLETE
            assert warm.reason == "there is no dataset 'speech'"
        await until(lambda: requests_in(tmp_path / "state") == [], "the request being taken away")
        assert len(requests_in(tmp_path / "backing")) == 1


async def test_request_of_last_month_is_forgotten(tmp_path: Path) -> None:
    origin, _ = sample()
    async with running(tmp_path, origin) as engine:
        await engine.warmer.begin(WarmRequest("speech", "v1"), ALL)
    (request,) = (tmp_path / "backing" / "requests").iterdir()
    os.utime(request, ns=(0, request.stat().st_mtime_ns - 30 * 86_400 * 10**9))
    async with running(tmp_path, origin) as engine:
        await until(lambda: requests_in(tmp_path / "backing") == [], "the request being taken away")
        assert engine.warmer.warms == []
