"""The evictor in trouble: what cannot be seen or deleted, nodes that died, and what else must not stop it."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from dsfs.cache import evictor as evictor_module
from dsfs.cache import segments as segments_module
from dsfs.model.errors import BackingError
from dsfs.model.event import Kind
from dsfs.model.retention import Amount
from dsfs.storage.account import count
from dsfs.storage.turn import Turn
from tests.engine.engine import MIB, until
from tests.engine.evicting import LARGE, Evicting, age, evicting, hidden, read, rounds
from tests.engine.faults import Faults


async def test_what_cannot_be_deleted_is_in_the_way_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        await found.evictor.evict(0)
        delete = found.trash.delete
        bad: list[str] = []

        def refuse(name: str) -> Amount:
            bad[:] = bad or [name]
            if name == bad[0]:
                raise OSError(errno.EACCES, "Permission denied")
            return delete(name)

        monkeypatch.setattr(found.trash, "delete", refuse)
        for _ in range(5):
            found.beat()
            with suppress(BackingError):
                await found.evictor.evict(0)
            standing = found.evictor._standing.look()
            assert standing is not None
            assert standing.counted_ns == found.surveyor.nodes._beat_ns
        assert hidden(engine) == [Path(bad[0]).name]
        monkeypatch.setattr(found.trash, "delete", delete)
        await rounds(found, 2)
        assert hidden(engine) == []


async def test_what_is_deleted_after_a_count_is_taken_off(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        age(engine, "v2")
        await found.evictor.evict(0)
        await rounds(found)
        assert hidden(engine) == []
        engine.room.leave()
        there = count(engine.backing.path)
        assert there is not None
        assert there.size_bytes <= engine.room.used_bytes < there.size_bytes + MIB


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


async def test_use_that_stops_an_eviction_is_known_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", 30)
        age(engine, "v2", 20)
        await found.evictor.plan(0)
        engine.uses.touch("photos", "v1")
        assert (await found.evictor.evict(0)).leaves == ()
        assert [verdict.key[1] for verdict in (await found.evictor.evict(0)).leaves] == ["v2"]


async def test_one_node_takes_over_from_one_that_died_with_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        other = Evicting(engine, tmp_path, name="other")
        dead = Turn(engine.backing.turns / "evictor")
        assert dead.try_take()
        assert not found.evictor._has_turn()
        assert not other.evictor._has_turn()
        monkeypatch.setattr(evictor_module, "LEASE_S", 0.0)
        for _ in range(3):
            sign = dead.sign_of_life()
            while dead.sign_of_life() == sign:
                assert found.evictor._has_turn()
            assert not other.evictor._has_turn()
        dead.end()
        assert found.evictor._has_turn()
        await other.close()


async def test_without_locks_there_are_rounds_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with evicting(tmp_path, "v1") as (_, found):
        faults = Faults(monkeypatch)
        faults.fail("rangelock.lock", errno.ENOLCK)
        assert found.evictor._has_turn()
        faults.fail("rangelock.lock", errno.EIO)
        with pytest.raises(OSError, match="Input/output error"):
            found.evictor._has_turn()
        assert found.evictor._has_turn()


async def test_what_has_left_is_told_also_if_the_rest_cannot_be_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        hide = found.trash.hide
        left: list[str] = []

        def refuse(identity: str, stamp_ns: int) -> Amount:
            if left:
                raise OSError(errno.EACCES, "Permission denied")
            left.append(identity)
            return hide(identity, stamp_ns)

        for segment in list(engine.segments):
            engine.segments._active.pop(segment.identity)  # as if others had come into use since
            segment.file.close()
        monkeypatch.setattr(found.trash, "hide", refuse)
        with pytest.raises(BackingError, match="Permission denied"):
            await found.evictor.evict(0)
        await engine.filler.flush_index()
        assert engine.index.get(left[0]) is None
        told = [event for _, event in engine.events._waiting if event.kind == Kind.EVICTED.value]
        assert len(told) == 1


async def test_eviction_that_was_asked_for_hides_as_much_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictor_module, "HIDDEN_AT_ONCE", 1)
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        age(engine, "v2")
        plan = await found.evictor.plan(0)
        left = await found.evictor.evict(0)
        assert [verdict.segments for verdict in left.leaves] == [verdict.segments for verdict in plan.leaves]
        assert len(hidden(engine)) == 4


async def test_what_nobody_has_opened_for_long_is_closed_so_that_its_room_comes_back_when_it_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, _):
        file = await engine.open("v1/large")
        assert file.segment is not None
        engine.segments.close_unused()
        assert len(list(engine.segments)) == 2
        monkeypatch.setattr(segments_module, "UNUSED_S", -1.0)

        def is_closed() -> bool:
            for run in {run for segment in engine.segments for run in segment.runs.values()}:
                if engine.memory.is_settled(run):
                    engine.memory.discard(run)
            engine.segments.close_unused()
            return list(engine.segments) == [file.segment]

        await until(is_closed, "nobody is at the other segment")
        assert await engine.read(file) == LARGE + b"v1"
        engine.opener.release(file)
        await engine.settle()
        await read(engine, "v1")


async def test_status_says_what_keeps_everything_from_leaving(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        other = engine.backing.nodes / "other"
        other.mkdir()
        (other / "heartbeat").touch()
        await found.evictor.evict(0)
        standing = found.evictor._standing.look()
        assert standing is not None
        assert standing.trouble == "nothing leaves: what other may use is not known"
        (other / "heartbeat").unlink()
        await found.evictor.evict(0)
        standing = found.evictor._standing.look()
        assert standing is not None
        assert standing.trouble == ""
