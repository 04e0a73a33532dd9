"""The engine of one node over real directories and a fake origin, wired as daemon.py wires it, without a mount."""

import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import trio

from dsfs.cache.ahead import Readahead
from dsfs.cache.catalogs import Catalogs
from dsfs.cache.claims import Claims
from dsfs.cache.drop import Dropper
from dsfs.cache.events import Events
from dsfs.cache.fetch import Fetcher
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.lanes import Lanes
from dsfs.cache.library import Library
from dsfs.cache.memory import RESIDENT_BYTES, Memory, fills_at_once
from dsfs.cache.names import OriginPrefix
from dsfs.cache.open import Opener
from dsfs.cache.pool import Bridge, Pool
from dsfs.cache.read import OpenFile, Reader
from dsfs.cache.recovery import Recovery
from dsfs.cache.roomkeeper import RoomKeeper
from dsfs.cache.segments import SegmentTable
from dsfs.cache.shares import ShareBook
from dsfs.cache.versions import Dataset
from dsfs.cache.warm import ALL, THIS, Services
from dsfs.cache.warmer import Warmer
from dsfs.cache.warmfill import WarmFiller
from dsfs.metrics import Metrics
from dsfs.model.errors import NotFoundError
from dsfs.model.health import Health
from dsfs.storage.account import SharedAccount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.bulletin import shares_at
from dsfs.storage.eventlog import EventLog
from dsfs.storage.filesystem import FileSystem, file_system_of
from dsfs.storage.generations import GenerationStore
from dsfs.storage.lastuses import LastUses
from dsfs.storage.nodes import NodesDirectory
from dsfs.storage.origin import Origin
from dsfs.storage.requests import RequestFolder
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.room import Room
from tests.engine.backing_sample import counted, set_fillable
from tests.rig.usages import usage_of

T = TypeVar("T")
MIB = 1024 * 1024
DATASET, PREFIX = "photos", "lake/photos/"


async def until(condition: Callable[[], T], what: str = "the condition", timeout_s: float = 20) -> T:
    """Wait for something that threads do, by the real clock, whatever clock trio has."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {timeout_s:g} s")
        await trio.to_thread.run_sync(time.sleep, 0.002)
    return answer


@dataclass
class OneDataset:
    """A configuration with the dataset `photos`; with `at_home`, known by the origin's listing only."""

    origin: Origin
    at_home: bool = False
    configured: list[str] = field(init=False)
    home: OriginPrefix | None = field(init=False)

    def __post_init__(self) -> None:
        self.configured = [] if self.at_home else [DATASET]
        self.home = OriginPrefix(self.origin, PREFIX.partition("/")[0] + "/") if self.at_home else None

    def find(self, name: str) -> Dataset:
        if name != DATASET:
            raise NotFoundError(name)
        return Dataset(name, self.origin, PREFIX, 0, 0, 0o444, 0o555)


@dataclass(frozen=True)
class Settings:
    """What tests vary of an engine; the rest is as in the daemon.

    `backing`: where other nodes find it too; `shared`: the file system is taken for one that other nodes share.
    `backing_timeout_s` is long, so that only those meet it whose subject it is: threads take real time, and some tests
    make trio's clock jump.
    """

    memory_bytes: int = 64 * MIB
    origin_bytes: int = 64 * MIB  # what runs may hold while they wait for it
    connections: int = 8
    timeout_s: float = 20
    backing: Path | None = None
    backing_threads: int = 4
    backing_timeout_s: float = 300
    shared: bool = False
    limit_bytes: int = 1 << 40
    names_ttl_s: float = 10
    list_timeout_s: float = 20
    inline: bool = True
    readahead: bool = True
    at_home: bool = False
    seed: int = 1  # of the order in which this node warms
    node: str = ""  # else it is called like its directory


