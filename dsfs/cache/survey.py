"""Survey: all that the policy looks at, as it is at one moment on all nodes.

Concurrency: blocking calls, of one thread at a time.  Whatever cannot be seen is an OSError or a BackingError: then
nothing is known, and nothing leaves.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from dsfs.model.account import Account
from dsfs.model.allotment import RetentionOf, allotments, foreseen
from dsfs.model.errors import BackingError
from dsfs.model.eviction import Verdict, judge
from dsfs.model.inventory import CachedGeneration, cached_versions
from dsfs.model.lastuse import TOLD_EVERY_S, LastUse
from dsfs.model.nodes import Look, Uses, VersionKey
from dsfs.model.past import Past
from dsfs.model.retention import ACTIVE_S, Amount, CachedSegment, CachedVersion, Capacity
from dsfs.storage.census import Census, HeldGeneration
from dsfs.storage.censusscan import Scan
from dsfs.storage.lastuses import LastUses
from dsfs.storage.nodes import NodesDirectory
from dsfs.storage.pins import PinFolder
from dsfs.storage.room import Room


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings, in bytes.  `horizon_s`: what leaves takes room for so long yet."""

    limit_bytes: int
    high_bytes: int
    low_bytes: int
    horizon_s: float


@dataclass(frozen=True, slots=True)
class Survey:
    """`account`: that of room.  `ahead`: what versions in use will fill within the horizon.  `unknown`: nodes that may
    use anything.  `seen_since_ns`: all is seen as it was then or later; None if something was not seen yet.
    `unseen`: why something cannot be, or cannot be understood, so that not all that should leaves; "" if all is well.
    """

    look: Look
    uses: Uses
    by_key: Mapping[VersionKey, CachedVersion]
    room: Capacity
    account: Account
    allotted: Mapping[VersionKey, int]
    ahead: Amount
    unknown: frozenset[str]
    seen_since_ns: int | None
    unseen: str

    @property
    def now_ns(self) -> int:
        return self.look.now_ns

    @property
    def versions(self) -> tuple[CachedVersion, ...]:
        return tuple(self.by_key.values())

    def idle_s(self, key: VersionKey) -> float:
        """For how long nobody has used the version."""
        return self.by_key[key].idle_s(self.now_ns)

    def host(self, node: str) -> str:
        """What people call the node."""
        usages = (seen.usage for seen in self.look.sightings if seen.node == node)
        return next((usage.host.name for usage in usages if usage is not None), node)


class Surveyor:
    """Looks at everything.  `stuck`: segments that could not be hidden; they count as open, so that others leave."""

    def __init__(
        self,
        room: Room,
        census: Census,
        nodes: NodesDirectory,
        uses: LastUses,
        pins: PinFolder,
        limits: Limits,
        retention_of: RetentionOf,
    ) -> None:
        self.census = census
        self.nodes = nodes
        self.limits = limits
        self.stuck: set[str] = set()
        self._room = room
        self._uses = uses
        self._pins = pins
        self._retention_of = retention_of
        self._last_uses: dict[tuple[str, str], LastUse] = {}
        self._asked_ns = 0
        self._past = Past(Look(0, 0, ()))
        self._reused: frozenset[VersionKey] = frozenset()

    def take(self, *, is_whole: bool) -> Survey:
        """Everything as it is now.  `is_whole`: however long it takes to look; else what is known of it.

        BackingError if something that was never seen cannot be looked at.
        """
        look = self.nodes.look()
        uses = look.uses()
        while (scan := self.census.scan(look.now_ns)).since_ns is None and is_whole:
            if scan.trouble:
                raise BackingError(f"the backing directory cannot be looked through: {scan.trouble}")
        held_generations, pins = self.census.generations(), self._pins.all()
        self._learn_uses(look.now_ns, {held.key[:2] for held in held_generations})
        self._past.note(look)  # after what may fail: who looks again has to know since when something was seen
        generations = [self._generation(held) for held in held_generations]
        versions = cached_versions(
            generations,
            uses,
            [replace(use, used_ns=self._past.time_ns(names, use.used_ns)) for names, use in self._last_uses.items()],
            pins,
            self._retention_of,
            look.now_ns,
            reused=self._reused,
        )
        self._reused = frozenset(version.key for version in versions if version.is_reused)
        account = self._room.account.count_if_unknown()
        room = self._room_now(account)
        allotted = allotments(versions, room, self._retention_of, look.now_ns)
        ahead = Amount(foreseen(versions, allotted, uses.speeds(), self.limits.horizon_s))
        by_key = {version.key: version for version in versions}
        seen_ns, unseen = scan.since_ns, _unseen(scan)
        return Survey(look, uses, by_key, room, account, allotted, ahead, uses.unknown, seen_ns, unseen)

    def _generation(self, held: HeldGeneration) -> CachedGeneration:
        placed_ns = self._past.time_ns(held.key, held.placed_ns)
        return CachedGeneration(held.key, held.size_bytes, held.held, held.is_current, held.made_ns, placed_ns)

    def judge(self, survey: Survey, need: Amount) -> Iterator[Verdict]:
        """What has to leave so that there is room for `need`, and for what is ahead; then what stays."""
        return judge(
            survey.versions,
            lambda key: self._segments_of(key, survey),
            survey.room,
            self._retention_of,
            survey.allotted,
            survey.now_ns,
            need=need + survey.ahead,
            unknown=survey.unknown,
        )

    def may_leave(self, survey: Survey, verdict: Verdict) -> bool:
        """Whether nobody has pinned the version, or told of another use of it, since; asks the server.

        What is in use leaves for others that are in use, too.
        """
        dataset, version, _ = verdict.key
        if survey.by_key[verdict.key].is_current and self._pins.all().until_ns(dataset, version) > survey.now_ns:
            return False
        if survey.idle_s(verdict.key) <= ACTIVE_S:
            return True
        known = self._last_uses.get((dataset, version))
        told = self._uses.of([(dataset, version)])
        is_as_known = told.get((dataset, version), 0) <= (known.used_ns if known else 0)
        if not is_as_known:
            self._asked_ns = 0  # the next survey is to know, or the same version would stop it again
        return is_as_known

    def _learn_uses(self, now_ns: int, cached: Collection[tuple[str, str]]) -> None:
        """All last uses, no more often than nodes tell them: that is a request for each version."""
        if not 0 <= now_ns - self._asked_ns < TOLD_EVERY_S * 1e9:
            self._last_uses = {(use.dataset, use.version): use for use in self._uses.all(cached)}
            self._asked_ns = now_ns

    def _segments_of(self, key: VersionKey, survey: Survey) -> Iterator[CachedSegment]:
        for held in self.census.segments_of(key):
            is_open = held.identity in self.stuck or survey.uses.is_open(held.identity, (key, *held.others))
            yield CachedSegment(held.identity, held.size_bytes, held.inodes, held.used_ns, is_open, held.others)

    def _room_now(self, account: Account) -> Capacity:
        limits, there = self.limits, self._room.there()
        return Capacity(
            limits.limit_bytes,
            limits.high_bytes,
            limits.low_bytes,
            used=account.total,
            leaving=sum((trashed.taken for trashed in self.census.trash()), Amount()),
            free=there.free,
            floor=there.floor,
        )


def _unseen(scan: Scan) -> str:
    if scan.trouble:
        return f"{'not all' if scan.since_ns else 'nothing'} leaves: {scan.trouble}"
    if scan.unknown:
        return f"what belongs to no version stays: {scan.unknown[0]} cannot be understood, and may have any of it"
    return ""
