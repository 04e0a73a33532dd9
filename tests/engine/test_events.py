"""Telling of events: it never waits and never fails, whatever the backing directory does."""

import errno
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.cache import events
from dsfs.cache.events import RETRY_S, Events
from dsfs.metrics import Metrics
from dsfs.model.event import Event, Kind
from dsfs.storage.eventlog import EventLog
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.nodes import NodesDirectory
from tests.engine.engine import until
from tests.engine.faults import Faults
from tests.rig.usages import usage_of

NODE = "0123456789abcdef"
S = 10**9


@asynccontextmanager
async def telling(tmp_path: Path) -> AsyncIterator[Events]:
    """Events of a node; at the end what was told is written, as far as that is possible."""
    for name in ("events", "nodes"):
        (tmp_path / name).mkdir(exist_ok=True)
    fs = file_system_of(tmp_path)
    nodes = NodesDirectory(tmp_path / "nodes", NODE, fs)
    told = Events(EventLog(tmp_path / "events", fs), nodes, Metrics())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.serve)
        yield told
        await told.end()
        nursery.cancel_scope.cancel()
    nodes.leave(usage_of())


def written(told: Events) -> list[Event]:
    return told.log.read({}, 0).events


def lost(told: Events) -> int:
    return int(told._metrics.events_lost.value())


async def test_event_is_written_with_node_and_the_server_s_time(tmp_path: Path) -> None:
    async with telling(tmp_path) as told:
        told.tell(Kind.DROPPED, "photos", "v1", "by ann", 4096)
        (event,) = await until(lambda: written(told), "the event")
        assert (event.kind, event.dataset, event.version, event.why, event.bytes, event.node) == (
            "dropped", "photos", "v1", "by ann", 4096, NODE,
        )  # fmt: skip
        assert abs(event.at_ns - time.time_ns()) < 60 * S  # the server is this machine
        told.tell(Kind.STARTED, why="x" * 10_000)
        await until(lambda: told._metrics.events_written.value() == 2)
        assert len(written(told)) == 2


async def test_event_that_waited_has_the_time_at_which_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with telling(tmp_path) as told:
        told.tell(Kind.STARTED)
        await until(lambda: written(told))
        gate = Faults(monkeypatch).hold("events.open")
        told.tell(Kind.DROPPED)
        await until(gate.reached.is_set, "the write hanging")
        told.tell(Kind.PINNED)
        await trio.to_thread.run_sync(time.sleep, 0.2)
        before_ns = time.time_ns()
        gate.open()
        await until(lambda: len(written(told)) == 3)
        assert [event.kind for event in written(told)] == ["started", "dropped", "pinned"]
        assert written(told)[-1].at_ns < before_ns - S // 10


@pytest.mark.parametrize(("back_ns", "is_kept"), [(4_000_000, True), (3 * S, False)])
async def test_events_of_a_node_keep_their_order_unless_the_server_s_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back_ns: int, is_kept: bool
) -> None:
    async with telling(tmp_path) as told:
        times = iter([10 * S, 10 * S - back_ns, 10 * S - back_ns + S])
        monkeypatch.setattr(told._nodes, "time_at", lambda moment_s: next(times))  # what two beats make of it
        kinds = [Kind.PINNED, Kind.UNPINNED, Kind.DROPPED]
        for kind in kinds:
            told.tell(kind, "photos", "v1")
        await until(lambda: len(written(told)) == 3)
        in_order = kinds if is_kept else [*kinds[1:], kinds[0]]
        assert [event.kind for event in written(told)] == in_order


async def test_silent_backing_directory_costs_who_tells_nothing_and_loses_what_is_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_WAITING", 5)
    async with telling(tmp_path) as told:
        gate = Faults(monkeypatch).hold("events.open")
        for number in range(8):
            told.tell(Kind.DROPPED, "photos", f"v{number}")
        assert lost(told) == 3
        await until(gate.reached.is_set, "the write hanging")
        gate.open()
        await until(lambda: len(written(told)) == 5)
        assert [event.version for event in written(told)] == [f"v{number}" for number in range(5)]


async def test_write_that_fails_is_tried_again_and_told_once(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dsfs")
    faults = Faults(monkeypatch)
    faults.fail("events.write", errno.ENOSPC, times=3)
    async with telling(tmp_path) as told:

        def have_failed(attempts: int) -> bool:
            return faults.reached.count("events.write") == attempts and not told._turn.locked()

        told.tell(Kind.DROPPED)
        for attempts in range(1, 4):
            await until(partial(have_failed, attempts), "an attempt")
            await wait_all_tasks_blocked()  # it waits now: a jump while its thread still writes is for nothing
            mock_clock.jump(RETRY_S)
        await until(lambda: len(written(told)) == 1)
    assert len([record for record in caplog.records if "events cannot be written" in record.message]) == 1


async def test_end_waits_for_the_last_events_and_not_for_a_silent_backing_directory(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with telling(tmp_path) as told:
        told.tell(Kind.STOPPED)
    assert [event.kind for event in written(told)] == ["stopped"]
    mock_clock.rate = 100
    gate = Faults(monkeypatch).hold("events.open")
    with trio.fail_after(60):
        async with telling(tmp_path) as told:
            told.tell(Kind.STOPPED)
            await until(gate.reached.is_set, "the write hanging")
    assert lost(told) == 1
    gate.open()
    await until(lambda: len(written(told)) == 2)  # the thread has come to its end


async def test_before_the_first_beat_the_server_is_asked_for_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    async with telling(tmp_path) as told:
        for number in range(3):
            told.tell(Kind.DROPPED, "photos", f"v{number}")
            await until(lambda number=number: len(written(told)) == number + 1)  # type: ignore[misc]
        assert faults.reached.count("nodes.beat") == 1
