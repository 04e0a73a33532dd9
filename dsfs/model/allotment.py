"""How much of the backing directory each version in use may hold.

Who may have room, in this order: pinned versions; those whose bytes were read again; those that were used before; new
ones.  Versions of one standing have equal shares, and what one does not need the others have.  A new one may be read
once and never again (`grep -r`): what is worked with makes room for it in a small part only, also what is not in use.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from typing import TypeVar

from dsfs.model.nodes import VersionKey
from dsfs.model.retention import CachedVersion, Capacity, Retention

# Of the limit, for all versions in use together whose bytes were not read again: as much as a scan costs what is worked
# with (bench/simulate).
PROBATION = 0.03

K = TypeVar("K", bound=Hashable)
RetentionOf = Callable[[str], Retention]


class Refusal(Enum):
    """Why a run is passed through to its reader, and not filled."""

    LIMIT = "limit"
    FLOOR = "floor"
    SHARE = "share"


def allotments(
    versions: Iterable[CachedVersion], room: Capacity, retention_of: RetentionOf, now_ns: int
) -> dict[VersionKey, int]:
    """Bytes that each version in use may hold.  Together they are no more than the limit, but for what is pinned."""
    fixed: Counter[str] = Counter()  # by dataset: pinned and not in use
    protected = 0
    active: list[CachedVersion] = []
    for version in versions:
        if version.is_active(now_ns):
            active.append(version)
        elif version.is_pinned(now_ns):
            fixed[version.dataset] += version.held.size_bytes
        elif version.is_protected(retention_of(version.dataset), now_ns):
            protected += version.held.size_bytes
    wanted = _within_datasets(active, fixed, retention_of)

    def of(standing: "_Standing") -> dict[VersionKey, int]:
        return {v.key: wanted[v.key] for v in active if _standing(v, now_ns) is standing}

    left = max(0, room.limit_bytes - fixed.total())
    pinned = _shares(of(_Standing.PINNED), left)
    left -= sum(pinned.values())
    others = of(_Standing.KNOWN) | of(_Standing.NEW)
    probation = min(left, int(room.limit_bytes * PROBATION), sum(others.values()))
    reused = _shares(of(_Standing.REUSED), left - probation)
    left -= sum(reused.values())
    known = _shares(of(_Standing.KNOWN), left)
    left -= sum(known.values())
    # What is protected leaves, little by little, when the high watermark is passed: so new ones stay below the low one.
    beside = left - protected - (room.limit_bytes - room.low_bytes) if protected else left
    new = _shares(of(_Standing.NEW), max(min(left, probation), beside))
    return pinned | reused | known | new


def foreseen(
    versions: Iterable[CachedVersion],
    allotted: Mapping[VersionKey, int],
    bytes_per_s: Mapping[VersionKey, float],
    horizon_s: float,
) -> int:
    """Bytes that versions in use will fill within so many seconds, at the rates at which they are read.

    What leaves takes room until the grace is over: so room has to be made for as long ahead, or what is read meanwhile
    is passed through.
    """
    return sum(
        min(max(0, allotted[version.key] - version.held.size_bytes), round(bytes_per_s[version.key] * horizon_s))
        for version in versions
        if version.key in allotted and version.key in bytes_per_s
    )


class _Standing(Enum):
    """What is known of a version in use."""

    PINNED = "pinned"
    REUSED = "its bytes were read again"
    KNOWN = "it was used before"
    NEW = "nothing"


def _standing(version: CachedVersion, now_ns: int) -> _Standing:
    if version.is_pinned(now_ns):
        return _Standing.PINNED
    if version.is_reused:
        return _Standing.REUSED
    return _Standing.KNOWN if version.is_known else _Standing.NEW


def _within_datasets(
    active: list[CachedVersion], fixed: Mapping[str, int], retention_of: RetentionOf
) -> dict[VersionKey, int]:
    """What each would hold if there were nothing but its dataset, and that one's max_share."""
    sizes: dict[str, dict[VersionKey, int]] = {}
    for version in active:
        sizes.setdefault(version.dataset, {})[version.key] = version.size_bytes
    wanted: dict[VersionKey, int] = {}
    for dataset, of_dataset in sizes.items():
        wanted |= _shares(of_dataset, max(0, retention_of(dataset).most_bytes - fixed[dataset]))
    return wanted


def _shares(wanted: Mapping[K, int], room: int) -> dict[K, int]:
    """The room in equal shares; what one does not want the others have."""
    shares: dict[K, int] = {}
    # Who wants least comes first.  What is left over of a division goes to nobody.
    for count, key in zip(range(len(wanted), 0, -1), sorted(wanted, key=wanted.__getitem__), strict=True):
        shares[key] = min(wanted[key], room // count)
        room -= shares[key]
    return shares
