"""Who uses what: a node tells it soon, and then now and then, and nothing waits for that."""

import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.admin import queries
from dsfs.cache.lastuse import FIRST_FORGET_S, LOOK_S, UseRecorder
from dsfs.cache.versions import Version
from dsfs.model.lastuse import FORGOTTEN_AFTER_S, TOLD_EVERY_S
from dsfs.model.retention import ACTIVE_S
from dsfs.storage.residency import hour_of
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.test_queries import queries_of
from tests.engine.warming import begin, ended

CONTENT = b"x" * (5 * MIB)
V1 = ("photos", "v1")
PATIENT = Settings(backing_timeout_s=1e9)  # however the clock jumps
HOUR_NS = 3600 * 10**9


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    for version in ("v1", "v2"):
        origin.put(f"{PREFIX}{version}/large", CONTENT)
    return origin


@asynccontextmanager
async def recording(engine: Engine) -> AsyncIterator[UseRecorder]:
    recorder = UseRecorder(engine.library, engine.uses, engine.nodes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.serve)
        yield recorder
        nursery.cancel_scope.cancel()


async def version_of(engine: Engine, name: str) -> Version:
    return await engine.library.version(await engine.library.dataset("photos"), name)


async def next_look(clock: MockClock, seconds: float = LOOK_S) -> None:
    """Let that time pass, and the look come to its end."""
    await wait_all_tasks_blocked()
    clock.jump(seconds)
    await wait_all_tasks_blocked()
    # A look is one thread at a time: what is asked behind it is asked after it.
    await trio.to_thread.run_sync(lambda: None)
    await wait_all_tasks_blocked()


async def wait_told(clock: MockClock, is_told: Callable[[], object], seconds: float = LOOK_S) -> None:
    """Let that time pass, and then as many looks as it takes: one that is under way does not see the clock jump."""
    clock.jump(seconds)

    def is_told_by_now() -> bool:
        clock.jump(LOOK_S)
        return bool(is_told())

    await until(is_told_by_now, "the use being told")


def set_back(engine: Engine) -> Path:
    """The use of v1 that was told becomes an old one."""
    path = engine.backing.uses / "photos,v1"
    os.utime(path, ns=(0, 0))
    return path


async def test_use_is_told_soon_and_then_every_five_minutes(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample(), PATIENT) as engine, recording(engine):
        version = await version_of(engine, "v1")
        await next_look(mock_clock)
        assert engine.uses.all() == []
        version.was_used = True
        await wait_told(mock_clock, lambda: engine.uses.of([V1]))
        path = set_back(engine)
        version.was_used = True
        for _ in range(3):
            await next_look(mock_clock)
        assert path.stat().st_mtime_ns == 0
        await wait_told(mock_clock, lambda: path.stat().st_mtime_ns, TOLD_EVERY_S)
        set_back(engine)
        await next_look(mock_clock, TOLD_EVERY_S)
        assert path.stat().st_mtime_ns == 0  # nobody has used it since


async def test_open_file_is_use_however_silent_it_is(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample(), PATIENT) as engine, recording(engine):
        file = await engine.open("v1/large")
        for _ in range(3):
            await wait_told(mock_clock, lambda: engine.uses.of([V1]).get(V1), TOLD_EVERY_S)
            path = set_back(engine)
        engine.opener.release(file)
        await until(lambda: file.segment is None or not file.segment.users)
        await next_look(mock_clock, TOLD_EVERY_S)
        path = set_back(engine)
        await next_look(mock_clock, TOLD_EVERY_S)
        assert path.stat().st_mtime_ns == 0


