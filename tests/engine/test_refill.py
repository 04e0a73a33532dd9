"""What is in memory and found no room to be filled is filled when there is some, and fetched no more."""

from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from dsfs.cache.refill import Refiller
from dsfs.model.allotment import Refusal
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import Amount
from dsfs.storage.claim import Answer, claim, release
from dsfs.storage.segment import SegmentFile
from tests.engine.claiming import nodes
from tests.engine.engine import MIB, PREFIX, Engine, running, until
from tests.engine.fake_origin import GATE_TIMEOUT_S, FakeOrigin, Gate
from tests.engine.faults import Faults

CONTENTS = {f"v1/file-{number}": Random(number).randbytes(5 * MIB + 1_000) for number in range(2)}
TOTAL_BYTES = sum(map(len, CONTENTS.values()))


def refiller(engine: Engine) -> Refiller:
    return Refiller(engine.segments, engine.memory, engine.filler, engine.room, engine.health, engine.filling_pool)


@pytest.fixture
def origin() -> FakeOrigin:
    made = FakeOrigin()
    for path, content in CONTENTS.items():
        made.put(PREFIX + path, content)
    return made


def has_room_for(engine: Engine, size_bytes: int) -> bool:
    try:
        engine.room.check(Amount(size_bytes))
    except NoRoomError:
        return False
    return True


async def read_all(engine: Engine) -> None:
    for path, content in CONTENTS.items():
        assert await engine.read_path(path) == content
    await engine.settle()


async def test_what_found_no_room_is_filled_when_there_is_some(tmp_path: Path, origin: FakeOrigin) -> None:
    async with running(tmp_path, origin) as engine:
        room_bytes = engine.room.limit_bytes
        engine.leave_room(0)
        await read_all(engine)
        assert engine.metrics.fill_bytes.value() == 0
        skipped = engine.metrics.fill_skipped_bytes
        refilling = refiller(engine)
        await refilling.look()
        await engine.settle()
        assert (engine.metrics.fill_bytes.value(), skipped.value("limit")) == (0, TOTAL_BYTES)  # told once

        engine.leave_room(room_bytes)
        with trio.fail_after(20):
            while engine.metrics.fill_bytes.value() < TOTAL_BYTES:  # that there is none is believed for some seconds
                await refilling.look()
                await engine.settle()
        assert engine.metrics.fill_bytes.value() == TOTAL_BYTES
        assert engine.metrics.seal_segments.value() == len(CONTENTS)
        await read_all(engine)
        assert origin.sent_bytes == TOTAL_BYTES


async def test_what_is_beyond_its_share_is_not_asked_for(
    tmp_path: Path, origin: FakeOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, origin) as engine:
        engine.leave_room(0)
        await read_all(engine)
        engine.leave_room(engine.room.limit_bytes)
        monkeypatch.setattr(engine.shares, "has_room", lambda owner, size_bytes: False)
        faults = Faults(monkeypatch)
        await refiller(engine).look()
        await engine.settle()
        assert engine.metrics.fill_bytes.value() == engine.metrics.fill_skipped_bytes.value(Refusal.SHARE.value) == 0
        assert "backing.statvfs" not in faults.reached


async def test_what_two_nodes_have_in_memory_is_filled_by_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one could write to what the other has just sealed, all of which would be checked again."""
    origin, content = FakeOrigin(), Random(2).randbytes(3 * MIB + 1_000)  # of one run
    origin.put(PREFIX + "v1/file", content)
    async with nodes(tmp_path, origin, 2) as (a, b):
        for engine in (a, b):
            engine.leave_room(0)
            assert await engine.read_path("v1/file") == content
            await engine.settle()
        for engine in (a, b):
            engine.leave_room(100 * MIB)
            # That there is none is believed for some seconds.
            await until(partial(has_room_for, engine, 2 * len(content)), "room")
        gate = Faults(monkeypatch).hold("segment.data")
        await refiller(a).look()
        await until(gate.reached.is_set, "a fill")
        await refiller(b).look()
        with trio.fail_after(20):
            await b.filler.wait_idle()
        gate.open()
        for engine in (a, b):
            await engine.settle()
            await refiller(engine).look()
            await engine.settle()
        assert (a.metrics.fill_bytes.value(), b.metrics.fill_bytes.value()) == (len(content), 0)
        assert a.metrics.seal_segments.value() == 1
        assert await b.read_path("v1/file") == content
    assert origin.sent_bytes == 2 * len(content)


async def test_late_end_of_a_claim_does_not_end_that_of_the_fill_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, content = FakeOrigin(), Random(2).randbytes(3 * MIB + 1_000)
    origin.put(PREFIX + "v1/file", content)
    fetch = origin.hold(PREFIX + "v1/file")
    async with nodes(tmp_path, origin, 2) as (a, b):
        file, theirs = await a.open("v1/file"), await b.open("v1/file")
        assert file.segment is not None
        assert theirs.segment is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.read, file, 0, 4096)
            await until(fetch.reached.is_set, "a fetch, with a claim")
            a.leave_room(0)
            end = Gate()

            def end_late(segment: SegmentFile, first: int, until_block: int) -> None:
                end.reached.set()
                end.opened.wait(GATE_TIMEOUT_S)
                release(segment, first, until_block)

            monkeypatch.setattr("dsfs.cache.claims.release", end_late)
            fetch.open()
        await a.filler.wait_idle()
        await until(end.reached.is_set, "the end of the claim")
        a.leave_room(100 * MIB)
        await until(partial(has_room_for, a, 2 * len(content)), "room")
        write = Faults(monkeypatch).hold("segment.data")
        await refiller(a).look()
        with trio.move_on_after(0.5):  # it is to wait for that end
            await until(write.reached.is_set)
        end.open()
        await until(write.reached.is_set, "a fill")
        await until(lambda: file.segment is not None and file.segment.others.ticket is None, "no claim to be ended")
        theirs.segment.file.open()
        answer = await trio.to_thread.run_sync(claim, theirs.segment.file, 0, len(theirs.segment.file.blocks))
        write.open()
        await a.settle()
        assert answer.answer is Answer.HELD
        a.opener.release(file)
        b.opener.release(theirs)
