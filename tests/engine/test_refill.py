"""What is in memory and found no room to be filled is filled when there is some, and fetched no more."""

from pathlib import Path
from random import Random

import pytest
import trio

from dsfs.cache.refill import Refiller
from dsfs.model.allotment import Refusal
from tests.engine.engine import MIB, PREFIX, Engine, running
from tests.engine.fake_origin import FakeOrigin
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
