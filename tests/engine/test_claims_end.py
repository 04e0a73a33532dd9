"""Claims that end, or cannot be had: then each node fetches for itself, and all is right."""

import errno
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dsfs.cache.claims import NO_LOCKS_S
from dsfs.cache.fetch import AHEAD_ATTEMPTS
from dsfs.cache.memory import Discarding
from dsfs.cache.pool import Pool
from dsfs.model.errors import OriginTemporaryError
from dsfs.storage.rangelock import LOCK_BASE
from dsfs.storage.segment import State
from tests.engine.claiming import CONTENT, LARGE, SMALL, Reading, asked, fetching, nodes, sample
from tests.engine.engine import PREFIX, Settings, until
from tests.engine.faults import Faults
from tests.rig.segmentdir import files_below


@pytest.mark.expects_log("fetch failed")
async def test_claim_on_what_could_not_be_fetched_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsfs.cache.fetch.retry_delay_s", lambda attempt, jitter: 0.001)
    origin = sample()
    origin.fail(LARGE, *[OriginTemporaryError("503")] * 3)
    async with nodes(tmp_path, origin, 2) as (a, b):
        file = await a.open("v1/large")
        assert file.segment is not None
        a.fetcher.ahead(file.segment, 0, 1, 1, Discarding.CONSUMED)
        await a.settle()
        a.opener.release(file)
        async with trio.open_nursery() as nursery:
            reading = Reading(b, nursery, 0)
        assert asked(b, "held") == 0
    assert reading.is_right


@pytest.mark.expects_log("fetch failed")
async def test_end_of_a_claim_does_not_end_the_next_one_of_the_same_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock belongs to the open file: whoever is late to give one up would give up the new one."""
    monkeypatch.setattr("dsfs.cache.fetch.retry_delay_s", lambda attempt, jitter: 0.001)
    origin = sample()
    origin.fail(LARGE, *[OriginTemporaryError("503")] * AHEAD_ATTEMPTS)
    gate = origin.hold(LARGE)
    async with nodes(tmp_path, origin, 2) as (a, b):
        a.opener.release(await a.open("v1/large"))  # the catalog is shared: that takes a lock, too
        # Of two threads one stands still while it gives up the first claim, and the other asks for one after the other.
        monkeypatch.setattr(a.claims, "pool", Pool("claims", 2, a.claims.bridge))
        unlock = Faults(monkeypatch).hold("rangelock.unlock")
        async with fetching(a, (0, 1)) as file:
            await until(unlock.reached.is_set)
            assert file.segment is not None
            a.fetcher.ahead(file.segment, 0, 1, 1, Discarding.CONSUMED)
            assert await a.read_path("v1/small/07") == SMALL["v1/small/07"]
            unlock.open()
            await until(gate.reached.is_set)
            await until(lambda: file.segment is not None and file.segment.users == 1, "the threads having left")
            async with fetching(b, (0, 1)):
                await b.fetcher.wait_idle()
            gate.open()
            await a.settle()
        a.claims.pool.close()
        assert asked(b, "held") == 1
    assert origin.count(LARGE) == AHEAD_ATTEMPTS + 1


async def test_node_without_room_claims_nothing(tmp_path: Path) -> None:
    origin = sample()
    async with nodes(tmp_path, origin, 2) as (a, b):
        a.room.limit_bytes = 0
        gate = origin.hold(LARGE)
        async with trio.open_nursery() as nursery:
            first = Reading(a, nursery, 0)
            await until(gate.reached.is_set)
            second = Reading(b, nursery, 0)
            await until(lambda: second.got is not None, "the read of the node that has room")
            gate.open()
        assert asked(b, "granted") >= 1
    assert first.is_right
    assert second.is_right


async def test_node_without_room_reads_what_others_have_filled(tmp_path: Path) -> None:
    origin = sample()
    async with nodes(tmp_path, origin, 2) as (a, b):
        assert await a.read_path("v1/small/07") == SMALL["v1/small/07"]
        await a.settle()
        b.room.limit_bytes = 0
        assert await b.read_path("v1/small/07") == SMALL["v1/small/07"]
    assert origin.count(PREFIX + "v1/small/07") == 1


@pytest.mark.expects_log("has no locks")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
async def test_where_there_are_no_locks_each_node_fetches_for_itself_and_all_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock, number: int
) -> None:
    origin = sample()
    faults = Faults(monkeypatch)
    faults.fail("rangelock.lock", number, times=1_000)
    async with nodes(tmp_path, origin, 2) as engines:
        for engine in engines:
            assert await engine.read_path("v1/large") == CONTENT
            await engine.settle()
        assert not engines[0].claims.can_lock
        assert origin.sent_bytes == len(CONTENT)  # one after the other: what is filled is seen without locks as well
        faults.fail("rangelock.lock", number, times=0)
        mock_clock.jump(NO_LOCKS_S)
        assert await engines[0].read_path("v1/small/00") == SMALL["v1/small/00"]
        assert engines[0].claims.can_lock


async def test_claims_that_were_lost_with_a_lease_are_asked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS client answers EIO to every use of a file whose locks it has lost, until that is opened anew."""
    origin = sample()
    faults = Faults(monkeypatch)
    async with nodes(tmp_path, origin, 1) as (engine,):
        file = await engine.open("v1/large")
        assert await engine.read(file, 0, 10) == CONTENT[:10]
        await engine.settle()
        faults.fail("rangelock.lock", errno.EIO)
        assert await engine.read(file) == CONTENT
        await engine.settle()
        assert file.segment is not None
        assert file.segment.file.state is State.SEALED
        engine.opener.release(file)
    assert origin.sent_bytes == len(CONTENT)


async def test_drop_removes_what_other_nodes_have_filled(tmp_path: Path) -> None:
    origin = sample()
    async with nodes(tmp_path, origin, 2) as (a, b):
        assert await a.read_path("v1/large") == CONTENT
        await a.settle()
        assert files_below(tmp_path / "backing" / "segments")
        await b.drop("v1")
        assert files_below(tmp_path / "backing" / "segments") == []


async def test_dropped_version_comes_back_to_all_nodes(tmp_path: Path) -> None:
    origin = sample()
    async with nodes(tmp_path, origin, 2, Settings(shared=True)) as (a, b):
        for engine in (a, b):
            assert await engine.read_path("v1/large") == CONTENT
            await engine.settle()
        await a.drop("v1")
        for engine in (b, a):
            assert await engine.read_path("v1/large") == CONTENT


def test_locks_lie_where_no_data_is() -> None:
    """A server whose locks stop reads and writes by others stops none of ours."""
    assert LOCK_BASE - 1 > 1 << 60
