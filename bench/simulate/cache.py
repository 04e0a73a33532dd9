"""A cache that asks the policy of dsfs: what the daemons will do, without files and without other nodes.

What leaves, what each version may hold and what room is wanted ahead are the daemon's own functions.  A model is what a
node does in between: its grants (model/account.py) are as if each were of one segment, and its shares (model/share.py)
as if one node knew what all have filled.

The evictor's round and the node's look at the shares come every ROUND_S.  What leaves is hidden at once and takes room
until the grace is over.
"""

from collections import deque
from dataclasses import dataclass, field

from bench.simulate.traces import Read, Trace
from dsfs.model.allotment import allotments, foreseen
from dsfs.model.eviction import judge
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import Amount, CachedSegment, CachedVersion, Capacity, Retention
from dsfs.model.reuse import Sample, another_use, is_reused

SEGMENT_BYTES = 32 << 20
ROUND_S = 60.0
GRACE_S = 600.0
STALE_AFTER_S = 7 * 86_400.0
START_NS = 10**18
_INODES = 10**9


@dataclass
class _Version:
    """What nodes and evictor know of a version."""

    key: VersionKey
    segments: int
    newer: int
    resident: dict[int, float] = field(default_factory=dict)  # segment -> last use
    used_s: float = -1e9
    open_since_s: list[float] = field(default_factory=list)
    read_bytes: int = 0
    told_bytes: int = 0
    sample: Sample = field(default_factory=Sample)
    is_reused: bool = False
    uses: float = 0.0

    def seen(self) -> CachedVersion:
        count = len(self.resident)
        return CachedVersion(
            self.key,
            self.segments * SEGMENT_BYTES,
            Amount(count * SEGMENT_BYTES, 2 * count),
            _ns(self.used_s),
            {"node": _ns(min(self.open_since_s))} if self.open_since_s else {},
            uses=self.uses,
            is_reused=self.is_reused,
            newer=self.newer,
            is_current=True,
        )


class Cache:
    """`run` says for each read of the trace whether it is a hit.  `capacity`: the limit, in segments."""

    def __init__(
        self, trace: Trace, capacity: int, *, high: float = 0.9, low: float = 0.8, keep_newest: int = 1
    ) -> None:
        self._trace = trace
        self._limit = capacity * SEGMENT_BYTES
        self._high, self._low = int(self._limit * high), int(self._limit * low)
        self._retention = Retention(STALE_AFTER_S, keep_newest, self._limit)
        self._versions = [
            _Version((f"d{i}", "v", "g"), segments, newer)
            for i, (segments, newer) in enumerate(zip(trace.sizes, trace.newer, strict=True))
        ]
        self._by_key = {version.key: version for version in self._versions}
        self._round_s = trace.reads[0].at_s
        self._allotted: dict[VersionKey, int] = {}
        self._leaving: deque[tuple[float, int]] = deque()  # until when, how many segments
        self._used = 0  # segments, with those that are leaving
        self.most_used = 0

    def run(self) -> bytearray:
        hits = bytearray(len(self._trace.reads))
        opened = deque(sorted((job.start_s, job.version) for job in self._trace.jobs))
        closed = deque(sorted((job.end_s, job.start_s, job.version) for job in self._trace.jobs))
        next_round_s = self._trace.reads[0].at_s
        for place, read in enumerate(self._trace.reads):
            while closed and closed[0][0] < read.at_s:
                _, start_s, version = closed.popleft()
                self._versions[version].open_since_s.remove(start_s)
            is_news = False
            while opened and opened[0][0] <= read.at_s:
                start_s, version = opened.popleft()
                self._open(self._versions[version], start_s)
                is_news = True
            if is_news or read.at_s >= next_round_s:
                self._round(read.at_s)
                next_round_s = read.at_s + ROUND_S
            hits[place] = self._read(self._versions[read.version], read)
        return hits

    def _open(self, version: _Version, now_s: float) -> None:
        seen = version.seen()
        if not seen.is_active(_ns(now_s)):
            version.is_reused &= now_s - version.used_s <= self._retention.lately_s
            version.read_bytes, version.told_bytes, version.sample = 0, 0, Sample()
            version.uses = another_use(version.uses, now_s - version.used_s)
        version.open_since_s.append(now_s)

    def _read(self, version: _Version, read: Read) -> bool:
        version.used_s = read.at_s
        version.read_bytes += SEGMENT_BYTES
        version.sample.note(read.segment * 0x9E3779B1 % 2**32, read.at_s)
        is_hit = read.segment in version.resident
        if not is_hit:
            if not self._is_filled(version):
                return False
            self._used += 1
            self.most_used = max(self.most_used, self._used)
        version.resident[read.segment] = read.at_s
        return is_hit

    def _is_filled(self, version: _Version) -> bool:
        """Whether one segment more is filled, and not passed through to its reader."""
        held_bytes = (len(version.resident) + 1) * SEGMENT_BYTES
        return (self._used + 1) * SEGMENT_BYTES <= self._limit and held_bytes <= self._allotted.get(version.key, 0)

    def _round(self, now_s: float) -> None:
        while self._leaving and self._leaving[0][0] <= now_s:
            self._used -= self._leaving.popleft()[1]
        for version in self._versions:
            if version.open_since_s:
                size_bytes = version.segments * SEGMENT_BYTES
                version.is_reused |= is_reused(size_bytes, version.read_bytes, version.sample.again)
        now_ns = _ns(now_s)
        seen = self._seen()
        room, retention_of = self._room(), lambda dataset: self._retention
        self._allotted = allotments(seen, room, retention_of, now_ns)
        need = Amount(foreseen(seen, self._allotted, self._rates(now_s), GRACE_S + ROUND_S))
        for verdict in judge(seen, self._segments, room, retention_of, self._allotted, now_ns, need=need):
            if not verdict.segments:
                break  # what stays comes last
            version = self._by_key[verdict.key]
            for identity in verdict.segments:
                del version.resident[int(identity)]
            self._leaving.append((now_s + GRACE_S, len(verdict.segments)))

    def _rates(self, now_s: float) -> dict[VersionKey, float]:
        """Bytes a second since the last round."""
        seconds = max(1.0, now_s - self._round_s)
        self._round_s = now_s
        rates = {}
        for version in self._versions:
            if version.open_since_s:
                rates[version.key] = (version.read_bytes - version.told_bytes) / seconds
                version.told_bytes = version.read_bytes
        return rates

    def _seen(self) -> list[CachedVersion]:
        return [v.seen() for v in self._versions if v.resident or v.open_since_s]

    def _segments(self, key: VersionKey) -> list[CachedSegment]:
        return [
            CachedSegment(f"{segment:08}", SEGMENT_BYTES, 2, _ns(used_s), is_open=False)
            for segment, used_s in self._by_key[key].resident.items()
        ]

    def _room(self) -> Capacity:
        leaving = sum(count for _, count in self._leaving)
        return Capacity(
            self._limit,
            self._high,
            self._low,
            used=Amount(self._used * SEGMENT_BYTES, 2 * self._used),
            leaving=Amount(leaving * SEGMENT_BYTES, 2 * leaving),
            free=Amount(self._limit, _INODES),
            floor=Amount(),
        )


def _ns(at_s: float) -> int:
    return START_NS + round(at_s * 1e9)
