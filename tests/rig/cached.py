"""Cached versions, for tests of what leaves the cache."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dsfs.model.nodes import VersionKey
from dsfs.model.retention import NOTHING, Amount, CachedSegment, CachedVersion, Capacity, Retention

NOW_NS = 10**18
FOR_EVER_NS = 2**63 - 1
PLENTY = Amount(2**62, 2**62)
HOUR_S, DAY_S = 3600.0, 86_400.0
WEEK = Retention(stale_after_s=7 * DAY_S, keep_newest=1, most_bytes=2**62)


def key(name: str, version: str = "v1") -> VersionKey:
    return name, version, "g"


def ago(seconds: float) -> int:
    return NOW_NS - round(seconds * 1e9)


def version(
    name: str,
    held: int,
    *,
    number: str = "v1",
    size: int | None = None,
    idle_s: float = HOUR_S,
    users: Iterable[str] = (),
    uses: float = 1,
    is_reused: bool = False,
    newer: int = 0,
    is_current: bool = True,
    pinned_until_ns: int = 0,
) -> CachedVersion:
    """A version of which `held` segments of one byte each are there, of `size` (by default all)."""
    return CachedVersion(
        key(name, number),
        held if size is None else size,
        Amount(held, 2 * held),
        ago(idle_s),
        dict.fromkeys(users, ago(idle_s)),
        uses,
        is_reused,
        newer,
        is_current,
        pinned_until_ns,
    )


def room(limit: int, used: int, *, leaving: int = 0, free: Amount = PLENTY, floor: Amount = NOTHING) -> Capacity:
    """With the watermarks at 90 % and 80 %."""
    return Capacity(limit, limit * 9 // 10, limit * 8 // 10, Amount(used), Amount(leaving), free, floor)


@dataclass
class Segments:
    """The segments of versions; it remembers which versions were asked for."""

    of: Mapping[VersionKey, list[CachedSegment]]
    asked: list[VersionKey] = field(default_factory=list)

    def __call__(self, wanted: VersionKey) -> list[CachedSegment]:
        self.asked.append(wanted)
        return self.of[wanted]


def single_bytes(versions: Iterable[CachedVersion]) -> Segments:
    """As many segments of one byte as each version holds, none shared, none open."""
    return Segments(
        {
            v.key: [
                CachedSegment("/".join((*v.key, f"{place:06}")), 1, 2, v.used_ns, is_open=False)
                for place in range(v.held.size_bytes)
            ]
            for v in versions
        }
    )
