"""An evictor beside an engine, what makes versions old, and what has become of them."""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dsfs.cache.evictor import Evictor
from dsfs.cache.survey import Limits, Surveyor
from dsfs.cache.sweep import Sweeper
from dsfs.model import told
from dsfs.model.account import UNBOUNDED, FileSystemRoom
from dsfs.model.errors import BackingError
from dsfs.model.event import Event, Kind
from dsfs.model.eviction import Rule, Verdict
from dsfs.model.retention import NOTHING, Amount, Retention
from dsfs.model.standing import Standing
from dsfs.model.trashname import stamp_in
from dsfs.storage.bulletin import shares_at, standing_at
from dsfs.storage.census import Census
from dsfs.storage.pins import PinFolder
from dsfs.storage.trash import Trash
from tests.engine.backing_sample import account_of, counted
from tests.engine.engine import DATASET, MIB, PREFIX, Engine, Settings, running, until
from tests.engine.fake_origin import FakeOrigin
from tests.rig.aged import DAY_S, set_back, set_back_version
from tests.rig.filler import allocated_below
from tests.rig.segmentdir import hidden_in
from tests.rig.usages import usage_of

LARGE = Random(1).randbytes(1 * MIB) * 6
STALE_AFTER_S = 7.0 * DAY_S
DISK_BYTES = 1 << 40


