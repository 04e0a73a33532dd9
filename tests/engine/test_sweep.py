"""What was hidden is deleted when nobody has it open, and counted; on engines."""

import errno
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dsfs.cache import evictor as evictor_module
from dsfs.cache import sweep as sweep_module
from dsfs.cache.survey import Survey
from dsfs.cache.sweep import COUNT_EVERY_S
from dsfs.model.errors import BackingError
from dsfs.model.event import Kind
from dsfs.model.ledger import FIRST_WAIT_S
from dsfs.model.retention import Amount
from dsfs.model.trashname import TrashedFile
from dsfs.storage.nodes import NodesDirectory
from tests.engine.backing_sample import account_of
from tests.engine.engine import MIB, Settings, running, until
from tests.engine.evicting import (
    LARGE,
    age,
    close_unused,
    evicting,
    evictor_beside,
    excess_bytes,
    hidden,
    hidden_large,
    open_segments,
    present,
    read,
    rounds,
    rounds_in_trouble,
    sample,
    waiting_events,
)
from tests.rig.filler import SEGMENT, FillingNode
from tests.rig.usages import usage_of


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
        await rounds(found, segments=(identity,))
        assert [name.partition(".")[0] for name in hidden(engine)] == [identity]
        assert await engine.read(file) == LARGE + b"v1"
        await rounds(found)
        assert hidden(engine) == []
        assert await engine.read(file) == LARGE + b"v1"  # a miss, at worst
        engine.opener.release(file)
        await engine.settle()


@pytest.mark.parametrize("ends", ["it stops", "there is no room for what it tells"])
async def test_what_is_hidden_stays_while_a_node_may_have_it_open_that_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        await found.evictor.evict(0)
        before = hidden(engine)
        assert len(before) == 2
        other = NodesDirectory(engine.backing.nodes, "other", engine.backing.file_system)
        other.beat(usage_of("other", files=0))
        (engine.backing.nodes / "other" / "usage").write_text("of a format that nobody knows here")
        for _ in range(4):
            other.now_ns()  # it beats on
            await rounds(found, 1)
        assert hidden(engine) == before
        if ends == "it stops":
            other.leave(usage_of("other", is_stopped=True))
        else:
            there = engine.room.there()
            monkeypatch.setattr(engine.room, "there", lambda: replace(there, floor=there.free))
        await rounds(found)
        assert hidden(engine) == []
        other.leave(usage_of("other", is_stopped=True))


async def test_room_that_does_not_come_back_stops_deleting_after_a_part_of_the_limit_and_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [f"v{number}" for number in range(4)]
    async with evicting(tmp_path, *versions, limit_bytes=100 * MIB) as (engine, found):
        there = engine.room.there()  # as a file system with a snapshot says it, which this one has not
        there = replace(there, floor=there.free)  # and no room to spare
        monkeypatch.setattr(engine.room, "there", lambda: there)
        age(engine, *versions)
        await found.evictor.evict(0)
        for path in engine.backing.path.glob("segments/*/*.trash-*"):
            if path.stat().st_size < MIB:
                path.unlink()
        for _ in range(10):
            found.clock_s += 60
            await rounds(found, 1)
        assert len(hidden_large(engine)) == 3  # one of them is larger than what may be owed
        assert "does a snapshot hold them?" in found.sweeper.trouble
        assert found.standing().trouble == found.sweeper.trouble
        async with evictor_beside(engine, tmp_path, name="other") as other:
            monkeypatch.setattr(engine.room, "there", lambda: there)
            await rounds(other)  # who takes over does not begin anew
            assert len(hidden_large(engine)) == 3
        found.clock_s += FIRST_WAIT_S
        for _ in range(3):
            await rounds(found, 1)
            assert len(hidden_large(engine)) == 2  # it was tried
            assert "does a snapshot hold them?" in found.sweeper.trouble
        for _ in range(2 * len(versions)):
            # The snapshots are gone, one after the other.
            there = replace(there, free=there.free + Amount(20 * MIB), floor=there.free)
            await rounds(found, 1)
        assert hidden(engine) == []
        assert found.sweeper.trouble == ""


async def test_what_is_deleted_when_a_count_has_just_ended_is_taken_off(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=COUNT_EVERY_S + 10) as (engine, found):
        age(engine, "v1")
        await rounds(found, 4)
        before = account_of(engine.room)
        found.clock_s += COUNT_EVERY_S + 1
        await rounds(found, 2)
        assert len(hidden(engine)) == 2
        found.clock_s += 10
        await rounds(found, 1)
        assert hidden(engine) == []
        assert account_of(engine.room).counted > before.counted
        assert 0 <= excess_bytes(engine) < len(LARGE) // 2


async def test_what_is_filled_while_a_count_is_under_way_counts_once_and_nothing_leaves_for_it(tmp_path: Path) -> None:
    async with running(tmp_path, sample("v1", "v2"), Settings(limit_bytes=16 * MIB)) as engine:
        await read(engine, "v1")
        async with evictor_beside(engine, tmp_path, keep_newest=2) as found:
            age(engine, "v1")
            await rounds(found, 1)
            await read(engine, "v2")
            await rounds(found)
            account = account_of(engine.room)
            assert account.counted == account.epoch > 1
            assert 0 <= excess_bytes(engine) < len(LARGE) // 2
            assert hidden(engine) == []


