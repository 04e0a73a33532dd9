"""A backing directory that does not answer: readers go to the origin in time, and come back by themselves."""

import re
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache.health import LOOK_S
from dsfs.cache.warm import Phase
from dsfs.model.blocks import BLOCK, RUN
from dsfs.model.errors import BackingError
from dsfs.model.health import DOWN_S, Condition
from dsfs.model.warming import MOST_PAUSE_S
from tests.engine.backing_sample import indexed_bytes
from tests.engine.engine import MIB, PREFIX, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.silence import TIMEOUT_S, Silence
from tests.engine.warming import begin
from tests.rig.segmentdir import files_below

LARGE = PREFIX + "v1/large"
CONTENT = Random(9).randbytes(9 * MIB)
SMALL = Random(10).randbytes(50_000)
SETTINGS = Settings(backing_timeout_s=TIMEOUT_S)

pytestmark = pytest.mark.expects_log("does not answer; until it does", "answers again")


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(LARGE, CONTENT)
    origin.put(PREFIX + "v1/small", SMALL)
    return origin


@pytest.mark.parametrize("is_sealed", [True, False])
async def test_reader_of_resident_bytes_gets_them_from_the_origin_within_the_timeout(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_sealed: bool
) -> None:
    origin = sample()
    size = len(CONTENT) if is_sealed else RUN
    async with running(tmp_path, origin, Settings(backing_timeout_s=TIMEOUT_S, inline=False)) as engine:
        file = await engine.open("v1/large")
        assert await engine.read(file, 0, size) == CONTENT[:size]
        await engine.settle()
        engine.opener.release(file)
    async with running(tmp_path, origin, Settings(backing_timeout_s=TIMEOUT_S, inline=False)) as engine:
        file = await engine.open("v1/large")
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        silence.begin()
        before = len(origin.gets)
        got: list[bytes] = []

        async def read() -> None:
            got.append(await engine.read(file, BLOCK, 4096))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await silence.pass_time(TIMEOUT_S - 0.1)
            assert not got
            await silence.pass_time(0.2)
            await until(lambda: got, "the read")
        assert got == [CONTENT[BLOCK : BLOCK + 4096]]
        assert len(origin.gets) == before + 1
        await silence.notice()
        await silence.end()
        engine.opener.release(file)


async def test_nobody_waits_and_nothing_is_sent_there_while_it_is_known_to_be_silent(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin, SETTINGS) as engine:
        faults = Faults(monkeypatch)
        silence = Silence(engine, mock_clock, faults)
        large, small = await engine.open("v1/large"), await engine.open("v1/small")
        silence.begin()
        await silence.notice()
        faults.reached.clear()
        assert await engine.read(large) == CONTENT
        assert await engine.read(small) == SMALL
        # The index is on this node, and who looks for requests has a thread of its own, which comes when it comes.
        assert not [point for point in faults.reached if not point.startswith(("index.", "request."))]
        skipped = engine.metrics.fill_skipped_bytes
        await until(lambda: skipped.value("slow") == len(CONTENT) + len(SMALL), "what was fetched being given up")
        await silence.end()
        for file in (large, small):
            engine.opener.release(file)


async def test_what_was_fetched_meanwhile_is_fetched_once_more_and_filled_when_it_answers_again(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin, Settings(backing_timeout_s=TIMEOUT_S, memory_bytes=RUN)) as engine:
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        file = await engine.open("v1/large")
        silence.begin()
        await silence.notice()
        assert await engine.read(file) == CONTENT
        await silence.end()
        assert await engine.read(file) == CONTENT
        await engine.settle()
        engine.opener.release(file)
        asked = len(origin.gets)
        assert await engine.read_path("v1/large") == CONTENT
        assert len(origin.gets) == asked


