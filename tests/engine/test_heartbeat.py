"""The heartbeat of a node: what it tells of the engine it beats in, and that nothing waits for it."""

import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from dsfs.admin.nodes import Neighbours
from dsfs.cache.datasets import Datasets
from dsfs.cache.heartbeat import Heartbeat
from dsfs.model.errors import BackingError
from dsfs.model.nodes import BEAT_S, FORGOTTEN_AFTER_S, Life, Look
from dsfs.model.usage import Usage
from dsfs.storage.nodes import HEARTBEAT, NodesDirectory
from tests.engine.engine import MIB, PREFIX, Engine, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.test_queries import queries_of
from tests.rig.usages import usage_of

CONTENT = b"x" * (5 * MIB)


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(f"{PREFIX}v1/large", CONTENT)
    origin.put(f"{PREFIX}v1/empty", b"")
    origin.put(f"{PREFIX}v1/a//b", b"")
    return origin


@asynccontextmanager
async def beating(engine: Engine, node: str = "this") -> AsyncIterator[Heartbeat]:
    """A heartbeat of the engine; at the end it has stopped."""
    datasets = cast(Datasets, SimpleNamespace(origins=[engine.origin]))
    directory = NodesDirectory(engine.backing.nodes, node, engine.backing.file_system)
    heartbeat = Heartbeat(
        directory, engine.library, engine.segments, datasets, engine.backing, engine.metrics, Path("/datasets")
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat.serve)
        yield heartbeat
        await heartbeat.end()
        nursery.cancel_scope.cancel()


async def told(heartbeat: Heartbeat) -> Usage | None:
    """What others read of the node."""
    look: Look = await trio.to_thread.run_sync(heartbeat.look)
    return next((sighting.usage for sighting in look.sightings if sighting.node == heartbeat.nodes.node), None)


async def next_told(heartbeat: Heartbeat, clock: MockClock) -> Usage:
    """The same, after one more beat."""
    beats: list[None] = []
    beat = heartbeat.nodes.beat

    def counted(usage: Usage) -> None:
        beat(usage)
        beats.append(None)

    heartbeat.nodes.beat = counted  # type: ignore[method-assign]
    clock.jump(BEAT_S)
    await until(lambda: beats, "a beat")
    heartbeat.nodes.beat = beat  # type: ignore[method-assign]
    usage = await told(heartbeat)
    assert usage is not None
    return usage


async def test_open_files_are_told_until_they_are_released(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample()) as engine, beating(engine) as heartbeat:
        large, empty = await engine.open("v1/large"), await engine.open("v1/empty")
        assert await engine.read(large) == CONTENT
        usage = await next_told(heartbeat, mock_clock)
        (version,) = usage.versions
        assert (version.dataset, version.version, version.open_files) == ("photos", "v1", 2)
        assert version.generation == large.generation.id
        assert large.segment is not None
        assert usage.segments == (large.segment.identity,)
        assert usage.trouble == ("photos/v1: 1 keys that no path can hold are left out",)
        assert usage.traffic.origin_bytes == len(CONTENT)
        assert (usage.backing.state, usage.origins[0].name) == ("ok", "s3://fake")

        segment = large.segment
        for file in (large, empty):
            engine.opener.release(file)
        await until(lambda: not segment.users, "the threads that are at the segment")
        usage = await next_told(heartbeat, mock_clock)
        assert (usage.versions, usage.segments) == ((), ())


async def test_speed_is_what_was_read_between_two_beats(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample()) as engine, beating(engine) as heartbeat:
        file = await engine.open("v1/large")
        await next_told(heartbeat, mock_clock)
        file.generation.read_bytes += 3_000_000
        engine.metrics.read_bytes.add(3_000_000)
        engine.metrics.read_resident_bytes.add(2_000_000)
        usage = await next_told(heartbeat, mock_clock)
        assert usage.versions[0].bytes_per_s == 3_000_000 / BEAT_S
        assert (usage.traffic.read_bytes, usage.traffic.cache_bytes) == (3_000_000, 2_000_000)
        assert (usage.traffic.recent_read_bytes, usage.traffic.recent_cache_bytes) == (3_000_000, 2_000_000)
        engine.opener.release(file)


