"""The composition root, first half: everything that a daemon consists of, built and connected, and not started yet.

daemon.py starts and stops it.
"""

import random
import time

import trio

from dsfs.admin.events import EventVerbs
from dsfs.admin.evicting import EvictVerbs
from dsfs.admin.nodes import Neighbours
from dsfs.admin.pins import PinVerbs
from dsfs.admin.queries import Queries
from dsfs.admin.residents import Residents
from dsfs.admin.verbs import Stop, Verbs
from dsfs.admin.warming import WarmVerbs
from dsfs.cache.ahead import Readahead
from dsfs.cache.catalogs import Catalogs
from dsfs.cache.claims import Claims
from dsfs.cache.datasets import Datasets
from dsfs.cache.drop import Dropper
from dsfs.cache.events import Events
from dsfs.cache.evictor import ROUND_S, Evictor
from dsfs.cache.fetch import Fetcher
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.heartbeat import Heartbeat
from dsfs.cache.lanes import Lanes
from dsfs.cache.lastuse import UseRecorder
from dsfs.cache.library import Library
from dsfs.cache.memory import Memory, fills_at_once, shares
from dsfs.cache.open import Opener
from dsfs.cache.pool import Bridge, Pool
from dsfs.cache.read import Reader
from dsfs.cache.recovery import Recovery
from dsfs.cache.refill import Refiller
from dsfs.cache.roomkeeper import RoomKeeper
from dsfs.cache.segments import SegmentTable
from dsfs.cache.shares import ShareBook
from dsfs.cache.survey import Limits, Surveyor
from dsfs.cache.sweep import Sweeper
from dsfs.cache.warm import ALL, THIS, Services
from dsfs.cache.warmer import Warmer
from dsfs.cache.warmfill import WarmFiller
from dsfs.config import Config
from dsfs.metrics import Metrics
from dsfs.model.health import Health
from dsfs.model.share import Shares
from dsfs.mount.operations import Operations
from dsfs.storage.account import SharedAccount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.bulletin import Bulletin, shares_at, standing_at
from dsfs.storage.census import Census
from dsfs.storage.eventlog import EventLog
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.generations import GenerationStore
from dsfs.storage.lastuses import LastUses
from dsfs.storage.nodes import NodesDirectory, node_id
from dsfs.storage.pins import PinFolder
from dsfs.storage.requests import RequestFolder
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.room import Room
from dsfs.storage.trash import Trash

BACKING_THREADS = 16  # reads at once: few enough, with the fills, to leave an NFS client's slots to others
CLAIMS_THREADS = 4
SEALING_THREADS = 2  # each may read a whole segment


