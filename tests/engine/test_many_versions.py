"""Ten thousand versions: what leaves and what stays is right, and each costs as much as where there are few."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from dsfs.model import lastuse, pin
from dsfs.model.account import UNBOUNDED, FileSystemRoom
from dsfs.model.eviction import Rule
from dsfs.model.lastuse import CountedUses
from dsfs.model.pin import Pin
from dsfs.model.retention import NOTHING, Amount
from dsfs.model.trashname import stamp_in
from dsfs.model.versionname import name_of
from dsfs.storage import faultpoint
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.censusscan import SAFE_NS
from dsfs.storage.generations import CATALOG, GenerationStore
from dsfs.storage.segmentlist import SegmentList
from tests.engine.engine import MIB, running
from tests.engine.evicting import DISK_BYTES, evictor_beside
from tests.engine.fake_origin import FakeOrigin
from tests.engine.stopping import CALLS
from tests.rig.aged import DAY_S
from tests.rig.smallfs import SmallFilesystem

DATASETS, VERSIONS = 10, 1_000
COUNT = DATASETS * VERSIONS
STALE, PINNED = 4, 10  # every so many
GENERATION = "ab" * 20
PAGE = bytes(4096)


class Versions:
    """Small ones, of one segment each, as nodes have filled them; the higher its number, the newer."""

    def __init__(self, backing: BackingDirectory, now_ns: int) -> None:
        self._backing = backing
        self._now_ns = now_ns
        self._built = backing.path.with_name("built.mdb")
        # What it makes on local disk is the same that lies in the backing directory.
        self._store = GenerationStore(
            backing.generations, backing.generations, backing.file_system, lambda size: nullcontext()
        )
        for fan in range(256):
            (backing.path / f"segments/{fan:02x}").mkdir(exist_ok=True)
        self.keys = [
            (f"d{dataset}", f"v{number:04}", GENERATION) for number in range(VERSIONS) for dataset in range(DATASETS)
        ]
        for place, (dataset, version, _) in enumerate(self.keys):
            self._make(place, dataset, version)
        for folder in (*backing.path.glob("segments/*"), *backing.generations.glob("*/*"), backing.uses, backing.pins):
            os.utime(folder, ns=(now_ns, now_ns))  # some time ago, so that one look at it is enough

    def identity(self, place: int) -> str:
        return f"{place % 256:02x}{place + 1:038x}"

    def is_stale(self, place: int) -> bool:
        return place % STALE == 0

    def is_pinned(self, place: int) -> bool:
        return place % PINNED == 0

    def rule(self, place: int) -> Rule:
        """What the policy has to say of it."""
        if self.is_pinned(place):
            return Rule.PINNED
        if not self.is_stale(place):
            return Rule.ROOM
        return Rule.NEWEST if place >= COUNT - DATASETS else Rule.STALE

    def _make(self, place: int, dataset: str, version: str) -> None:
        identity = self.identity(place)
        path = self._backing.segment_path(identity)
        path.write_bytes(PAGE)
        path.with_name(f"{identity}.sum").write_bytes(PAGE)
        self._built.write_bytes(PAGE)
        listed = SegmentList(bytes.fromhex(identity), 2 * len(PAGE))
        placed = self._store.add(dataset, version, self._built, {"generation": GENERATION, "made_s": place + 1}, listed)
        use = self._backing.uses / name_of(dataset, version)
        use.write_bytes(lastuse.content_of(CountedUses(dataset, version)))
        days = 8 if self.is_stale(place) else 6
        used_ns = self._now_ns - days * DAY_S * 10**9 + place  # the lower its number, the longer ago
        for file in (use, placed.path / CATALOG):
            os.utime(file, ns=(used_ns, used_ns))
        if self.is_pinned(place):
            told = Pin(dataset, version, self._now_ns, 0, "ann", "a", "")
            (self._backing.pins / f"{use.name},{place:012}.json").write_bytes(pin.content_of(told))


class Costs:
    """Counts system calls, and what storage code names itself, for each of the versions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._counts = Counter[str]()
        for name in CALLS:
            monkeypatch.setattr(os, name, self._counting(name, getattr(os, name)))
        monkeypatch.setattr(faultpoint, "hook", lambda point: self._counts.update([point]))

    def _counting(self, name: str, call: object) -> object:
        def counting(*args: object, **kwargs: object) -> object:
            self._counts[name] += 1
            return call(*args, **kwargs)  # type: ignore[operator]

        return counting

    def of_each(self) -> float:
        """Since it was asked last."""
        count = self._counts.total() / COUNT
        self._counts.clear()
        return count


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A census syncs each version that is new to it, so elsewhere it would be the disk that is tested."""
    with SmallFilesystem(tmp_path / "disk", "tmpfs", 1024 * MIB) as disk:
        yield disk.path


async def test_ten_thousand_versions_are_judged_one_by_one(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        running(disk, FakeOrigin()) as engine,
        evictor_beside(engine, disk, grace_s=3600, keep_newest=1) as found,
    ):
        with engine.room.taking(Amount(2 * len(PAGE) * COUNT, 2 * COUNT)):
            versions = Versions(engine.backing, engine.nodes.now_ns() - SAFE_NS)
        there = FileSystemRoom(Amount(DISK_BYTES, UNBOUNDED), NOTHING)
        monkeypatch.setattr(engine.room, "there", lambda: there)  # else all is walked to know
        costs = Costs(monkeypatch)

        rules = {key: versions.rule(place) for place, key in enumerate(versions.keys)}
        stale = [key for key in versions.keys if rules[key] is Rule.STALE]
        for most in (40, 6):  # all is learned; all is known
            plan = await found.evictor.plan(0)
            assert [verdict.key for verdict in plan.leaves] == stale
            assert {verdict.key: verdict.rule for verdict in (*plan.leaves, *plan.stays)} == rules
            assert costs.of_each() < most

        found.round()
        assert costs.of_each() < 12
        paths = [path.name for path in engine.backing.path.glob("segments/*/*")]
        gone = {name.partition(".")[0] for name in paths if stamp_in(name) is not None}
        assert gone == {versions.identity(place) for place, key in enumerate(versions.keys) if rules[key] is Rule.STALE}
        assert len(paths) == 2 * len(versions.keys) - len(gone)  # without their checksums

        plan = await found.evictor.plan(0)
        assert plan.leaves == ()
        assert {verdict.key for verdict in plan.stays} == rules.keys() - set(stale)
