"""An evictor beside an engine, and what makes versions old."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dsfs.cache.evictor import Evictor
from dsfs.cache.survey import Limits, Surveyor
from dsfs.cache.sweep import Sweeper
from dsfs.model import told
from dsfs.model.account import UNBOUNDED, FileSystemRoom
from dsfs.model.retention import NOTHING, Amount, Retention
from dsfs.model.trashname import stamp_in
from dsfs.storage.bulletin import shares_at, standing_at
from dsfs.storage.census import Census
from dsfs.storage.pins import PinFolder
from dsfs.storage.trash import Trash
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running
from tests.engine.fake_origin import FakeOrigin
from tests.rig.filler import allocated_below
from tests.rig.usages import usage_of

LARGE = os.urandom(1 * MIB) * 6
DAY_S = 86_400
STALE_AFTER_S = 7.0 * DAY_S
DISK_BYTES = 1 << 40


class Evicting:
    """An evictor, its census, and what it is made of; `clock_s` is the clock by which it is patient."""

    def __init__(
        self,
        engine: Engine,
        tmp_path: Path,
        *,
        limit_bytes: int | None = None,
        grace_s: float = 0.0,
        keep_newest: int = 0,
        name: str = "evictor",
    ) -> None:
        self.engine = engine
        self.clock_s = 0.0
        limit_bytes = limit_bytes or engine.settings.limit_bytes
        backing, nodes = engine.backing, engine.nodes
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

    async def close(self) -> None:
        await self.evictor.end()
        self.evictor.close()


def age(engine: Engine, version: str, days: float = 30) -> None:
    """Nobody has used the version for so long; it was listed and filled before."""

    def back(path: Path) -> None:
        found = path.stat().st_mtime_ns - round(days * DAY_S * 1e9)
        os.utime(path, ns=(found, found))

    engine.uses.begin("photos", version, engine.nodes.now_ns())
    back(engine.backing.uses / f"photos,{version}")
    for catalog in engine.backing.generations.glob(f"photos/{version}/*/catalog.mdb"):
        back(catalog)


def hidden(engine: Engine, *, at_least: int = 0) -> list[str]:
    """The names of what is hidden, and has so many bytes."""
    paths = engine.backing.path.glob("segments/*/*")
    return [path.name for path in paths if stamp_in(path.name) is not None and path.stat().st_size >= at_least]


def present(engine: Engine) -> list[str]:
    return [path.name for path in engine.backing.path.glob("segments/*/*") if stamp_in(path.name) is None]


def sample(*versions: str) -> FakeOrigin:
    origin = FakeOrigin()
    for number, version in enumerate(versions):
        origin.put(f"{PREFIX}{version}/large", LARGE + version.encode())
        for name in range(3):
            origin.put(f"{PREFIX}{version}/small/{name}", f"{version}{name}{number}".encode())
    return origin


@pytest.fixture(autouse=True)
def short_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two beats of a node are as far apart as the test has them."""
    monkeypatch.setattr(told, "BEAT_S", 0.0)


@asynccontextmanager
async def evicting(
    tmp_path: Path, *versions: str, limit_bytes: int = 1 << 40, grace_s: float = 0.0, keep_newest: int = 0
) -> AsyncIterator[tuple[Engine, Evicting]]:
    """An engine that has read all versions, and stopped to use them, and an evictor."""
    async with running(tmp_path, sample(*versions), Settings(limit_bytes=limit_bytes)) as engine:
        for version in versions:
            await read(engine, version)
        engine.room.tell()  # what was filled until now is no news
        found = Evicting(engine, tmp_path, limit_bytes=limit_bytes, grace_s=grace_s, keep_newest=keep_newest)
        found.beat()
        yield engine, found
        await found.close()


async def read(engine: Engine, version: str) -> None:
    assert await engine.read_path(f"{version}/large") == LARGE + version.encode()
    for name in range(3):
        assert (await engine.read_path(f"{version}/small/{name}")).startswith(version.encode())
    await engine.settle()


async def rounds(evicting: Evicting, times: int = 3) -> None:
    """As many as it takes: what is hidden is met, and every node has told since."""
    for _ in range(times):
        evicting.beat()
        evicting.engine.room.keep()
        await evicting.evictor.evict(0)
