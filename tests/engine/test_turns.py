"""One node lists a version for all; the others find its catalog."""

import errno
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from dsfs.cache.catalogs import LIFE_S, POLL_S, QUIET_S
from dsfs.storage.turn import Turn
from tests.engine.engine import DATASET, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin, Gate
from tests.engine.faults import Faults


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    for number in range(20):
        origin.put(f"{PREFIX}v1/{number:02d}", b"x" * 100)
    return origin


async def look(engine: Engine, generations: list[str] | None = None) -> None:
    """Somebody looks into the version."""
    version = await engine.library.version(await engine.library.dataset(DATASET), "v1")
    generation = await engine.library.generation(version)
    if generations is not None:
        generations.append(generation.id)


def listings(origin: FakeOrigin) -> int:
    return sum(prefix.startswith(f"{PREFIX}v1/") for prefix in origin.lists)


@pytest.fixture
async def lists_of_one(tmp_path: Path) -> int:
    """How many requests a listing takes."""
    origin = sample()
    async with running(tmp_path / "alone", origin) as engine:
        await look(engine)
    return listings(origin)


@pytest.mark.parametrize("shared", [False, True])
async def test_nodes_that_look_into_a_version_at_once_list_it_once(
    tmp_path: Path, lists_of_one: int, shared: bool
) -> None:
    origin = sample()
    settings = Settings(backing=tmp_path / "backing", shared=shared)
    generations: list[str] = []
    async with (
        running(tmp_path / "a", origin, settings) as a,
        running(tmp_path / "b", origin, settings) as b,
        trio.open_nursery() as nursery,
    ):
        for engine in (a, b):
            nursery.start_soon(look, engine, generations)
    assert len(generations) == 2
    assert len(set(generations)) == 1
    assert listings(origin) == lists_of_one


async def test_node_that_comes_later_lists_nothing(tmp_path: Path, lists_of_one: int) -> None:
    origin = sample()
    settings = Settings(backing=tmp_path / "backing")
    async with running(tmp_path / "a", origin, settings) as a:
        await look(a)
    async with running(tmp_path / "b", origin, settings) as b:
        await look(b)
    assert listings(origin) == lists_of_one


async def test_listing_that_takes_long_is_waited_for_while_its_node_lives(
    tmp_path: Path, mock_clock: MockClock, lists_of_one: int
) -> None:
    origin = sample()
    settings = Settings(backing=tmp_path / "backing", list_timeout_s=10_000)
    async with (
        running(tmp_path / "a", origin, settings) as a,
        running(tmp_path / "b", origin, settings) as b,
        trio.open_nursery() as nursery,
    ):
        gate = origin.list_gate = Gate()
        nursery.start_soon(look, a)
        await until(gate.reached.is_set)
        nursery.start_soon(look, b)
        mock_clock.rate = 5.0  # so that QUIET_S is long for a busy machine, too
        began_s = trio.current_time()
        await until(lambda: trio.current_time() - began_s > 2 * QUIET_S)
        requests = listings(origin)
        origin.list_gate = None
        gate.open()
    assert requests <= lists_of_one
    assert listings(origin) == lists_of_one


async def test_node_that_shows_no_sign_of_life_is_not_waited_for(tmp_path: Path, mock_clock: MockClock) -> None:
    origin = sample()
    async with running(tmp_path, origin) as engine:
        await look(engine)
        (file,) = (path for path in engine.backing.turns.iterdir() if path.name != "account")
        for catalog in (engine.backing.generations, tmp_path / "state" / "catalogs"):
            (catalog / DATASET / "v1").rename(tmp_path / f"{catalog.name}-away")
        dead = Turn(file)
        await until(dead.try_take, "the end of the turn")
    async with running(tmp_path, origin) as engine, trio.open_nursery() as nursery:
        before = listings(origin)
        nursery.start_soon(look, engine)
        mock_clock.rate = 20.0
        began_s = trio.current_time()
        await until(lambda: listings(origin) > before, "the listing")
        assert trio.current_time() - began_s >= QUIET_S
    dead.end()


@pytest.mark.expects_log("has no locks")
@pytest.mark.parametrize("point", ["turn.open", "rangelock.lock"])
async def test_nodes_that_cannot_take_turns_list_each_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    Faults(monkeypatch).fail(point, errno.ENOLCK, times=100)
    origin = sample()
    async with running(tmp_path, origin) as engine:
        await look(engine)
    assert listings(origin)


def test_signs_of_life_are_seen(tmp_path: Path) -> None:
    mine, theirs = Turn(tmp_path / "turn"), Turn(tmp_path / "turn")
    assert mine.try_take()
    assert not theirs.try_take()
    before = theirs.sign_of_life()
    mine.show_life()
    assert theirs.sign_of_life() != before
    mine.end()
    mine.show_life()  # too late, and no matter
    assert theirs.try_take()
    theirs.end()
    assert POLL_S < LIFE_S < QUIET_S / 2