class Engine:
    """Readers' side: `open` and `read`; everything it is made of can be looked at."""

    def __init__(self, directory: Path, origin: Origin, settings: Settings, services: trio.Nursery) -> None:
        self.origin = origin
        self.settings = settings
        state = directory / "state"
        state.mkdir(parents=True, exist_ok=True)
        self.metrics = Metrics()
        path = settings.backing or directory / "backing"
        self.backing = BackingDirectory(path)
        if settings.shared:
            self.backing.file_system = FileSystem("ceph")  # one whose O_DIRECT wants whole pages, as this one's does
        self.index = ResidencyIndex(state / "residency.mdb", self.backing.cluster)
        node = settings.node or blake2b(bytes(directory), digest_size=8).hexdigest()  # the same after a restart
        self.nodes = NodesDirectory(self.backing.nodes, node, self.backing.file_system)
        account = SharedAccount(path, self.backing.file_system, lambda: self.nodes.node)
        self.room = Room(self.backing, account, settings.limit_bytes, lambda size: 0)
        self.room_keeper = RoomKeeper(self.room)
        bridge = Bridge()
        self.lanes = Lanes(bridge, settings.connections, settings.origin_bytes)
        self.backing_pool = Pool("backing", settings.backing_threads, bridge)
        self.memory = Memory(settings.memory_bytes, lambda run: run.segment.forget(run))
        self.resident_memory = Memory(RESIDENT_BYTES, lambda run: run.segment.forget(run))
        filling_threads = min(settings.backing_threads, fills_at_once(settings.memory_bytes))
        self.filling_pool = Pool("filling", filling_threads, bridge)
        self.sealing_pool = Pool("sealing", 2, bridge)
        self.claims_pool = Pool("claims", 4, bridge)
        self.health = BackingHealth(Health(settings.backing_timeout_s), bridge, self.backing.probe)
        self.claims = Claims(
            self.claims_pool, bridge, self.room, self.health, services, self.metrics, settings.timeout_s / 3,
            random.Random(0),
        )  # fmt: skip
        self.shares_file = shares_at(self.backing.shares, self.backing.file_system)
        self.shares = ShareBook(self.shares_file, self.nodes)
        self.filler = Filler(
            self.memory, self.filling_pool, self.sealing_pool, bridge, self.room, self.health, self.claims,
            self.index, self.metrics, self.shares,
        )  # fmt: skip
        self.segments = SegmentTable(self.backing, self.backing_pool, self.health, self.filler)
        self.fetcher = Fetcher(
            self.memory, self.lanes, bridge, self.filler, self.claims, services, self.metrics,
            settings.timeout_s, random.Random(0),
        )  # fmt: skip
        self.readahead = Readahead(self.fetcher, self.segments, settings.connections)
        self.events = Events(EventLog(self.backing.events, self.backing.file_system), self.nodes, self.metrics)
        self.uses = LastUses(self.backing.uses, self.backing.file_system)
        self.library = Library(
            Catalogs(
                GenerationStore(
                    state / "catalogs", self.backing.generations, self.backing.file_system, self.room.taking
                ),
                self.backing.turns, self.backing_pool, self.health, services,
            ),
            state / "listing", OneDataset(origin, settings.at_home), services, settings.names_ttl_s,
            settings.list_timeout_s, self.events,
        )  # fmt: skip
        self.opener = Opener(self.segments, self.index)
        self.reader = Reader(
            self.fetcher, self.filler, self.readahead, self.memory, self.resident_memory, self.backing_pool,
            self.health, self.metrics, inline=settings.inline,
        )  # fmt: skip
        self.warm_filler = WarmFiller(
            self.fetcher, self.filler, self.memory, self.backing_pool, self.room, self.health,
            settings.connections, self.readahead.window_limit,
        )  # fmt: skip
        folders = {
            THIS: RequestFolder(state / "requests", file_system_of(state), lambda: None),
            ALL: RequestFolder(self.backing.requests, self.backing.file_system, self.room.space),
        }
        services_of_warms = Services(
            self.library, self.opener, self.index, self.warm_filler, self.events, settings.seed
        )
        self.warmer = Warmer(services_of_warms, folders)
        self.recovery = Recovery(self.index, self.backing, self.segments, self.filler)
        self.dropper = Dropper(
            self.library, self.segments, self.filler, self.memory, self.backing, self.room, self.health,
            self.backing_pool, self.metrics, self.recovery.turn,
        )  # fmt: skip

    async def open(self, path: str) -> OpenFile:
        """The file at VERSION/PATH."""
        version_name, _, inner = path.partition("/")
        version = await self.library.version(await self.library.dataset(DATASET), version_name)
        generation = await self.library.generation(version)
        return await self.opener.open(generation, generation.catalog.resolve(inner))

    async def read(self, file: OpenFile, offset: int = 0, size: int | None = None) -> bytes:
        """The bytes, copied as the kernel copies a reply."""
        return bytes(await self.reader.read(file, offset, file.size if size is None else size))

    async def read_path(self, path: str, step: int = MIB) -> bytes:
        """The whole file, read in order, opened and released."""
        file = await self.open(path)
        try:
            parts = [await self.read(file, offset, step) for offset in range(0, file.size, step)]
        finally:
            self.opener.release(file)
        return b"".join(parts)

    async def drop(self, version_name: str) -> tuple[int, int]:
        version = await self.library.version(await self.library.dataset(DATASET), version_name)
        return await self.dropper.drop(version)

    async def settle(self) -> None:
        """Wait until nothing is on its way; then look whether all accounts agree."""
        await self.fetcher.wait_idle()
        await self.filler.wait_idle()
        await self.filler.flush_index()
        self.check()
        if self.settings.backing is None:  # else another node may just fill, seal or drop
            self.check_account()

    def leave_room(self, size_bytes: int) -> None:
        """Have no more than so much be filled from here on."""
        self.room.leave()
        set_fillable(self.room, size_bytes)

    def segment_bytes(self) -> int:
        """What the files of all segments take."""
        return sum(entry.stat().st_blocks * 512 for entry in self.backing.segment_files())

    def surplus_bytes(self) -> int:
        """What this node, if it is the only one, takes for used beyond what is there."""
        return self.room.used_bytes - counted(self.backing.path).size_bytes

    def check(self) -> None:
        """Assert all invariants that hold between any two steps."""
        self.memory.check()
        self.resident_memory.check()
        self.segments.check()

    def check_account(self) -> None:
        """Assert, while no node changes anything, that no more lies there than is taken."""
        account = self.room.account.look()
        assert account is None or self.segment_bytes() <= account.total.size_bytes


