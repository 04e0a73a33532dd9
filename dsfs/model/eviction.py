"""What leaves the cache, in which order and why, and what stays and why.

The evictor, `dsfs evict --dry-run` and bench/simulate ask the same function, `judge`.  The order of its rules is that
of the README ("How the cache decides").
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from dsfs.model.allotment import RetentionOf
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import NOTHING, Amount, CachedSegment, CachedVersion, Capacity
from dsfs.model.reuse import worth_ns

# Segments of one version used within the same stretch of time are equally old.  Finer, the order would be that in which
# the next epoch wants them.
SAME_AGE_NS = 86_400 * 10**9

SegmentsOf = Callable[[VersionKey], Iterable[CachedSegment]]


class Rule(Enum):
    """Why a version leaves, or stays."""

    SUPERSEDED = "an older generation"
    STALE = "stale"
    MAX_SHARE = "its dataset holds more than max_share"
    LEAST_USED = "used least of late"
    FAIR_SHARE = "holds more than its share, and others in use want it"

    UNKNOWN_NODES = "nodes of which it is unknown may use it"
    PINNED = "pinned"
    IN_USE = "in use"
    NEWEST = "the newest of its dataset"
    SHARED = "what is left of it belongs to others, or is open"
    ROOM = "not stale, and there is room"
    OVERTAKEN = "not any more: this or one before it came into use meanwhile"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a version, or of some of its segments.

    `amount`: what leaves with `segments`, or without any, what stays.  `nodes`: who uses it, or may; since `since_ns`
    (0: unknown).
    """

    key: VersionKey
    rule: Rule
    amount: Amount
    segments: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    since_ns: int = 0
    until_ns: int = 0


def judge(
    versions: Sequence[CachedVersion],
    segments_of: SegmentsOf,
    room: Capacity,
    retention_of: RetentionOf,
    allotted: Mapping[VersionKey, int],
    now_ns: int,
    *,
    need: Amount = NOTHING,
    unknown: frozenset[str] = frozenset(),
) -> Iterator[Verdict]:
    """First what has to leave, in this order; then what stays.

    `allotted`: what `allotments` says of the same versions and moment.  `need`: so much shall have room below the high
    watermark.  `unknown`: nodes that may use anything.  A version's segments are asked for when it is chosen, not
    before, so whoever acts upon a verdict at once holds the segments of one version only.  (Those of older generations
    also where their dataset may hold too much, one version after the other.)
    """
    if unknown:
        for version in sorted(versions, key=_by_key):
            rule = Rule.PINNED if version.is_pinned(now_ns) else Rule.UNKNOWN_NODES
            yield _stays(version, rule, version.held, now_ns, unknown)
        return
    plan = _Plan(segments_of, room, need, _held(versions, segments_of, retention_of))
    movable = [version for version in versions if not version.is_pinned(now_ns)]
    idle = [version for version in movable if not version.is_active(now_ns)]
    for version, rule in sorted(_unwanted(idle, retention_of, now_ns), key=lambda found: _by_use(found[0])):
        yield from plan.remove(version, rule)

    order = _order(movable, allotted, retention_of, now_ns)
    for dataset, held_bytes in sorted(plan.held.items()):
        excess = Amount(held_bytes - retention_of(dataset).most_bytes)
        for turn in order if excess.size_bytes > 0 else ():
            if turn.version.dataset == dataset:
                left = excess - Amount(held_bytes - plan.held[dataset])
                yield from plan.remove(turn.version, Rule.MAX_SHARE, left, turn.most_bytes)
    for turn in order:
        missing = plan.missing(is_spare=turn.is_spare)
        yield from plan.remove(turn.version, turn.rule, missing, turn.most_bytes)

    for version in sorted(versions, key=_by_key):
        held = version.held - plan.removed.get(version.key, NOTHING)
        if held.covers(Amount(1)):
            yield _stays(version, _why(version, version.key in plan.gone, retention_of, now_ns), held, now_ns)


def _held(versions: Sequence[CachedVersion], segments_of: SegmentsOf, retention_of: RetentionOf) -> "Counter[str]":
    """Bytes that each dataset holds; what its generations share counts once, where it might be too much."""
    held, current = Counter[str](), set[VersionKey]()
    for version in versions:
        held[version.dataset] += version.held.size_bytes
        if version.is_current:
            current.add(version.key)
    for version in versions:
        if version.is_current or held[version.dataset] <= retention_of(version.dataset).most_bytes:
            continue
        for segment in segments_of(version.key):
            of_dataset = (other for other in segment.others if other[0] == version.dataset)
            if any(other in current or other > version.key for other in of_dataset):
                held[version.dataset] -= segment.size_bytes
    return held


def _by_key(version: CachedVersion) -> VersionKey:
    return version.key


def _by_use(version: CachedVersion) -> tuple[int, VersionKey]:
    return version.used_ns, version.key


def _by_worth(version: CachedVersion) -> tuple[int, VersionKey]:
    return worth_ns(version.used_ns, version.uses), version.key


def _unwanted(
    idle: Iterable[CachedVersion], retention_of: RetentionOf, now_ns: int
) -> Iterator[tuple[CachedVersion, Rule]]:
    """What leaves also where there is room."""
    for version in idle:
        retention = retention_of(version.dataset)
        if not version.is_current:
            yield version, Rule.SUPERSEDED
        elif version.idle_s(now_ns) > retention.stale_after_s and version.newer >= retention.keep_newest:
            yield version, Rule.STALE