class Assembly:
    """The parts of one daemon; `services` is where those run, `stop` what the verb of that name calls."""

    def __init__(
        self,
        config: Config,
        backing: BackingDirectory,
        index: ResidencyIndex,
        metrics: Metrics,
        datasets: Datasets,
        services: trio.Nursery,
        stop: Stop,
    ) -> None:
        self.config = config
        self.backing = backing
        self.index = index
        self.metrics = metrics
        self.datasets = datasets
        bridge = Bridge()
        origins = self.datasets.origins
        self.backing_pool = Pool("backing", BACKING_THREADS, bridge)
        self.memory, self.resident_memory = (
            Memory(share_bytes, lambda run: run.segment.forget(run))
            for share_bytes in shares(config.memory.limit_bytes, config.origin.connections * len(origins))
        )
        self.filling_pool = Pool("filling", fills_at_once(self.memory.limit_bytes), bridge)
        self.sealing_pool = Pool("sealing", SEALING_THREADS, bridge)
        self.claims_pool = Pool("claims", CLAIMS_THREADS, bridge)
        self.health = BackingHealth(Health(config.backing.timeout_s), bridge, backing.probe)
        nodes = NodesDirectory(backing.nodes, node_id(config.state_dir), backing.file_system)
        account = SharedAccount(backing.path, backing.file_system, lambda: nodes.node)
        self.room = Room(backing, account, config.backing.limit_bytes, config.backing.floor.of)
        self.room_keeper = RoomKeeper(self.room)
        claims = Claims(
            self.claims_pool, bridge, self.room, self.health, services, metrics, config.origin.timeout_s / 3,
            random.Random(),
        )  # fmt: skip
        self.events = Events(EventLog(backing.events, backing.file_system), nodes, metrics)
        self.lanes = Lanes(bridge, config.origin.connections, self.memory.limit_bytes // min(2, len(origins)))
        shares_said = shares_at(backing.shares, backing.file_system)
        self.shares = ShareBook(shares_said, nodes)
        self.filler = Filler(
            self.memory, self.filling_pool, self.sealing_pool, bridge, self.room, self.health, claims, index, metrics,
            self.shares,
        )  # fmt: skip
        self.segments = SegmentTable(backing, self.backing_pool, self.health, self.filler)
        self.fetcher = Fetcher(
            self.memory, self.lanes, bridge, self.filler, claims, services, metrics, config.origin.timeout_s,
            random.Random(),
        )  # fmt: skip
        self.refiller = Refiller(
            self.segments, self.memory, self.filler, self.room, self.health, self.filling_pool
        )
        self.readahead = Readahead(self.fetcher, self.segments, config.origin.connections)
        self.library = Library(
            Catalogs(
                GenerationStore(
                    config.state_dir / "catalogs", backing.generations, backing.file_system, self.room.taking
                ),
                backing.turns,
                self.backing_pool,
                self.health,
                services,
            ),
            config.state_dir / "listing",
            self.datasets,
            services,
            config.origin.names_ttl_s,
            config.origin.list_timeout_s,
            self.events,
        )
        uses = LastUses(backing.uses, backing.file_system)
        self.use_recorder = UseRecorder(self.library, uses, nodes)
        opener = Opener(self.segments, index)
        reader = Reader(
            self.fetcher,
            self.filler,
            self.readahead,
            self.memory,
            self.resident_memory,
            self.backing_pool,
            self.health,
            metrics,
            inline=not backing.file_system.is_network,
        )
        self.operations = Operations(
            self.library,
            opener,
            reader,
            self.room,
            metrics,
            config.mount.owner.id,
            config.mount.group.id,
        )
        self._build_warmer(opener)
        self.queries = Queries(
            self.library, opener, self.filler, self._buffered_bytes, backing, self.room, self.health,
            Residents(index, self.filler, standing_at(backing.standing, backing.file_system), nodes),
            self.datasets, self.warmer, uses, nodes, config.mountpoint, config.source, config.memory.limit_bytes,
            started_s=time.time(),
        )  # fmt: skip
        self.recovery = Recovery(index, backing, self.segments, self.filler)
        self.dropper = Dropper(
            self.library, self.segments, self.filler, self.memory, backing, self.room, self.health, self.backing_pool,
            metrics, self.recovery.turn,
        )  # fmt: skip
        self.heartbeat = Heartbeat(
            nodes, self.library, self.segments, self.datasets, backing, self.room, metrics, config.mountpoint
        )
        neighbours = Neighbours(self.heartbeat, self.queries.ask_backing)
        pins = PinFolder(backing.pins, backing.file_system, self.room.space)
        self._build_evictor(nodes, uses, pins, shares_said)
        self.verbs = {
            **Verbs(
                self.queries, self.library, self.dropper, neighbours, metrics, self.datasets, self.events, stop
            ).table(),
            **WarmVerbs(self.warmer, self.library, config.mountpoint).table(),
            **PinVerbs(pins, nodes, self.queries, self.events).table(),
            **EvictVerbs(self.evictor).table(),
            **EventVerbs(self.events.log, nodes, self.queries).table(),
        }
        self._connect_gauges()

    def _build_evictor(
        self, nodes: NodesDirectory, uses: LastUses, pins: PinFolder, shares_said: Bulletin[Shares]
    ) -> None:
        config, backing = self.config, self.backing
        limit_bytes, retention = config.backing.limit_bytes, config.retention
        limits = Limits(
            limit_bytes,
            retention.high_watermark.of(limit_bytes),
            retention.low_watermark.of(limit_bytes),
            retention.grace_s + ROUND_S,
        )
        census = Census(config.state_dir / "census.mdb", backing)
        trash = Trash(backing)
        surveyor = Surveyor(self.room, census, nodes, uses, pins, limits, config.retention_of)
        standing_said = standing_at(backing.standing, backing.file_system)
        self.evictor = Evictor(
            surveyor,
            Sweeper(surveyor, trash, self.room, self.metrics, retention.grace_s),
            trash,
            shares_said,
            standing_said,
            backing.turns / "evictor",
            self.segments,
            self.filler,
            self.health,
            self.events,
            self.metrics,
        )

    def _build_warmer(self, opener: Opener) -> None:
        warm_filler = WarmFiller(
            self.fetcher, self.filler, self.memory, self.backing_pool, self.room, self.health,
            self.config.origin.connections, self.readahead.window_limit,
        )  # fmt: skip
        state_dir, backing = self.config.state_dir, self.backing
        folders = {
            THIS: RequestFolder(state_dir / "requests", file_system_of(state_dir), lambda: None),
            ALL: RequestFolder(backing.requests, backing.file_system, self.room.space),
        }
        seed = random.SystemRandom().getrandbits(64)
        services = Services(self.library, opener, self.index, warm_filler, self.events, seed)
        self.warmer = Warmer(services, folders)

    def _connect_gauges(self) -> None:
        self.metrics.backing_used_bytes.read_from(lambda: self.room.used_bytes)
        self.metrics.memory_used_bytes.read_from(self._buffered_bytes)
        self.metrics.memory_limit_bytes.read_from(lambda: self.config.memory.limit_bytes)

    def _buffered_bytes(self) -> int:
        return self.memory.used_bytes + self.resident_memory.used_bytes