@asynccontextmanager
async def running(directory: Path, origin: Origin, settings: Settings | None = None) -> AsyncIterator[Engine]:
    """An engine with its services.  At the end what is on its way is waited for, and the accounts are looked at."""
    settings = settings or Settings()
    async with trio.open_nursery() as services:
        engine = Engine(directory, origin, settings, services)
        try:
            await services.start(engine.room_keeper.serve)
            services.start_soon(engine.filler.keep_index)
            services.start_soon(engine.filler.keep_sealing)
            services.start_soon(engine.health.serve)
            if settings.readahead:
                services.start_soon(engine.readahead.serve)
            await services.start(engine.warmer.serve)
            yield engine
            engine.readahead.stop()
            engine.warmer.close()
            with trio.fail_after(20):
                await engine.settle()
            await engine.room_keeper.end()
        finally:
            origin.close()
            with trio.move_on_after(5, shield=True):  # after a failure: no thread may be inside what is closed now
                await engine.fetcher.wait_idle()
                await engine.filler.wait_idle()
            engine.lanes.close()
            for pool in (engine.backing_pool, engine.filling_pool, engine.sealing_pool, engine.claims_pool):
                pool.close()
            services.cancel_scope.cancel()
            if (engine.backing.nodes / engine.nodes.node).exists():  # it has asked for the time
                engine.nodes.leave(usage_of())
            engine.segments.close()
            engine.library.close()
            engine.index.close()