async def test_node_that_joins_in_the_middle_of_a_round_keeps_its_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_bytes = 64 * MIB
    async with evicting(tmp_path, "v1", limit_bytes=limit_bytes) as (engine, found):
        await rounds(found)
        found.clock_s += COUNT_EVERY_S + 1
        await rounds(found, 1)
        begun = account_of(engine.room)
        assert begun.counted < begun.epoch
        other = NodesDirectory(engine.backing.nodes, "other", engine.backing.file_system)
        filling: list[FillingNode] = []
        take = found.surveyor.take

        def join_behind_it(*, is_whole: bool) -> Survey:
            survey = take(is_whole=is_whole)
            other.beat(usage_of("other", files=0))
            filling.append(FillingNode(engine.backing.path, "other", limit_bytes))
            filling[0].fill_segment()
            return survey

        monkeypatch.setattr(found.surveyor, "take", join_behind_it)
        await rounds(found, 1)
        ended = account_of(engine.room)
        assert ended.counted == begun.epoch
        assert ended.left_to(filling[0].account.holder).size_bytes > 0
        filling[0].account.close()
        other.leave(usage_of("other", is_stopped=True))


async def test_what_was_counted_twice_is_counted_again_at_once(tmp_path: Path) -> None:
    limit_bytes = 64 * MIB
    async with evicting(tmp_path, "v1", limit_bytes=limit_bytes) as (engine, found):
        await rounds(found)
        found.clock_s += COUNT_EVERY_S + 1
        await rounds(found, 1)
        other = FillingNode(engine.backing.path, "other", limit_bytes)
        other.fill_segment()
        await rounds(found, 1)  # the scan meets what the other one has not told yet
        other.room.tell()
        account = account_of(engine.room)
        assert account.counted == account.epoch
        assert excess_bytes(engine) >= SEGMENT.size
        await rounds(found, 2)
        assert 0 <= excess_bytes(engine) < SEGMENT.size // 10
        other.account.close()


async def test_what_cannot_be_deleted_is_in_the_way_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        await found.evictor.evict(0)
        delete = found.trash.delete
        bad: list[str] = []  # for ever, and but once
        told_ns = 0

        def refuse(name: str) -> Amount:
            if len(bad) < 2 and name not in bad:
                bad.append(name)
                raise OSError(errno.EIO, "Input/output error")
            if name == bad[0]:
                raise OSError(errno.EACCES, "Permission denied")
            return delete(name)

        monkeypatch.setattr(found.trash, "delete", refuse)
        for _ in range(8):
            await rounds_in_trouble(found, 1, step_s=1)
            assert found.standing().counted_ns > told_ns
            told_ns = found.standing().counted_ns
        assert hidden(engine) == [Path(bad[0]).name]
        assert found.standing().trouble == "not all that was taken away can be deleted: [Errno 13] Permission denied"
        monkeypatch.setattr(found.trash, "delete", delete)
        await rounds(found, 2)
        assert hidden(engine) == []
        assert found.standing().trouble == ""


async def test_what_is_deleted_after_a_count_is_taken_off(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", "v2")
        await found.evictor.evict(0)
        await rounds(found)
        assert hidden(engine) == []
        engine.room.leave()
        assert 0 <= engine.surplus_bytes() < MIB


async def test_what_has_left_is_told_also_if_the_rest_cannot_be_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1")
        hide = found.trash.hide
        left: list[str] = []

        def refuse(identity: str, stamp_ns: int) -> TrashedFile | None:
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
        assert len(waiting_events(engine, Kind.EVICTED)) == 1


async def test_eviction_that_was_asked_for_hides_as_much_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictor_module, "HIDDEN_AT_ONCE", 1)
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", "v2")
        plan = await found.evictor.plan(0)
        left = await found.evictor.evict(0)
        assert [verdict.segments for verdict in left.leaves] == [verdict.segments for verdict in plan.leaves]
        assert len(hidden(engine)) == 4


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


async def test_what_is_due_is_deleted_no_faster_than_the_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "BURST", 1)
    monkeypatch.setattr(sweep_module, "DELETED_PER_S", 20.0)
    async with evicting(tmp_path, "v1", "v2") as (engine, found):
        age(engine, "v1", "v2")
        await found.evictor.evict(0)
        assert len(hidden(engine)) == 4
        began_s = time.monotonic()
        await rounds(found)
        assert hidden(engine) == []
        assert time.monotonic() - began_s >= 3 / 20


async def test_segment_is_closed_when_nobody_uses_it_also_if_there_was_no_room_for_all_of_it(tmp_path: Path) -> None:
    async with running(tmp_path, sample("v1"), Settings(limit_bytes=5 * MIB)) as engine:
        await read(engine, "v1")
        assert engine.room.unfilled_bytes > 0
        assert open_segments(engine)
        await close_unused(engine)
        await read(engine, "v1")


async def test_what_was_filled_anew_and_is_open_does_not_keep_what_was_taken_away(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1") as (engine, found):
        age(engine, "v1")
        await found.evictor.evict(0)
        assert len(hidden(engine)) == 2
        await engine.drop("v1")  # what of it is in memory
        await read(engine, "v1")
        identities = tuple({name.partition(".")[0] for name in present(engine)})
        await rounds(found, segments=identities)
        assert hidden(engine) == []
        await read(engine, "v1")
