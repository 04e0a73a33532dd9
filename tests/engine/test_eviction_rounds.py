"""Rounds of eviction one after the other, and what stands in their way: a full medium, what cannot be hidden."""

import errno
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from dsfs.cache import evictor as evictor_module
from dsfs.cache.evictor import TOLD_AT_ONCE
from dsfs.cache.sweep import COUNT_EVERY_S
from dsfs.model.errors import BackingError
from dsfs.model.event import Kind
from dsfs.model.pin import Pin
from dsfs.model.trashname import TrashedFile
from dsfs.storage.turn import Turn
from tests.engine.engine import MIB, PREFIX, Settings, running, until
from tests.engine.evicting import (
    DAY_S,
    LARGE,
    Evicting,
    age,
    evicting,
    hidden,
    present,
    read,
    sample,
    short_beats,
)
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.test_sweep import open_segments
from tests.rig.smallfs import SmallFilesystem

__all__ = ["short_beats"]


async def test_as_long_as_not_everything_was_seen_rounds_follow_each_other_sooner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictor_module, "LEARN_S", 0.01)
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        scan = found.census.scan
        monkeypatch.setattr(found.census, "scan", lambda now_ns: scan(now_ns, 1))
        monkeypatch.setattr(evictor_module, "ROUND_S", 0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.evictor.serve)
            await until(lambda: found.evictor.is_ours, "the first round")
            monkeypatch.setattr(evictor_module, "ROUND_S", 3600.0)
            await until(lambda: bool(hidden(engine)), "a round that has seen everything")
            nursery.cancel_scope.cancel()


