"""The evictor on engines: what leaves, in two steps, and what does not."""

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from dsfs.cache import evictor as evictor_module
from dsfs.cache.sweep import COUNT_EVERY_S
from dsfs.model import told
from dsfs.model.errors import BackingError
from dsfs.model.eviction import Rule
from dsfs.model.pin import Pin
from dsfs.model.retention import Amount
from dsfs.storage.account import count
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.evicting import DAY_S, Evicting, age, hidden, present
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults

LARGE = os.urandom(1 * MIB) * 6


def sample(*versions: str) -> FakeOrigin:
    origin = FakeOrigin()
    for number, version in enumerate(versions):
        origin.put(f"{PREFIX}{version}/large", LARGE + version.encode())
        for name in range(3):
            origin.put(f"{PREFIX}{version}/small/{name}", f"{version}{name}{number}".encode())
    return origin


@pytest.fixture(autouse=True)
def short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two beats of a node are as far apart as the test has them."""
    monkeypatch.setattr(told, "BEAT_S", 0.0)


@asynccontextmanager
async def evicting(
    tmp_path: Path, *versions: str, limit_bytes: int = 1 << 40, grace_s: float = 0.0, keep_newest: int = 0
) -> AsyncIterator[tuple[Engine, Evicting]]:
    """An engine that has read all versions, and stopped to use them, and an evictor."""
    async with running(tmp_path, sample(*versions), Settings(limit_bytes=limit_bytes)) as engine:
        for version in versions:
            await read(engine, version)
        found = Evicting(engine, tmp_path, limit_bytes=limit_bytes, grace_s=grace_s, keep_newest=keep_newest)
        found.beat()
        yield engine, found
        await found.close()


async def read(engine: Engine, version: str) -> None:
    assert await engine.read_path(f"{version}/large") == LARGE + version.encode()
    for name in range(3):
        assert (await engine.read_path(f"{version}/small/{name}")).startswith(version.encode())
    await engine.settle()


async def rounds(evicting: Evicting, times: int = 3) -> None:
    """As many as it takes: what is hidden is met, and every node has told since."""
    for _ in range(times):
        evicting.beat()
        evicting.engine.room.keep()
        await evicting.evictor.evict(0)


async def test_what_is_stale_is_hidden_then_deleted_and_comes_back_with_the_next_read(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=60) as (engine, found):
        age(engine, "v1", 8)
        age(engine, "v2", 6)
        before = set(present(engine))
        plan = await found.evictor.plan(0)
        assert [(verdict.key[1], verdict.rule) for verdict in plan.leaves] == [("v1", Rule.STALE)]
        assert [(verdict.key[1], verdict.rule) for verdict in plan.stays] == [("v2", Rule.ROOM)]
        assert set(present(engine)) == before

        used = engine.room.used_bytes
        left = await found.evictor.evict(0)
        assert [verdict.segments for verdict in left.leaves] == [verdict.segments for verdict in plan.leaves]
        assert len(hidden(engine)) == 2
        assert set(present(engine)) < before
        await rounds(found)
        assert len(hidden(engine)) == 2  # the grace
        found.clock_s += 61
        await rounds(found)
        assert hidden(engine) == []
        assert engine.room.used_bytes < used - len(LARGE)

        await read(engine, "v2")
        await engine.drop("v1")  # what of it is in memory
        await read(engine, "v1")
        assert set(present(engine)) == before
        assert engine.surplus_bytes() >= 0


async def test_reader_with_a_hidden_segment_open_reads_on_and_it_is_kept_for_as_long_as_that_is_told(
    tmp_path: Path,
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        file = await engine.open("v1/large")
        assert file.segment is not None
        identity = file.segment.identity
        found.beat((identity,))
        plan = await found.evictor.evict(0)
        assert identity not in {each for verdict in plan.leaves for each in verdict.segments}
        assert identity in present(engine)

        found.beat()  # as if it had been opened a moment after that was told
        await found.evictor.evict(0)
        assert [name.partition(".")[0] for name in hidden(engine)].count(identity) == 1
        for _ in range(3):
            found.beat((identity,))
            await found.evictor.evict(0)
        assert [name.partition(".")[0] for name in hidden(engine)] == [identity]
        assert await engine.read(file) == LARGE + b"v1"
        await rounds(found)
        assert hidden(engine) == []
        assert await engine.read(file) == LARGE + b"v1"  # a miss, at worst
        engine.opener.release(file)
        await engine.settle()


async def test_room_of_what_is_deleted_comes_back_though_this_node_had_it_open_a_while_ago(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        file = await engine.open("v2/large")
        engine.segments.close_unused()
        await read(engine, "v2")
        engine.segments.close_unused()
        await until(lambda: len(open_segments(engine)) == 2, "what is not used being closed")
        await rounds(found, 4)
        assert hidden(engine) == []
        assert not [name for name in open_segments(engine) if name.endswith("(deleted)")]
        assert await engine.read(file) == LARGE + b"v2"
        engine.opener.release(file)
        await read(engine, "v1")


def open_segments(engine: Engine) -> list[str]:
    """What this process has open below segments/."""
    names = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [name for name in names if name.startswith(str(engine.backing.path / "segments"))]


async def test_nothing_leaves_that_is_pinned_or_in_use_or_may_be(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", "v3") as (engine, found):
        for version in ("v1", "v2", "v3"):
            age(engine, version)
        found.pins.place(Pin("photos", "v1", 0, 0, "ann", "a", ""))
        engine.uses.touch("photos", "v2")
        plan = await found.evictor.plan(1 << 40)
        assert {verdict.key[1]: verdict.rule for verdict in plan.leaves} == {"v3": Rule.STALE}
        assert {verdict.key[1]: verdict.rule for verdict in plan.stays} == {"v1": Rule.PINNED, "v2": Rule.IN_USE}
        assert plan.missing.size_bytes > 0

        (engine.backing.nodes / "other").mkdir()
        (engine.backing.nodes / "other" / "heartbeat").touch()
        (engine.backing.nodes / "other" / "usage").write_text("nonsense")
        plan = await found.evictor.evict(1 << 40)
        assert plan.leaves == ()
        assert {verdict.rule for verdict in plan.stays} == {Rule.PINNED, Rule.UNKNOWN_NODES}
        assert hidden(engine) == []


async def test_version_that_comes_into_use_while_it_is_about_to_leave_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", 30)
        age(engine, "v2", 20)
        await found.evictor.plan(0)
        judge = found.surveyor.judge

        def judged(*args: object) -> object:
            engine.uses.touch("photos", "v2")  # after the survey
            return judge(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(found.surveyor, "judge", judged)
        plan = await found.evictor.evict(0)
        assert [verdict.key[1] for verdict in plan.leaves] == ["v1"]
        assert len(hidden(engine)) == 2


async def test_above_the_high_watermark_what_is_used_least_leaves_down_to_the_low_one(tmp_path: Path) -> None:
    versions = [f"v{number}" for number in range(5)]
    async with evicting(tmp_path, *versions, limit_bytes=33 * MIB) as (engine, found):
        for number, version in enumerate(versions):
            age(engine, version, 5 - number)
        plan = await found.evictor.evict(0)
        assert [(verdict.key[1], verdict.rule) for verdict in plan.leaves] == [("v0", Rule.LEAST_USED)]
        room = plan.survey.room
        assert room.high_bytes < room.used.size_bytes
        assert room.used.size_bytes - plan.leaves[0].amount.size_bytes <= room.low_bytes
        assert (await found.evictor.evict(0)).leaves == ()  # what is leaving counts
        await rounds(found, 6)  # no more is deleted at once than may be owed
        assert hidden(engine) == []
        plan = await found.evictor.plan(8 * MIB)
        assert plan.leaves[-1].key[1] == "v1"
        assert not {"v2", "v3", "v4"} & {verdict.key[1] for verdict in plan.leaves}


async def test_two_evictors_at_once_do_no_more_than_one(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        other = Evicting(engine, tmp_path, name="other")
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(found.evictor.evict, 0)
                nursery.start_soon(other.evictor.evict, 0)
        assert len(hidden(engine)) == 2
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                found.beat()
                nursery.start_soon(found.evictor.evict, 0)
                nursery.start_soon(other.evictor.evict, 0)
        assert hidden(engine) == []
        engine.room.keep()
        there = count(engine.backing.path)
        assert there is not None
        assert engine.room.used_bytes >= there.size_bytes  # nothing was taken off twice
        await read(engine, "v2")
        await other.close()


async def test_room_that_does_not_come_back_stops_deleting_after_a_part_of_the_limit_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [f"v{number}" for number in range(4)]
    async with evicting(tmp_path, *versions, limit_bytes=100 * MIB) as (engine, found):
        there = engine.room.there()  # as a file system with a snapshot says it, which this one has not
        monkeypatch.setattr(engine.room, "there", lambda: there)
        for version in versions:
            age(engine, version)
        await found.evictor.evict(0)
        for _ in range(10):
            found.clock_s += 60
            await rounds(found, 1)
        assert len(hidden(engine, at_least=MIB)) == 3  # one of them is larger than what may be owed
        assert "does a snapshot hold them?" in found.sweeper.trouble
        standing = found.evictor._standing.look()
        assert standing is not None
        assert standing.trouble == found.sweeper.trouble
        for _ in range(2 * len(versions)):
            there = replace(there, free=there.free + Amount(20 * MIB))  # the snapshots are gone, one after the other
            await rounds(found, 1)
        assert hidden(engine) == []
        assert found.sweeper.trouble == ""


async def test_what_is_deleted_when_a_count_has_just_ended_is_taken_off(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=COUNT_EVERY_S + 10) as (engine, found):
        age(engine, "v1")
        await rounds(found, 4)
        counted = engine.room.account.look()
        assert counted is not None
        found.clock_s += COUNT_EVERY_S + 1
        await rounds(found, 2)
        assert len(hidden(engine)) == 2
        found.clock_s += 10
        await rounds(found, 1)
        assert hidden(engine) == []
        account, there = engine.room.account.look(), count(engine.backing.path)
        assert account is not None
        assert there is not None
        assert account.counted > counted.counted
        assert 0 <= account.used.size_bytes - there.size_bytes < len(LARGE) // 2


async def test_segments_of_nobody_and_old_generations_leave_too(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        origin = engine.origin
        assert isinstance(origin, FakeOrigin)
        origin.put(f"{PREFIX}v1/large", LARGE[::-1])
        version = await engine.library.version(await engine.library.dataset("photos"), "v1")
        await engine.library.refresh(version)
        assert await engine.read_path("v1/large") == LARGE[::-1]
        await engine.settle()
        generations = list((engine.backing.generations / "photos" / "v1").iterdir())
        assert len(generations) == 2
        old = next(path for path in generations if path.name != version.current.id)  # type: ignore[union-attr]
        stamp = old.stat().st_mtime_ns - DAY_S * 10**9
        os.utime(old / "catalog.mdb", ns=(stamp, stamp))
        plan = await found.evictor.evict(0)
        assert [verdict.rule for verdict in plan.leaves] == [Rule.SUPERSEDED]


async def test_node_whose_turn_it_is_does_the_rounds_and_another_one_when_that_shows_no_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictor_module, "ROUND_S", 0.01)
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        other = Evicting(engine, tmp_path, name="other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.evictor.serve)
            await until(lambda: bool(hidden(engine)), "a round")
            assert found.evictor.is_ours
            nursery.start_soon(other.evictor.serve)
            for _ in range(10):
                await trio.testing.wait_all_tasks_blocked()
            assert not other.evictor.is_ours
            await found.evictor.end()
            await until(lambda: bool(other.evictor.is_ours), "the turn")
            nursery.cancel_scope.cancel()
        await other.close()


async def test_directory_that_cannot_be_seen_is_an_error_and_nothing_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        faults = Faults(monkeypatch)
        for point in ("nodes.beat", "pins.list", "lastuses.look", "account.look"):
            faults.fail(point, errno.EIO)
            with pytest.raises(BackingError, match="cannot be looked through"):
                await found.evictor.evict(0)
        assert hidden(engine) == []