async def test_segment_that_cannot_be_opened_in_time_is_read_from_the_origin(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin, SETTINGS) as engine:
        assert await engine.read_path("v1/small") == SMALL
    async with running(tmp_path, origin, SETTINGS) as engine:
        await engine.library.generation(await engine.library.version(await engine.library.dataset("photos"), "v1"))
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        silence.begin()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await engine.read_path("v1/small"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await silence.notice()
            await until(lambda: got, "the read")
        assert got == [SMALL]
        await silence.end()


async def test_reader_who_waits_for_the_answer_to_a_claim_goes_on_when_none_comes_and_no_other_waits_for_one(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin, SETTINGS) as engine:
        file = await engine.open("v1/large")
        faults = Faults(monkeypatch)
        gate = faults.hold("rangelock.lock")
        got: list[bytes] = []

        async def read() -> None:
            got.append(await engine.read(file, 0, 10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await until(gate.reached.is_set)
            await wait_all_tasks_blocked()
            mock_clock.jump(TIMEOUT_S + LOOK_S)
            await until(lambda: got, "the read")
        assert engine.health.is_ok  # the probe was answered: it is slow, and not silent

        other = await engine.open("v1/small")
        assert await engine.read(other, 0, len(SMALL)) == SMALL  # with the clock standing still
        asked = faults.reached.count("rangelock.lock")
        gate.open()
        await engine.settle()
        assert await engine.read(file, len(CONTENT) - 10, 10) == CONTENT[-10:]
        assert faults.reached.count("rangelock.lock") > asked  # now that it answers
        engine.opener.release(other)
        engine.opener.release(file)
    assert got == [CONTENT[:10]]


async def test_reader_of_what_is_being_dropped_goes_on_when_the_removal_hangs(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin, SETTINGS) as engine:
        assert await engine.read_path("v1/large") == CONTENT
        await engine.settle()
    async with running(tmp_path, origin, SETTINGS) as engine:
        faults = Faults(monkeypatch)
        gate = faults.hold("segment.remove")
        silence = Silence(engine, mock_clock, faults)
        got: list[bytes] = []

        async def read() -> None:
            got.append(await engine.read_path("v1/large"))

        async def drop() -> None:
            with pytest.raises(BackingError):
                await engine.drop("v1")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)
            await until(gate.reached.is_set)
            silence.begin()
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            assert not got
            await silence.notice()
            await until(lambda: got, "the read")
            gate.open()
            await silence.end()
        assert got == [CONTENT]


async def test_fills_that_wait_for_a_thread_are_given_up(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin, Settings(backing_timeout_s=TIMEOUT_S, backing_threads=1)) as engine:
        file = await engine.open("v1/large")
        faults = Faults(monkeypatch)
        silence = Silence(engine, mock_clock, faults)
        data = faults.hold("segment.data")
        assert await engine.read(file) == CONTENT
        await until(data.reached.is_set)
        await engine.fetcher.wait_idle()
        silence.begin()
        await silence.notice()
        assert engine.filler.in_flight == 1  # the one that hangs
        data.open()
        await silence.end()
        engine.opener.release(file)


async def test_fills_that_hang_leave_readers_their_memory(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    settings = Settings(backing_timeout_s=TIMEOUT_S, backing_threads=16, memory_bytes=4 * RUN)
    async with running(tmp_path, origin, settings) as engine:
        file = await engine.open("v1/large")
        gate = Faults(monkeypatch).hold("segment.data")
        mock_clock.rate = 10.0
        for _ in range(3):
            assert await engine.read(file) == CONTENT
        mock_clock.rate = 0.0
        gate.open()
        engine.opener.release(file)


async def test_names_and_catalogs_are_had_without_it(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is here is known, and what is not is listed; it is shared when the daemon starts the next time."""
    origin = sample()
    async with running(tmp_path, origin, SETTINGS) as engine:
        await engine.open("v1/large")
    origin.put(PREFIX + "v2/large", CONTENT)
    async with running(tmp_path, origin, SETTINGS) as engine:
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        silence.begin()
        await silence.notice()
        listed = len(origin.lists)
        dataset = await engine.library.dataset("photos")
        assert await engine.read_path("v1/small") == SMALL
        assert len(origin.lists) == listed, "the catalog is here"
        assert await engine.library.version_names(dataset) == ["v1", "v2"]
        assert await engine.read_path("v2/large") == CONTENT
        await silence.end()
    async with running(tmp_path, origin, SETTINGS) as engine:
        await engine.open("v2/large")
        assert sorted(path.name for path in (engine.backing.generations / "photos").iterdir()) == ["v1", "v2"]


async def test_catalog_that_is_looked_for_when_the_silence_begins_is_had_in_time(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sample(), SETTINGS) as engine:
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        silence.begin()
        got: list[bytes] = []

        async def read() -> None:
            got.append(await engine.read_path("v1/small"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await silence.notice()
            await until(lambda: got, "the read")
        assert got == [SMALL]
        await silence.end()


@pytest.mark.parametrize("is_under_way", [False, True])
async def test_warm_is_paused_and_goes_on_by_itself(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_under_way: bool
) -> None:
    origin = sample()
    async with running(tmp_path, origin, Settings(backing_timeout_s=TIMEOUT_S, connections=1)) as engine:
        await engine.read_path("v1/small")
        await engine.settle()
        faults = Faults(monkeypatch)
        silence = Silence(engine, mock_clock, faults)
        gate = origin.hold(LARGE)
        if is_under_way:
            warm = await begin(engine)
            await until(gate.reached.is_set)
            silence.begin()
        else:
            silence.begin()
            warm = await begin(engine)
            await until(lambda: "segment.open_sealed" in faults.reached, "a thread that hangs")
        await silence.notice()
        gate.open()
        await until(lambda: warm.phase is Phase.PAUSED)
        # Its own patience may end in the same moment in which the directory is found silent.
        assert re.search("it has not answered for|it did not answer in time", warm.course.trouble)
        sent_bytes, hanging = origin.sent_bytes, faults.reached.count("segment.open_sealed")
        for _ in range(10):
            await silence.pass_time(MOST_PAUSE_S)
        assert origin.sent_bytes == sent_bytes  # nothing is fetched that cannot be filled
        assert faults.reached.count("segment.open_sealed") == hanging
        await silence.end()
        mock_clock.rate = 10.0
        await until(lambda: warm.is_over, "the end of the warm")
        mock_clock.rate = 0.0
        assert warm.phase is Phase.COMPLETE
        assert origin.sent_bytes == len(CONTENT) + len(SMALL)  # what had come meanwhile was still in memory
        file = await engine.open("v1/large")
        assert file.segment is not None
        assert file.segment.unfilled_runs == 0
        engine.opener.release(file)


async def test_condition_tells_silent_for_a_moment_from_down(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sample(), SETTINGS) as engine:
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        seen = [engine.health.condition]
        silence.begin()
        await silence.notice()
        seen.append(engine.health.condition)
        assert engine.health.reason.startswith("it has not answered for 5 s")
        await silence.pass_time(DOWN_S)
        seen.append(engine.health.condition)
        await silence.end()
        seen.append(engine.health.condition)
        assert engine.health.reason == ""
    assert seen == [Condition.OK, Condition.UNSTABLE, Condition.DOWN, Condition.OK]


@pytest.mark.parametrize("is_open", [True, False])
async def test_drop_that_is_not_answered_fails_in_time_and_what_it_removes_all_the_same_is_counted(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    origin = sample()
    async with running(tmp_path, origin, SETTINGS) as engine:
        assert [await engine.read_path(path) for path in ("v1/large", "v1/small")] == [CONTENT, SMALL]
    async with running(tmp_path, origin, SETTINGS) as engine:
        files = [await engine.open(path) for path in ("v1/large", "v1/small") if is_open]
        used_bytes = engine.room.used_bytes
        silence = Silence(engine, mock_clock, Faults(monkeypatch))
        silence.begin()
        errors: list[BackingError] = []

        async def drop() -> None:
            with pytest.raises(BackingError) as caught:
                await engine.drop("v1")
            errors.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop)
            await until(lambda: engine.dropper.in_flight)
            await silence.pass_time(TIMEOUT_S - 0.1)
            assert not errors
            await silence.pass_time(0.2)
        assert "did not answer in time; 0 bytes of 0 segments were dropped before" in str(errors[0])
        await silence.notice()
        await drop()
        assert "has not answered" in str(errors[1])
        assert engine.room.used_bytes == used_bytes
        await silence.end()
        await until(lambda: not engine.dropper.in_flight)
        await engine.settle()
        assert 0 < engine.room.used_bytes < used_bytes
        freed_bytes, segments = await engine.drop("v1")
        assert segments == 1
        assert 0 < freed_bytes < used_bytes
        assert indexed_bytes(engine.index) == 0
        assert engine.surplus_bytes() == 0
        assert not files_below(tmp_path / "backing" / "segments")
        for file in files:
            engine.opener.release(file)