class Evicting:
    """An evictor, its census, and what it is made of; `clock_s` is the clock by which it is patient."""

    def __init__(
        self,
        engine: Engine,
        tmp_path: Path,
        *,
        grace_s: float = 0.0,
        keep_newest: int = 0,
        name: str = "evictor",
    ) -> None:
        self.engine = engine
        self.clock_s = 0.0
        backing, nodes, limit_bytes = engine.backing, engine.nodes, engine.settings.limit_bytes
        engine.room.there = self._there  # type: ignore[method-assign]
        self.census = Census(tmp_path / f"{name}.mdb", backing)
        self.trash = Trash(backing)
        self.pins = PinFolder(backing.pins, backing.file_system, engine.room.space)
        limits = Limits(limit_bytes, limit_bytes * 9 // 10, limit_bytes * 8 // 10, grace_s)
        retention = Retention(STALE_AFTER_S, keep_newest, limit_bytes)
        self.surveyor = Surveyor(
            engine.room, self.census, nodes, engine.uses, self.pins, limits, lambda dataset: retention
        )
        self.sweeper = Sweeper(self.surveyor, self.trash, engine.room, engine.metrics, grace_s, lambda: self.clock_s)
        self.evictor = Evictor(
            self.surveyor,
            self.sweeper,
            self.trash,
            shares_at(backing.shares, backing.file_system),
            standing_at(backing.standing, backing.file_system),
            backing.turns / "evictor",
            engine.segments,
            engine.filler,
            engine.health,
            engine.events,
            engine.metrics,
        )

    def _there(self) -> FileSystemRoom:
        """As if nobody else used the file system: what others take looks like room that does not come back."""
        return FileSystemRoom(Amount(DISK_BYTES - allocated_below(self.engine.backing.path), UNBOUNDED), NOTHING)

    def beat(self, segments: tuple[str, ...] = ()) -> None:
        """The engine's node is alive, and tells that it has these segments open."""
        self.engine.nodes.beat(usage_of(files=0, segments=segments))

    def round(self) -> None:
        """One as the service does them, once the node has told what it has open."""
        self.beat()
        self.evictor._round()

    def standing(self) -> Standing:
        """What the last round has told all nodes."""
        found = self.evictor._standing.look()
        assert found is not None
        return found

    async def close(self) -> None:
        await self.evictor.end()
        self.evictor.close()


def age(engine: Engine, *versions: str, days: float = 30) -> None:
    """Nobody has used these for so long; they were listed and filled before."""
    for version in versions:
        engine.uses.begin(DATASET, version, engine.nodes.now_ns())
        set_back_version(engine.backing.path, f"{DATASET}/{version}", days * DAY_S)


async def supersede(engine: Engine, version_name: str) -> str:
    """Somebody has replaced an object, and listed the version anew; the generation that it has now.

    Both were listed a day ago.
    """
    assert isinstance(engine.origin, FakeOrigin)
    engine.origin.put(f"{PREFIX}{version_name}/large", LARGE[::-1])
    version = await engine.library.version(await engine.library.dataset(DATASET), version_name)
    await engine.library.refresh(version)
    for catalog in engine.backing.generations.glob(f"{DATASET}/{version_name}/*/catalog.mdb"):
        set_back(catalog, DAY_S)
    assert version.current is not None
    return version.current.id


# ---------------------------------------------------------------- looking at it


def hidden(engine: Engine) -> list[str]:
    """The names of what was hidden of segments, and is not deleted yet."""
    return [path.name for path in hidden_in(engine.backing.path)]


def hidden_large(engine: Engine) -> list[str]:
    """Those with the data of a large object."""
    return [path.name for path in hidden_in(engine.backing.path) if path.stat().st_size >= len(LARGE)]


def present(engine: Engine) -> list[str]:
    """The names of the files of segments that are not hidden."""
    return [path.name for path in engine.backing.path.glob("segments/*/*") if stamp_in(path.name) is None]


def excess_bytes(engine: Engine) -> int:
    """What the account takes for used beyond what is there."""
    return account_of(engine.room).used.size_bytes - counted(engine.backing.path).size_bytes


def ruled(verdicts: Iterable[Verdict]) -> list[tuple[str, Rule]]:
    """The versions, each with its rule."""
    return [(verdict.key[1], verdict.rule) for verdict in verdicts]


def waiting_events(engine: Engine, kind: Kind) -> list[Event]:
    """What was told of that kind, and is not written yet."""
    return [event for _, event in engine.events._waiting if event.kind == kind.value]


def open_segments(engine: Engine) -> list[str]:
    """What this process has open below segments/."""
    names = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [name for name in names if name.startswith(str(engine.backing.path / "segments"))]


# ---------------------------------------------------------------- engines with an evictor


def sample(*versions: str) -> FakeOrigin:
    origin = FakeOrigin()
    for number, version in enumerate(versions):
        origin.put(f"{PREFIX}{version}/large", LARGE + version.encode())
        for name in range(3):
            origin.put(f"{PREFIX}{version}/small/{name}", f"{version}{name}{number}".encode())
    return origin


@asynccontextmanager
async def evictor_beside(engine: Engine, tmp_path: Path, **options: Any) -> AsyncIterator[Evicting]:
    """An evictor with these `options`, see Evicting; two beats of the node are as far apart as the test has them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(told, "BEAT_S", 0.0)
        found = Evicting(engine, tmp_path, **options)
        try:
            found.beat()
            yield found
        finally:
            await found.close()


@asynccontextmanager
async def evicting(
    tmp_path: Path, *versions: str, limit_bytes: int = 1 << 40, grace_s: float = 0.0
) -> AsyncIterator[tuple[Engine, Evicting]]:
    """An engine that has read all versions, and stopped to use them, and an evictor."""
    async with running(tmp_path, sample(*versions), Settings(limit_bytes=limit_bytes)) as engine:
        for version in versions:
            await read(engine, version)
        engine.room.tell()  # what was filled until now is no news
        async with evictor_beside(engine, tmp_path, grace_s=grace_s) as found:
            yield engine, found


async def read(engine: Engine, version: str) -> None:
    assert await engine.read_path(f"{version}/large") == LARGE + version.encode()
    for name in range(3):
        assert (await engine.read_path(f"{version}/small/{name}")).startswith(version.encode())
    await engine.settle()


async def rounds(evicting: Evicting, times: int = 3, *, segments: tuple[str, ...] = ()) -> None:
    """As many as it takes: what is hidden is met, and every node has told since that it has these segments open."""
    for _ in range(times):
        evicting.beat(segments)
        evicting.engine.room.keep()
        await evicting.evictor.evict(0)


async def rounds_in_trouble(evicting: Evicting, times: int, *, step_s: float = 0.0) -> None:
    """Rounds each of which may fail, so long one after the other."""
    for _ in range(times):
        evicting.clock_s += step_s
        evicting.beat()
        with suppress(BackingError):
            await evicting.evictor.evict(0)


async def close_unused(engine: Engine, left: int = 0) -> None:
    """Two looks at who uses segments, and none is open any more but so many."""
    for _ in range(2):
        engine.segments.close_unused()
    await until(lambda: len(open_segments(engine)) == left, "what is not used being closed")
