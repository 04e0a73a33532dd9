"""Shares: what a version may not hold goes to its reader and is not kept, on one node and on several at once."""

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from dsfs.cache.shares import LOOK_S
from dsfs.cache.warm import Phase
from dsfs.cache.warmfill import SHARE_IS_FULL
from dsfs.model.blocks import RUN
from dsfs.model.share import BELIEVED_S, Share, Shares
from dsfs.storage.bulletin import shares_at
from dsfs.storage.filesystem import file_system_of
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.engine.test_queries import queries_of
from tests.engine.warming import begin, ended

LARGE = bytes(32 * MIB)


def origin_of(*versions: str, small: int = 0) -> FakeOrigin:
    origin = FakeOrigin()
    for version in versions:
        origin.put(f"{PREFIX}{version}/large", LARGE)
        for number in range(small):
            origin.put(f"{PREFIX}{version}/small/{number:03}", bytes([number % 256]) * 100_000)
    return origin


async def share_of(engine: Engine, version_name: str, allotted: int, held: int = 0, nodes: int = 1) -> Share:
    version = await engine.library.version(await engine.library.dataset("photos"), version_name)
    return Share(*(await engine.library.generation(version)).key, allotted, held, nodes)


async def allot(engine: Engine, *shares: Share) -> None:
    """What whoever evicts has counted just now tells all nodes, and this one sees it; it had looked before."""

    def place() -> None:
        engine.shares.look()
        engine.shares_file.place(Shares(engine.nodes.now_ns(), shares))
        engine.shares.look()

    await trio.to_thread.run_sync(place)


async def filled_bytes(engine: Engine) -> int:
    await engine.settle()
    await engine.filler.flush_index()
    records = engine.index.get_many(engine.index.identities())
    return sum(record.resident_bytes for record in records if record is not None)


def skipped_bytes(engine: Engine) -> int:
    return int(engine.metrics.fill_skipped_bytes.value("share"))


async def test_reader_has_all_bytes_and_the_version_its_share(tmp_path: Path) -> None:
    settings = Settings(memory_bytes=4 * RUN)  # nothing stays there for long
    async with running(tmp_path, origin_of("v1", "v2"), settings) as engine:
        await allot(engine, await share_of(engine, "v1", 14 * MIB, held=2 * MIB))
        for _ in range(2):
            assert await engine.read_path("v1/large") == LARGE
            assert 12 * MIB - RUN < await filled_bytes(engine) <= 12 * MIB
        assert skipped_bytes(engine) >= len(LARGE) - 12 * MIB
        assert await engine.read_path("v2/large") == LARGE  # it has no share, and no limit
        assert await filled_bytes(engine) > len(LARGE)
        await allot(engine, await share_of(engine, "v1", 2 * len(LARGE), held=12 * MIB))
        assert await engine.read_path("v1/large") == LARGE
        assert await filled_bytes(engine) == 2 * len(LARGE)


async def test_packs_that_are_read_ahead_take_of_the_share_of_their_version(tmp_path: Path) -> None:
    async with running(tmp_path, origin_of("v1", small=900)) as engine:  # three packs
        await allot(engine, await share_of(engine, "v1", 40 * MIB))
        for number in range(900):
            assert await engine.read_path(f"v1/small/{number:03}") == bytes([number % 256]) * 100_000
        assert 40 * MIB - RUN < await filled_bytes(engine) <= 40 * MIB


async def test_segment_that_versions_have_in_common_takes_of_the_share_of_who_reads_it(tmp_path: Path) -> None:
    origin = FakeOrigin()
    for version in ("v1", "v2"):
        origin.put(f"{PREFIX}{version}/large", LARGE)
    async with running(tmp_path, origin) as engine:
        await allot(engine, await share_of(engine, "v1", 4 * MIB))
        assert await engine.read_path("v1/large") == LARGE
        before = await filled_bytes(engine)
        assert await engine.read_path("v2/large") == LARGE
        assert await filled_bytes(engine) > before


async def test_nodes_that_fill_at_once_together_hold_no_more_than_the_share(tmp_path: Path) -> None:
    nodes = 3
    origin = FakeOrigin()
    for number in range(nodes):
        origin.put(f"{PREFIX}v1/large-{number}", bytes([number]) * len(LARGE))
    backing = tmp_path / "backing"
    async with trio.open_nursery() as nursery:
        engines: list[Engine] = []
        end = trio.Event()

        async def live(number: int, *, task_status: trio.TaskStatus[None]) -> None:
            settings = Settings(backing=backing, shared=True, node=f"n{number}", memory_bytes=128 * MIB)
            async with running(tmp_path / f"node-{number}", origin, settings) as engine:
                engines.append(engine)
                task_status.started()
                await end.wait()

        for number in range(nodes):
            await nursery.start(live, number)
        share = await share_of(engines[0], "v1", 50 * MIB, held=2 * MIB, nodes=nodes)
        await allot(engines[0], share)
        for engine in engines[1:]:
            await share_of(engine, "v1", 0)  # it knows the version
            await trio.to_thread.run_sync(engine.shares.look)
        async with trio.open_nursery() as readers:
            for number, engine in enumerate(engines):
                readers.start_soon(engine.read_path, f"v1/large-{number}")
        taken = [await filled_bytes(engine) for engine in engines]
        assert all(16 * MIB - RUN < each <= 16 * MIB for each in taken)
        end.set()