async def test_version_that_becomes_whole_is_told_of_by_the_one_whose_turn_it_is(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", "v3") as (engine, found):
        for version in ("v2", "v3"):
            await engine.drop(version)
        found.evictor._round()
        await read(engine, "v2")
        found.evictor._round()
        await found.evictor._tell()
        told = [event.version for _, event in engine.events._waiting if event.kind == Kind.CACHED.value]
        assert told == ["v2"]
        found.evictor._give_up_turn()
        other = Turn(engine.backing.turns / "evictor")
        assert other.try_take()
        found.evictor._round()
        await read(engine, "v3")
        other.end()
        found.evictor._round()
        assert found.evictor.is_ours
        assert not found.evictor._become_whole


async def test_telling_what_has_left_holds_nobody_up_and_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        (verdict,) = (await found.evictor.plan(0)).stays
        segments = tuple(f"{number:040x}" for number in range(10 * TOLD_AT_ONCE))
        found.evictor._left.append(replace(verdict, segments=segments))
        told = list[str]()
        monkeypatch.setattr(engine.filler, "removed", told.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(found.evictor.plan, 0)
            while not told:
                await trio.lowlevel.checkpoint()
            assert len(told) < len(segments)
            nursery.cancel_scope.cancel()
        assert tuple(told) == segments


@pytest.mark.parametrize("point", ["bulletin.place", "account.write"])
async def test_medium_that_takes_nothing_gets_rid_of_what_was_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        await found.evictor.evict(0)
        assert len(hidden(engine)) == 2
        found.sweeper._count = None  # one is to begin
        found.clock_s += COUNT_EVERY_S
        Faults(monkeypatch).fail(point, errno.ENOSPC, times=1000)
        for _ in range(3):
            found.beat()
            with suppress(BackingError):
                await found.evictor.evict(0)
        assert hidden(engine) == []


@pytest.mark.needs("mkfs.ext4")
async def test_file_system_that_others_have_filled_to_the_last_byte_gets_room_again(tmp_path: Path) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", 40 * MIB) as small:
        settings = Settings(backing=small.path / "backing")
        async with running(tmp_path, sample("v1", "v2"), settings) as engine:
            for version in ("v1", "v2"):
                await read(engine, version)
            found = Evicting(engine, tmp_path)
            found.beat()
            age(engine, "v1")
            for _ in range(2):
                engine.segments.close_unused()
            await until(lambda: not open_segments(engine), "what is not used being closed")
            small.fill_to_the_last_block()
            for _ in range(5):
                found.beat()
                with suppress(BackingError):
                    await found.evictor.evict(0)
            assert hidden(engine) == []
            assert small.free_bytes >= len(LARGE)
            assert len(present(engine)) == 4  # v2, with its checksums
            await found.close()


async def test_what_cannot_be_hidden_keeps_nothing_from_being_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        age(engine, "v2")
        found.pins.place(Pin("photos", "v2", 0, 0, "ann", "a", ""))
        await found.evictor.evict(0)
        assert len(hidden(engine)) == 2
        found.pins.remove("photos", "v2")
        Faults(monkeypatch).fail("trash.rename", errno.EACCES, times=1000)
        for _ in range(4):
            found.beat()
            with suppress(PermissionError):
                found.evictor._round()
        assert hidden(engine) == []
        standing = found.evictor._standing.look()
        assert standing is not None
        assert standing.trouble.endswith("can be taken away: [Errno 13] Permission denied")


async def test_what_cannot_be_hidden_keeps_nothing_else_from_leaving_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=3600) as (engine, found):
        age(engine, "v1", 30)
        age(engine, "v2", 20)
        hide, ill = found.trash.hide, set[str]()

        def refuse(identity: str, stamp_ns: int) -> TrashedFile | None:
            if not ill:
                ill.add(identity)
            if identity in ill:
                raise OSError(errno.EACCES, "Permission denied")
            return hide(identity, stamp_ns)

        monkeypatch.setattr(found.trash, "hide", refuse)
        with pytest.raises(PermissionError):
            found.evictor._round()
        assert len(hidden(engine)) == 1  # of v1
        found.evictor._round()
        assert len(hidden(engine)) == 3
        found.evictor._round()
        assert len(hidden(engine)) == 3  # nothing else leaves any more
        standing = found.evictor._standing.look()
        assert standing is not None
        assert standing.trouble.endswith("can be taken away: [Errno 13] Permission denied")
        ill = {"nobody"}
        found.evictor._round()
        assert len(hidden(engine)) == 4
        standing = found.evictor._standing.look()
        assert standing is not None
        assert standing.trouble == ""
        told = sum(verdict.amount.size_bytes for verdict in found.evictor._left)
        assert told == pytest.approx(2 * len(LARGE), rel=0.02)


async def test_what_is_owed_is_known_also_where_it_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [f"v{number}" for number in range(4)]
    async with evicting(tmp_path, *versions, limit_bytes=100 * MIB) as (engine, found):
        there = engine.room.there()  # as a full file system with a snapshot says it
        monkeypatch.setattr(engine.room, "there", lambda: replace(there, floor=there.free))
        for version in versions:
            age(engine, version)
        await found.evictor.evict(0)
        Faults(monkeypatch).fail("bulletin.place", errno.ENOSPC, times=1000)
        for _ in range(8):
            found.clock_s += 60
            found.beat()
            with suppress(BackingError):
                await found.evictor.evict(0)
        assert len(hidden(engine, at_least=MIB)) == 3  # one of them is larger than what may be owed


async def test_old_generation_that_cannot_be_taken_away_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        assert isinstance(engine.origin, FakeOrigin)
        dataset = await engine.library.dataset("photos")
        for name in ("v1", "v2"):
            engine.origin.put(f"{PREFIX}{name}/large", LARGE[::-1])
            await engine.library.refresh(await engine.library.version(dataset, name))
        folder = engine.backing.generations / "photos"
        for catalog in folder.glob("*/*/catalog.mdb"):
            stamp = catalog.stat().st_mtime_ns - DAY_S * 10**9
            os.utime(catalog, ns=(stamp, stamp))
        await found.evictor.evict(0)

        def names() -> list[int]:
            return [sum(".trash-" not in path.name for path in (folder / name).iterdir()) for name in ("v1", "v2")]

        assert names() == [2, 2]
        Faults(monkeypatch).fail("trash.rename", errno.EACCES)
        found.beat()
        with pytest.raises(OSError, match="Permission denied"):
            found.evictor._round()
        assert names() == [2, 1]
        found.beat()
        found.evictor._round()
        assert names() == [1, 1]
