"""An evictor beside an engine, and what makes versions old."""

import os
from pathlib import Path

from dsfs.cache.evictor import Evictor
from dsfs.cache.survey import Limits, Surveyor
from dsfs.cache.sweep import Sweeper
from dsfs.model.account import UNBOUNDED, FileSystemRoom
from dsfs.model.retention import NOTHING, Amount, Retention
from dsfs.model.trashname import stamp_in
from dsfs.storage.bulletin import shares_at, standing_at
from dsfs.storage.census import Census
from dsfs.storage.pins import PinFolder
from dsfs.storage.trash import Trash
from tests.engine.engine import Engine
from tests.rig.filler import allocated_below
from tests.rig.usages import usage_of

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
        self.census.close()


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