async def test_node_that_ends_says_so(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample()) as engine:
        async with beating(engine) as heartbeat:
            await next_told(heartbeat, mock_clock)
        other = NodesDirectory(engine.backing.nodes, "other", engine.backing.file_system)
        look = await trio.to_thread.run_sync(other.look)
        other.leave(usage_of())
        assert [look.life(sighting) for sighting in look.sightings] == [Life.ALIVE, Life.STOPPED]


async def test_silent_backing_directory_makes_a_beat_late_and_nothing_else(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = sample()
    async with running(tmp_path, origin) as engine:
        await engine.read_path("v1/large")
        gate = Faults(monkeypatch).hold("nodes.beat")
        async with beating(engine) as heartbeat:
            await until(gate.reached.is_set, "the beat hanging")
            assert await engine.read_path("v1/large") == CONTENT
            mock_clock.jump(10 * BEAT_S)
            await trio.testing.wait_all_tasks_blocked()
            gate.open()
            assert (await next_told(heartbeat, mock_clock)).program.pid == os.getpid()


async def test_end_does_not_wait_long_for_a_silent_backing_directory(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mock_clock.rate = 100
    async with running(tmp_path, sample()) as engine:
        gate = Faults(monkeypatch).hold("nodes.beat")
        with trio.fail_after(60):
            async with beating(engine) as heartbeat:
                await until(gate.reached.is_set, "the beat hanging")
        gate.open()
        await trio.to_thread.run_sync(heartbeat.nodes.leave, usage_of())


async def test_beat_that_fails_is_told_once_and_tried_again(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faults = Faults(monkeypatch)
    caplog.set_level("INFO", "dsfs")
    async with running(tmp_path, sample()) as engine:
        faults.fail("nodes.beat", errno.EROFS, times=10**6)
        async with beating(engine) as heartbeat:

            def told_of() -> list[logging.LogRecord]:
                mock_clock.jump(BEAT_S)
                return [record for record in caplog.records if "cannot be told" in record.message]

            await until(told_of, "a beat that fails")
            for _ in range(3):
                mock_clock.jump(BEAT_S)
                await trio.to_thread.run_sync(lambda: None)
            with pytest.raises(BackingError, match="nodes cannot be seen: Read-only"):
                await Neighbours(heartbeat, queries_of(engine).ask_backing).answer({})
            faults.fail("nodes.beat", errno.EROFS, times=0)
            usage = engine.backing.nodes / heartbeat.nodes.node / "usage"

            def is_told() -> bool:
                mock_clock.jump(BEAT_S)  # one that comes while the last beat is at work goes by unnoticed
                return usage.exists()

            await until(is_told, "a beat that succeeds")
    assert len([record for record in caplog.records if "cannot be told" in record.message]) == 1


async def test_nodes_are_counted_and_the_long_dead_forgotten(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample()) as engine:
        for name in ("other", "dead"):
            NodesDirectory(engine.backing.nodes, name, engine.backing.file_system).leave(usage_of(name))
        long_ago_s = (engine.backing.nodes / "dead" / HEARTBEAT).stat().st_mtime - FORGOTTEN_AFTER_S - 1
        os.utime(engine.backing.nodes / "dead" / HEARTBEAT, (long_ago_s, long_ago_s))
        async with beating(engine):
            await until(lambda: sorted(os.listdir(engine.backing.nodes)) == ["other", "this"], "the dead being gone")
            await until(lambda: "dsfs_heartbeat_alive_nodes 2\n" in engine.metrics.text())
            assert "dsfs_heartbeat_age_seconds 0." in engine.metrics.text()


async def test_answer_names_all_nodes_and_what_they_use(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample()) as engine, beating(engine) as heartbeat:
        other = NodesDirectory(engine.backing.nodes, "other", engine.backing.file_system)
        other.beat(usage_of("elsewhere", files=2, segments=("s1", "s2")))
        await next_told(heartbeat, mock_clock)
        answer = await Neighbours(heartbeat, queries_of(engine).ask_backing).answer({})
        other.leave(usage_of())
    rows = cast(list[dict[str, object]], answer["nodes"])
    assert answer["this"] == "this"
    assert [(row["node"], row["state"], row["trouble"]) for row in rows] == [
        ("other", "alive", ""),
        ("this", "alive", ""),
    ]
    assert answer["versions_in_use"] == [
        {"dataset": "photos", "version": "v1", "generation": "0123456789abcdef", "open_files": {"other": 2}}
    ]
    assert (answer["segments_in_use"], answer["nodes_with_unknown_use"]) == (2, [])
