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
from dsfs.model.event import Kind
from dsfs.model.pin import Pin
from dsfs.model.trashname import TrashedFile
from dsfs.storage.turn import Turn
from tests.engine.engine import MIB, Settings, running, until
from tests.engine.evicting import (
    LARGE,
    age,
    close_unused,
    evicting,
    evictor_beside,
    hidden,
    hidden_large,
    present,
    read,
    rounds_in_trouble,
    sample,
    supersede,
    waiting_events,
)
from tests.engine.faults import Faults
from tests.rig.smallfs import SmallFilesystem


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
        found.round()
        await read(engine, "v2")
        found.round()
        await found.evictor._tell()
        assert [event.version for event in waiting_events(engine, Kind.CACHED)] == ["v2"]
        found.evictor._give_up_turn()
        other = Turn(engine.backing.turns / "evictor")
        assert other.try_take()
        found.round()
        await read(engine, "v3")
        other.end()
        found.round()
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
            with trio.fail_after(20):
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
        await rounds_in_trouble(found, 3)
        assert hidden(engine) == []


@pytest.mark.needs("mkfs.ext4")
async def test_file_system_that_others_have_filled_to_the_last_byte_gets_room_again(tmp_path: Path) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", 40 * MIB) as small:
        settings = Settings(backing=small.path / "backing")
        async with running(tmp_path, sample("v1", "v2"), settings) as engine:
            for version in ("v1", "v2"):
                await read(engine, version)
            async with evictor_beside(engine, tmp_path) as found:
                age(engine, "v1")
                await close_unused(engine)
                small.fill_to_the_last_block()
                await rounds_in_trouble(found, 5)
                assert hidden(engine) == []
                assert small.free_bytes >= len(LARGE)
                assert len(present(engine)) == 4  # v2, with its checksums


async def test_what_cannot_be_hidden_keeps_nothing_from_being_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", "v2")
        found.pins.place(Pin("photos", "v2", 0, 0, "ann", "a", ""))
        await found.evictor.evict(0)
        assert len(hidden(engine)) == 2
        found.pins.remove("photos", "v2")
        Faults(monkeypatch).fail("trash.rename", errno.EACCES, times=1000)
        for _ in range(4):
            with suppress(PermissionError):
                found.round()
        assert hidden(engine) == []
        assert found.standing().trouble.endswith("can be taken away: [Errno 13] Permission denied")


async def test_what_cannot_be_hidden_keeps_nothing_else_from_leaving_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=3600) as (engine, found):
        age(engine, "v1", days=30)
        age(engine, "v2", days=20)
        hide, ill = found.trash.hide, set[str]()

        def refuse(identity: str, stamp_ns: int) -> TrashedFile | None:
            if not ill:
                ill.add(identity)
            if identity in ill:
                raise OSError(errno.EACCES, "Permission denied")
            return hide(identity, stamp_ns)

        monkeypatch.setattr(found.trash, "hide", refuse)
        with pytest.raises(PermissionError):
            found.round()
        assert len(hidden(engine)) == 1  # of v1
        found.round()
        assert len(hidden(engine)) == 3
        found.round()
        assert len(hidden(engine)) == 3  # nothing else leaves any more
        assert found.standing().trouble.endswith("can be taken away: [Errno 13] Permission denied")
        ill = {"nobody"}
        found.round()
        assert len(hidden(engine)) == 4
        assert found.standing().trouble == ""
        told = sum(verdict.amount.size_bytes for verdict in found.evictor._left)
        assert told == pytest.approx(2 * len(LARGE), rel=0.02)


async def test_what_is_owed_is_known_also_where_it_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [f"v{number}" for number in range(4)]
    async with evicting(tmp_path, *versions, limit_bytes=100 * MIB) as (engine, found):
        there = engine.room.there()  # as a full file system with a snapshot says it
        monkeypatch.setattr(engine.room, "there", lambda: replace(there, floor=there.free))
        age(engine, *versions)
        await found.evictor.evict(0)
        Faults(monkeypatch).fail("bulletin.place", errno.ENOSPC, times=1000)
        await rounds_in_trouble(found, 8, step_s=60)
        assert len(hidden_large(engine)) == 3  # one of them is larger than what may be owed


async def test_old_generation_that_cannot_be_taken_away_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        for version in ("v1", "v2"):
            await supersede(engine, version)
        await found.evictor.evict(0)

        def generations() -> list[int]:
            folders = [engine.backing.generations / "photos" / version for version in ("v1", "v2")]
            return [sum(".trash-" not in path.name for path in folder.iterdir()) for folder in folders]

        assert generations() == [2, 2]
        Faults(monkeypatch).fail("trash.rename", errno.EACCES)
        with pytest.raises(OSError, match="Permission denied"):
            found.round()
        assert generations() == [2, 1]
        found.round()
        assert generations() == [1, 1]


async def test_status_says_what_cannot_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        folder, scandir = engine.backing.generations / "photos", os.scandir

        def refuse(path: Path) -> object:
            if path == folder:
                raise OSError(errno.EACCES, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        found.round()
        assert found.standing().trouble == "nothing leaves: versions/photos: Permission denied"
        monkeypatch.setattr(os, "scandir", scandir)
        found.round()
        assert found.standing().trouble == ""
        assert len(hidden(engine)) == 2
        monkeypatch.setattr(os, "scandir", refuse)
        os.utime(folder)
        found.round()
        assert found.standing().trouble == "not all leaves: versions/photos: Permission denied"


async def test_status_says_which_generation_cannot_be_understood(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        (summary,) = engine.backing.generations.glob("photos/v1/*/summary.json")
        content = summary.read_text()
        summary.write_text("nonsense")
        found.round()
        generation = summary.parent.relative_to(engine.backing.path)
        assert found.standing().trouble.startswith(f"what belongs to no version stays: {generation} cannot be")
        summary.write_text(content)
        os.utime(summary.parent.parent)
        found.round()
        assert found.standing().trouble == ""
