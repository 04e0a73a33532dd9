"""What a crash leaves half made is removed once it is old; what another node is about to complete is left alone."""

import errno
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from dsfs.storage.leftovers import ABANDONED_S, abandoned
from dsfs.storage.rebuild import recover
from dsfs.storage.segment import State
from dsfs.storage.tidy import tidy
from tests.engine.backing_sample import indexed_bytes
from tests.engine.engine import PREFIX, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults
from tests.rig.segmentdir import age, files_below

CONTENT = Random(11).randbytes(70_000)
LEFT = ("ab/" + "ab" * 20 + ".part", "ab/" + "ab" * 20 + ".map.0.new-0123456789ab")


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(PREFIX + "v1/small", CONTENT)
    return origin


def leave(backing: Path) -> None:
    """As a node that died a moment ago."""
    for name in LEFT:
        path = backing / "segments" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")


@pytest.mark.parametrize("point", ["file.create", "file.link", "segment.data", "segment.seal", "segment.sum_written"])
async def test_node_that_tidies_up_leaves_alone_what_another_is_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    settings = Settings(backing=tmp_path / "backing")
    async with running(tmp_path / "a", sample(), settings) as a, running(tmp_path / "b", sample(), settings) as b:
        file = await a.open("v1/small")
        assert file.segment is not None
        gate = Faults(monkeypatch).hold(point)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.read, file)
            await until(gate.reached.is_set)
            before = files_below(tmp_path / "backing")
            tidy(b.backing)
            after = files_below(tmp_path / "backing")
            gate.open()
        assert after == before
        await a.settle()
        assert file.segment.file.state is State.SEALED
        a.opener.release(file)


def test_age_is_told_by_the_clock_of_the_server(tmp_path: Path) -> None:
    for name in ("young", "left.part"):
        (tmp_path / name).write_text("")
    assert list(abandoned(tmp_path, ["young", "left.part", "gone"])) == []
    age(tmp_path)
    assert list(abandoned(tmp_path, ["young", "left.part", "gone"])) == ["left.part"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left.part", "young"]


async def test_what_was_too_young_at_the_start_is_removed_later(tmp_path: Path, mock_clock: MockClock) -> None:
    async with running(tmp_path, sample()) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.recovery.tidy_later)
        leave(engine.backing.path)
        assert tidy(engine.backing) == 0
        age(engine.backing.path)
        await wait_all_tasks_blocked()
        mock_clock.jump(2 * ABANDONED_S)
        await until(lambda: files_below(engine.backing.path / "segments") == [])


async def test_a_directory_that_cannot_be_tidied_is_looked_through_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, sample()) as engine:
        assert await engine.read_path("v1/small") == CONTENT
        await engine.settle()
        leave(engine.backing.path)
        Faults(monkeypatch).fail("leftovers.now", errno.EROFS)
        assert tidy(engine.backing) == 0
        recover(engine.index, engine.backing)
        assert indexed_bytes(engine.index) > 0
