"""The evictor on engines: what leaves, and what does not."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from dsfs.cache import evictor as evictor_module
from dsfs.model.errors import BackingError
from dsfs.model.eviction import Rule, Verdict
from dsfs.model.nodes import ClockStep
from dsfs.model.pin import Pin
from dsfs.storage import account as account_module
from dsfs.storage import census as census_module
from dsfs.storage.censusscan import Scan
from dsfs.storage.turn import Turn
from tests.engine.engine import MIB, until
from tests.engine.evicting import (
    LARGE,
    Evicting,
    age,
    evicting,
    evictor_beside,
    hidden,
    present,
    read,
    rounds,
    ruled,
    supersede,
)
from tests.engine.faults import Faults
from tests.rig.aged import DAY_S


async def test_what_is_stale_is_hidden_then_deleted_and_comes_back_with_the_next_read(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=60) as (engine, found):
        age(engine, "v1", days=8)
        age(engine, "v2", days=6)
        before = set(present(engine))
        plan = await found.evictor.plan(0)
        assert ruled(plan.leaves) == [("v1", Rule.STALE)]
        assert ruled(plan.stays) == [("v2", Rule.ROOM)]
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


async def test_nothing_is_stale_because_the_clock_of_the_server_was_set(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=60) as (engine, found):
        age(engine, "v1", days=30)
        age(engine, "v2", days=40)
        now_ns = engine.nodes.now_ns()
        engine.nodes._server.steps = (ClockStep(29 * DAY_S * 10**9, now_ns),)  # a file system of this machine cannot
        plan = await found.evictor.evict(0)
        assert ruled(plan.leaves) == [("v2", Rule.STALE)]
        engine.nodes._server.steps = ()
        plan = await found.evictor.evict(0)
        assert ruled(plan.leaves) == [("v1", Rule.STALE)]


async def test_use_that_lies_ahead_of_the_clock_was_when_it_was_first_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1", days=-1000)
        plan = await found.evictor.plan(0)
        assert [verdict.rule for verdict in plan.stays] == [Rule.IN_USE]
        later_ns = engine.nodes.now_ns() + 8 * DAY_S * 10**9
        look = engine.nodes.look
        monkeypatch.setattr(engine.nodes, "look", lambda: replace(look(), now_ns=later_ns))
        plan = await found.evictor.plan(0)
        assert [verdict.rule for verdict in plan.leaves] == [Rule.STALE]


async def test_nothing_leaves_that_is_pinned_or_in_use_or_may_be(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", "v3") as (engine, found):
        age(engine, "v1", "v2", "v3")
        found.pins.place(Pin("photos", "v1", 0, 0, "ann", "a", ""))
        engine.uses.touch("photos", "v2")
        plan = await found.evictor.plan(1 << 40)
        assert dict(ruled(plan.leaves)) == {"v3": Rule.STALE}
        assert dict(ruled(plan.stays)) == {"v1": Rule.PINNED, "v2": Rule.IN_USE}
        assert plan.missing.size_bytes > 0

        (engine.backing.nodes / "other").mkdir()
        (engine.backing.nodes / "other" / "heartbeat").touch()
        (engine.backing.nodes / "other" / "usage").write_text("nonsense")
        plan = await found.evictor.evict(1 << 40)
        assert plan.leaves == ()
        assert {rule for _, rule in ruled(plan.stays)} == {Rule.PINNED, Rule.UNKNOWN_NODES}
        assert hidden(engine) == []


def have_done_behind_the_survey(monkeypatch: pytest.MonkeyPatch, found: Evicting, done: Callable[[], None]) -> None:
    """What others do after this node has looked, and before it judges."""
    judge = found.surveyor.judge

    def judged(*args: Any) -> Iterator[Verdict]:
        done()
        return judge(*args)

    monkeypatch.setattr(found.surveyor, "judge", judged)


async def test_version_that_comes_into_use_while_it_is_about_to_leave_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", days=30)
        age(engine, "v2", days=20)
        await found.evictor.plan(0)
        have_done_behind_the_survey(monkeypatch, found, lambda: engine.uses.touch("photos", "v2"))
        plan = await found.evictor.evict(0)
        assert [verdict.key[1] for verdict in plan.leaves] == ["v1"]
        assert ruled(plan.stays) == [("v2", Rule.OVERTAKEN)]
        assert plan.stays[0].amount.size_bytes > len(LARGE)
        assert len(hidden(engine)) == 2


async def test_version_that_is_pinned_while_it_is_about_to_leave_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", days=30)
        age(engine, "v2", days=20)
        pin = Pin("photos", "v2", 0, 0, "ann", "a", "")
        have_done_behind_the_survey(monkeypatch, found, lambda: found.pins.place(pin))
        plan = await found.evictor.evict(0)
        assert [verdict.key[1] for verdict in plan.leaves] == ["v1"]
        assert len(hidden(engine)) == 2


async def test_above_the_high_watermark_what_is_used_least_leaves_down_to_the_low_one(tmp_path: Path) -> None:
    versions = [f"v{number}" for number in range(5)]
    async with evicting(tmp_path, *versions, limit_bytes=33 * MIB) as (engine, found):
        for number, version in enumerate(versions):
            age(engine, version, days=5 - number)
        plan = await found.evictor.evict(0)
        assert ruled(plan.leaves) == [("v0", Rule.LEAST_USED)]
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
    async with (
        evicting(tmp_path, "v1", "v2") as (engine, found),
        evictor_beside(engine, tmp_path, name="other") as other,
    ):
        age(engine, "v1")
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
        assert engine.surplus_bytes() >= 0  # nothing was taken off twice
        await read(engine, "v2")


async def test_old_generation_leaves_with_its_segments_and_then_itself(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        current = await supersede(engine, "v1")
        assert await engine.read_path("v1/large") == LARGE[::-1]
        await engine.settle()
        folder = engine.backing.generations / "photos" / "v1"
        assert len(list(folder.iterdir())) == 2
        plan = await found.evictor.evict(0)
        assert [verdict.rule for verdict in plan.leaves] == [Rule.SUPERSEDED]
        for _ in range(4):
            found.round()
        assert [path.name for path in folder.iterdir()] == [current]
        assert await engine.read_path("v1/large") == LARGE[::-1]


async def test_segments_that_belong_to_no_version_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        of_both = set(present(engine))
        shutil.rmtree(engine.backing.generations / "photos" / "v1")
        found.round()
        assert set(present(engine)) == of_both  # another node may be about to place the catalog
        monkeypatch.setattr(census_module, "ABANDONED_S", 0.0)
        other = engine.backing.nodes / "other"
        other.mkdir()
        (other / "heartbeat").touch()
        for _ in range(4):
            found.round()
        assert set(present(engine)) == of_both  # of a catalog that only this node may have
        (other / "heartbeat").unlink()
        for _ in range(4):
            found.round()
        assert len(present(engine)) == len(of_both) // 2
        assert hidden(engine) == []
        await read(engine, "v2")
        await read(engine, "v1")


async def test_node_whose_turn_it_is_does_the_rounds_and_another_one_when_that_shows_no_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictor_module, "ROUND_S", 0.01)
    async with evicting(tmp_path, "v1") as (engine, found), evictor_beside(engine, tmp_path, name="other") as other:
        age(engine, "v1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.evictor.serve)
            await until(lambda: bool(hidden(engine)), "a round")
            assert found.evictor.is_ours
            nursery.start_soon(other.evictor.serve)
            await until(lambda: other.evictor._sign is not None, "a look at the turn")
            assert not other.evictor.is_ours
            await found.evictor.end()
            await until(lambda: bool(other.evictor.is_ours), "the turn")
            nursery.cancel_scope.cancel()


async def test_node_whose_rounds_fail_leaves_the_turn_to_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evictor_module, "ROUND_S", 0.01)
    caplog.set_level("INFO")

    def refuse(now_ns: int) -> Scan:
        raise BackingError("census: the local disk is full")

    async with evicting(tmp_path, "v1") as (engine, found), evictor_beside(engine, tmp_path, name="other") as other:
        age(engine, "v1")
        monkeypatch.setattr(found.census, "scan", refuse)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.evictor.serve)
            await until(lambda: "nothing can be evicted: census" in caplog.text, "a round that fails")
            nursery.start_soon(other.evictor.serve)
            await until(lambda: bool(hidden(engine)), "a round of the other one")
            nursery.cancel_scope.cancel()


async def test_round_for_which_another_node_does_not_leave_the_account_is_tried_again_without_ado(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(evictor_module, "ROUND_S", 0.01)
    monkeypatch.setattr(account_module, "PATIENCE_S", 0.0)
    caplog.set_level("INFO")
    async with evicting(tmp_path, "v1") as (engine, found):
        other = Turn(engine.backing.path / account_module.ACCOUNT)
        assert other.try_take()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.evictor.serve)
            await until(lambda: "nothing can be evicted: another node is at the account" in caplog.text, "a refusal")
            other.end()
            await until(lambda: found.sweeper._count is not None, "a count that has begun")
            nursery.cancel_scope.cancel()


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


async def test_folder_that_was_never_seen_and_cannot_be_is_an_error_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        scandir = os.scandir

        def refuse(path: Path) -> object:
            if path == engine.backing.generations / "photos":
                raise OSError(errno.EACCES, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with trio.fail_after(20), pytest.raises(BackingError, match="versions/photos: Permission denied"):
            await found.evictor.plan(0)
        monkeypatch.setattr(os, "scandir", scandir)
        assert (await found.evictor.evict(0)).leaves


async def test_use_that_stops_an_eviction_is_known_to_the_next_one(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", days=30)
        age(engine, "v2", days=20)
        await found.evictor.plan(0)
        engine.uses.touch("photos", "v1")
        assert (await found.evictor.evict(0)).leaves == ()
        assert [verdict.key[1] for verdict in (await found.evictor.evict(0)).leaves] == ["v2"]


async def test_one_node_takes_over_from_one_that_died_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found), evictor_beside(engine, tmp_path, name="other") as other:
        dead = Turn(engine.backing.turns / "evictor")
        assert dead.try_take()
        assert not found.evictor._has_turn()
        assert not other.evictor._has_turn()
        monkeypatch.setattr(evictor_module, "PATIENCE_S", 0.0)
        for _ in range(3):
            sign = dead.sign_of_life()
            while dead.sign_of_life() == sign:
                assert found.evictor._has_turn()
            assert not other.evictor._has_turn()
        dead.end()
        assert found.evictor._has_turn()


async def test_without_locks_there_are_rounds_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with evicting(tmp_path, "v1") as (_, found):
        faults = Faults(monkeypatch)
        faults.fail("rangelock.lock", errno.ENOLCK)
        assert found.evictor._has_turn()
        faults.fail("rangelock.lock", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            found.evictor._has_turn()
        assert found.evictor._has_turn()


async def test_status_says_what_keeps_everything_from_leaving(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        other = engine.backing.nodes / "other"
        other.mkdir()
        (other / "heartbeat").touch()
        await found.evictor.evict(0)
        assert found.standing().trouble == "nothing leaves: what other may use is not known"
        (other / "heartbeat").unlink()
        await found.evictor.evict(0)
        assert found.standing().trouble == ""