@dataclass(frozen=True, slots=True)
class _Turn:
    """A version that may have to leave for want of room.

    `is_spare`: down to the low watermark, others to the high one only.  `most_bytes`: no more of it than that.
    """

    version: CachedVersion
    rule: Rule
    is_spare: bool = False
    most_bytes: int | None = None


def _order(
    movable: Iterable[CachedVersion], allotted: Mapping[VersionKey, int], retention_of: RetentionOf, now_ns: int
) -> list[_Turn]:
    """In which order versions leave for want of room, those of one standing by their worth."""
    turns = []
    for version in movable:
        retention = retention_of(version.dataset)
        worth = _by_worth(version)
        is_stale = version.idle_s(now_ns) > retention.stale_after_s
        if version.is_active(now_ns):
            excess = version.held.size_bytes - allotted[version.key]
            if excess > 0:
                turns.append(((3, *worth), _Turn(version, Rule.FAIR_SHARE, most_bytes=excess)))
        elif version.is_protected(retention, now_ns):
            turns.append(((2, *worth), _Turn(version, Rule.LEAST_USED)))
        elif version.newer < retention.keep_newest and not is_stale:
            turns.append(((1, *worth), _Turn(version, Rule.LEAST_USED)))
        else:
            turns.append(((0, *worth), _Turn(version, Rule.LEAST_USED, is_spare=True)))
    return [turn for _, turn in sorted(turns, key=lambda found: found[0])]


def _why(version: CachedVersion, is_gone: bool, retention_of: RetentionOf, now_ns: int) -> Rule:
    """Why what is left of a version stays."""
    retention = retention_of(version.dataset)
    if version.is_pinned(now_ns):
        return Rule.PINNED
    if version.is_active(now_ns):
        return Rule.IN_USE
    if is_gone:
        return Rule.SHARED
    return Rule.NEWEST if version.idle_s(now_ns) > retention.stale_after_s else Rule.ROOM


def _stays(
    version: CachedVersion, rule: Rule, held: Amount, now_ns: int, unknown: frozenset[str] = frozenset()
) -> Verdict:
    return Verdict(
        version.key,
        rule,
        held,
        nodes=tuple(sorted(unknown or version.users)),
        since_ns=min(version.users.values(), default=0),
        until_ns=version.pinned_until_ns if version.is_pinned(now_ns) else 0,
    )


@dataclass(slots=True)
class _Plan:
    """What has been chosen so far.  `held`: what is left, by dataset.  `gone`: versions that were chosen whole."""

    segments_of: SegmentsOf
    room: Capacity
    need: Amount
    held: "Counter[str]"
    gone: set[VersionKey] = field(default_factory=set)
    removed: dict[VersionKey, Amount] = field(default_factory=dict)
    _total: Amount = NOTHING
    _taken: dict[VersionKey, set[str]] = field(default_factory=dict)  # of those that were not chosen whole

    def missing(self, *, is_spare: bool) -> Amount:
        return self.room.missing(self.need, self._total, is_spare=is_spare)

    def remove(
        self, version: CachedVersion, rule: Rule, missing: Amount | None = None, most_bytes: int | None = None
    ) -> Iterator[Verdict]:
        """Of a version what is missing, least recently used first, up to `most_bytes`; or all."""
        if version.key in self.gone or (missing is not None and NOTHING.covers(missing)):
            return
        if version.held == NOTHING:
            self.gone.add(version.key)  # its segments are not asked for: of most versions nothing is there
            return
        if most_bytes is not None:
            most_bytes -= self.removed.get(version.key, NOTHING).size_bytes
        taken = self._taken.get(version.key, ())
        found = [
            segment
            for segment in self.segments_of(version.key)
            if not segment.is_open and self.gone.issuperset(segment.others) and segment.identity not in taken
        ]
        chosen = _enough(found, missing, most_bytes) if missing is not None else found
        if most_bytes is None and len(chosen) == len(found):
            self.gone.add(version.key)
        else:
            self._taken[version.key] = {*taken, *(segment.identity for segment in chosen)}
        if chosen:
            amount = _amount(chosen)
            self._total += amount
            self.held[version.dataset] -= amount.size_bytes
            self._note_removed(version.key, amount)
            for segment in chosen:
                for other in segment.others:
                    self._note_removed(other, Amount(segment.size_bytes, segment.inodes))
                for dataset in {key[0] for key in segment.others} - {version.dataset}:
                    self.held[dataset] -= segment.size_bytes
            yield Verdict(version.key, rule, amount, tuple(segment.identity for segment in chosen))

    def _note_removed(self, key: VersionKey, amount: Amount) -> None:
        self.removed[key] = self.removed.get(key, NOTHING) + amount


def _enough(found: list[CachedSegment], missing: Amount, most_bytes: int | None) -> list[CachedSegment]:
    """No more segments than make up for what is missing, or reach `most_bytes`."""
    if most_bytes is None and missing.covers(_amount(found)):
        return found
    chosen, size_bytes, inodes = [], 0, 0
    for segment in sorted(found, key=lambda segment: (segment.used_ns // SAME_AGE_NS, segment.identity)):
        is_reached = size_bytes >= missing.size_bytes and inodes >= missing.inodes
        if is_reached or (most_bytes is not None and size_bytes >= most_bytes):
            break
        chosen.append(segment)
        size_bytes += segment.size_bytes
        inodes += segment.inodes
    return chosen


def _amount(segments: Iterable[CachedSegment]) -> Amount:
    size_bytes, inodes = 0, 0
    for segment in segments:
        size_bytes += segment.size_bytes
        inodes += segment.inodes
    return Amount(size_bytes, inodes)
