"""What one round of the evictor takes where much is cached: the policy alone, without reading what it judges."""

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

from dsfs.model.allotment import allotments
from dsfs.model.eviction import judge
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import NOTHING, Amount, CachedSegment, CachedVersion, Capacity, Retention

VERSIONS, SEGMENTS = 10_000, 1_000_000
_DAY_NS = 86_400 * 10**9
_NOW_NS = 1000 * _DAY_NS
_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Round:
    """`peak_bytes`: of the policy's own memory; `leaves`: segments."""

    seconds: float
    peak_bytes: int
    leaves: int


def measure(stale_after_s: float, versions: int = VERSIONS, segments: int = SEGMENTS) -> Round:
    """A directory that is full, in which a version was used every six minutes; memory in a second round, which is
    slower."""
    started_s = time.perf_counter()
    leaves = _round(stale_after_s, versions, segments // versions)
    seconds = time.perf_counter() - started_s
    tracemalloc.start()
    _round(stale_after_s, versions, segments // versions)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Round(seconds, peak_bytes, leaves)


def _round(stale_after_s: float, versions: int, segments: int) -> int:
    seen = [
        CachedVersion(
            (f"dataset-{i // 10:04}", f"v{i % 10}", "0123456789abcdef"),
            segments * _BYTES,
            Amount(segments * _BYTES, 2 * segments),
            _NOW_NS - i * 360 * 10**9,
            users={},
            uses=1 + i % 3,
            is_reused=bool(i % 2),
            newer=9 - i % 10,
            is_current=True,
        )
        for i in range(versions)
    ]

    def segments_of(key: VersionKey) -> Iterator[CachedSegment]:
        for i in range(segments):
            yield CachedSegment(f"{key[0]}{key[1]}{i:030}", _BYTES, 2, _NOW_NS - i * _DAY_NS // 10, is_open=False)

    used = Amount(versions * segments * _BYTES, 2 * versions * segments)
    limit = used.size_bytes
    room = Capacity(limit, limit * 9 // 10, limit * 8 // 10, used, NOTHING, used, NOTHING)
    retention = Retention(stale_after_s, 0, limit)
    allotted = allotments(seen, room, lambda _: retention, _NOW_NS)
    # Each verdict is acted upon, and forgotten, before the next.
    verdicts = judge(seen, segments_of, room, lambda _: retention, allotted, _NOW_NS)
    return sum(len(verdict.segments) for verdict in verdicts)