async def test_warm_pauses_when_its_version_holds_its_share_and_goes_on_when_it_may(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    origin = origin_of("v1")
    async with running(tmp_path, origin) as engine:
        await allot(engine, await share_of(engine, "v1", 9 * MIB))
        warm = await begin(engine)
        await until(lambda: warm.course.trouble == SHARE_IS_FULL, "the warm pausing")
        assert warm.phase is Phase.PAUSED
        await engine.settle()
        assert origin.sent_bytes == 8 * MIB  # nothing is fetched in vain
        await allot(engine, await share_of(engine, "v1", len(LARGE)))
        mock_clock.rate = 100
        assert await ended(warm) is Phase.COMPLETE


async def test_shares_are_seen_soon_and_believed_while_somebody_counts(
    tmp_path: Path, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, origin_of("v1")) as engine, trio.open_nursery() as nursery:
        share = await share_of(engine, "v1", 0)
        key = share.key

        async def wait_seen(condition: Callable[[], bool]) -> None:
            """The next looks bring it; a jump that comes while one is under way is for nothing."""
            with trio.fail_after(1_000_000 * LOOK_S):
                while not condition():
                    mock_clock.jump(LOOK_S)
                    await trio.to_thread.run_sync(time.sleep, 0.001)

        nursery.start_soon(engine.shares.serve)
        now_ns = await trio.to_thread.run_sync(engine.nodes.now_ns)
        engine.shares_file.place(Shares(now_ns, (share,)))
        await wait_seen(lambda: not engine.shares.has_room(key, 1))
        assert engine.shares.has_room(None, 1)

        faults = Faults(monkeypatch)
        gate = faults.hold("bulletin.look")
        await wait_seen(gate.reached.is_set)
        assert await engine.read_path("v1/large") == LARGE
        assert not engine.shares.has_room(key, 1)  # what was known last holds
        gate.open()
        faults.fail("bulletin.look", errno.EIO, times=3)
        looks = len(faults.reached)
        await wait_seen(lambda: faults.reached[looks:].count("bulletin.look") > 3)
        assert not engine.shares.has_room(key, 1)

        engine.shares_file.place(Shares(now_ns - round((BELIEVED_S + 1) * 1e9), (share,)))
        await wait_seen(lambda: engine.shares.has_room(key, 1))
        engine.shares_file.place(Shares(now_ns, (share,)))
        await wait_seen(lambda: not engine.shares.has_room(key, 1))
        engine.backing.shares.unlink()
        await wait_seen(lambda: engine.shares.has_room(key, 1))
        nursery.cancel_scope.cancel()


def test_file_is_read_when_it_was_replaced_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fs = tmp_path / "shares", file_system_of(tmp_path)
    evictor, node = shares_at(path, fs), shares_at(path, fs)
    assert node.look() is None
    first = Shares(1, (Share("photos", "v1", "g", 5, 0, 1),))
    evictor.place(first)
    os.utime(path, ns=(0, 10**18))
    assert node.look() == first
    monkeypatch.setattr(Path, "open", None)
    assert node.look() == first
    monkeypatch.undo()
    second = Shares(2, ())
    evictor.place(second)
    assert node.look() == second
    path.write_bytes(b"torn")
    os.utime(path, ns=(0, 2 * 10**18))
    assert node.look() is None
    path.unlink()
    assert node.look() is None


async def test_status_and_why_tell_of_the_share(tmp_path: Path) -> None:
    async with running(tmp_path, origin_of("v1")) as engine:
        queries = queries_of(engine)

        async def shares() -> list[Any]:
            (version,) = cast(list[dict[str, Any]], (await queries.status("photos/v1"))["versions"])
            return [version["share"], (await queries.why("photos/v1/large"))["share"]]

        assert await engine.read_path("v1/large") == LARGE
        assert await shares() == [None, None]
        await engine.settle()
        await engine.drop("v1")
        await allot(engine, await share_of(engine, "v1", 16 * MIB, held=4 * MIB))
        expected: dict[str, Any] = {"allotted_bytes": 16 * MIB, "held_bytes": 4 * MIB, "is_full": False}
        assert await shares() == [expected] * 2
        assert await engine.read_path("v1/large") == LARGE
        held = 4 * MIB + await filled_bytes(engine)
        expected = {"allotted_bytes": 16 * MIB, "held_bytes": held, "is_full": True}
        assert await shares() == [expected] * 2


@pytest.mark.parametrize("place_instead", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_lies_in_place_of_the_file_holds_nobody_up(
    tmp_path: Path, place_instead: Callable[[Path], object]
) -> None:
    path = tmp_path / "shares"
    place_instead(path)
    shares = shares_at(path, file_system_of(tmp_path))
    with suppress(OSError):  # of one of them
        assert shares.look() is None
    with suppress(OSError):
        shares.place(Shares(1, ()))