async def test_warm_is_use_for_as_long_as_it_takes(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = sample()
    gate = origin.hold(f"{PREFIX}v1/large")
    async with running(tmp_path, origin, PATIENT) as engine, recording(engine):
        warm = await begin(engine)
        await until(gate.reached.is_set, "the warm asking the origin")
        for _ in range(3):
            await wait_told(mock_clock, lambda: engine.uses.of([V1]).get(V1), TOLD_EVERY_S)
            set_back(engine)
        gate.open()
        await ended(warm)


async def test_use_is_counted_when_it_begins_and_not_while_it_goes_on(tmp_path: Path, mock_clock: MockClock) -> None:
    day_ns = 86_400 * 10**9
    async with running(tmp_path, sample(), PATIENT) as engine:
        engine.uses.begin(*V1, 0)

        def told_long_ago() -> None:
            os.utime(engine.backing.uses / "photos,v1", ns=(0, time.time_ns() - 7 * day_ns))

        def is_told() -> bool:
            return time.time_ns() - engine.uses.of([V1])[V1] < day_ns

        def uses() -> float:
            (use,) = engine.uses.all()
            return use.uses

        version = await version_of(engine, "v1")
        told_long_ago()
        async with recording(engine) as recorder:
            version.was_used = True
            await wait_told(mock_clock, is_told)
            assert uses() == pytest.approx(1.5)
            for pause_s, counted in ((TOLD_EVERY_S, 1.5), (ACTIVE_S, 1.75)):
                await recorder.end()  # it has told by now, and knows when
                told_long_ago()  # as if the server's clock had jumped: this node knows better, while it tells
                assert uses() == pytest.approx(1.5)
                version.was_used = True
                await wait_told(mock_clock, is_told, pause_s)
                assert uses() == pytest.approx(counted, abs=1e-3)


async def test_version_whose_use_was_forgotten_meanwhile_is_told_anew(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample(), PATIENT) as engine, recording(engine):
        version = await version_of(engine, "v1")
        version.was_used = True
        await wait_told(mock_clock, lambda: engine.uses.of([V1]))
        (engine.backing.uses / "photos,v1").unlink()
        version.was_used = True
        await wait_told(mock_clock, lambda: engine.uses.of([V1]), TOLD_EVERY_S)


async def test_version_that_cannot_be_told_holds_up_no_other_and_is_told_later(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dsfs")
    async with running(tmp_path, sample(), PATIENT) as engine:
        for name in ("v1", "v2"):
            (await version_of(engine, name)).was_used = True
        Faults(monkeypatch).fail("lastuses.touch", errno.EACCES)
        async with recording(engine):
            await until(lambda: [use.version for use in engine.uses.all()] == ["v2"], "v2 being told")
            await wait_told(mock_clock, lambda: len(engine.uses.all()) == 2)
    assert len([record for record in caplog.records if "cannot be told which versions" in record.message]) == 1


async def test_silent_backing_directory_makes_it_late_and_nothing_else(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sample(), PATIENT) as engine:
        await engine.read_path("v1/large")
        (await version_of(engine, "v1")).was_used = True
        gate = Faults(monkeypatch).hold("lastuses.touch")
        async with recording(engine) as recorder:
            await until(gate.reached.is_set, "the news hanging")
            assert await engine.read_path("v1/large") == CONTENT
            mock_clock.rate = 100
            with trio.fail_after(60):
                await recorder.end()
            gate.open()
            await until(lambda: engine.uses.of([V1]), "the use being told")


async def test_end_tells_what_was_not_told_yet(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample(), PATIENT) as engine, recording(engine) as recorder:
        version = await version_of(engine, "v1")
        version.was_used = True
        await wait_told(mock_clock, lambda: engine.uses.of([V1]))
        path = set_back(engine)
        version.was_used = True
        await next_look(mock_clock)
        await recorder.end()
        assert path.stat().st_mtime_ns > 0


async def test_what_nobody_has_used_for_a_year_is_forgotten(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample(), PATIENT) as engine, recording(engine):
        for name in ("v1", "v2"):
            engine.uses.begin("photos", name, time.time_ns())
        os.utime(engine.backing.uses / "photos,v2", ns=(0, time.time_ns() - round(FORGOTTEN_AFTER_S * 1e9) - HOUR_NS))
        await next_look(mock_clock, FIRST_FORGET_S)
        await wait_told(mock_clock, lambda: [use.version for use in engine.uses.all()] == ["v1"])


# ---------------------------------------------------------------- status


async def status_of(engine: Engine, target: str = "photos/v1") -> dict[str, Any]:
    (version,) = cast(list[dict[str, Any]], (await queries_of(engine).status(target))["versions"])
    return version


async def test_status_tells_how_long_ago_a_version_was_used_on_any_node(tmp_path: Path) -> None:
    async with running(tmp_path, sample()) as engine:
        await engine.read_path("v1/large")
        assert (await status_of(engine))["last_used_ago_s"] is None
        engine.uses.begin(*V1, time.time_ns())
        path = engine.backing.uses / "photos,v1"
        os.utime(path, ns=(0, path.stat().st_mtime_ns - HOUR_NS))
        assert (await status_of(engine))["last_used_ago_s"] == pytest.approx(3600, abs=60)


async def test_status_does_not_wait_for_last_uses_that_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "BACKING_ANSWERS_S", 0.05)
    faults = Faults(monkeypatch)
    async with running(tmp_path, sample()) as engine:
        await engine.read_path("v1/large")
        engine.uses.begin(*V1, time.time_ns())
        gate = faults.hold("lastuses.look")
        assert (await status_of(engine))["last_used_ago_s"] is None
        gate.open()
        gate = faults.hold("backing.statvfs")
        engine.room._statvfs = None
        faults.reached.clear()
        assert (await status_of(engine))["last_used_ago_s"] is None
        assert "lastuses.look" not in faults.reached  # it is known to be silent
        gate.open()
        faults.fail("lastuses.look", errno.EIO)
        assert (await status_of(engine))["last_used_ago_s"] is None


# ---------------------------------------------------------------- segments


async def test_index_knows_to_the_hour_when_a_segment_was_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    async with running(tmp_path, sample()) as engine:
        file = await engine.open("v1/large")
        assert file.segment is not None
        identity = file.segment.identity

        async def hour() -> int | None:
            await engine.filler.wait_idle()
            await engine.filler.flush_index()
            record = engine.index.get(identity)
            return record.used_hour if record else None

        await engine.read(file)
        assert await hour() == hour_of(now_s)
        monkeypatch.setattr(time, "time", lambda: now_s + 7200)
        await engine.read(file)
        assert await hour() == hour_of(now_s) + 2
        monkeypatch.setattr(time, "time", lambda: now_s + 3600)  # a clock that is set back
        await engine.read(file)
        assert await hour() == hour_of(now_s) + 2
        monkeypatch.setattr(time, "time", lambda: now_s + 5 * 3600)
        engine.opener.release(await engine.open("v1/large"))  # what it reads, the page cache may have
        assert await hour() == hour_of(now_s) + 5
        engine.opener.release(file)
