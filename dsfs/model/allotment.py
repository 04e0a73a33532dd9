"""How much of the backing directory each version in use may hold, and whether a run may be filled.

Who may have room, in this order: pinned versions; versions in use whose bytes were read again, in equal shares, and
where one needs less than its share the others have the rest; then versions in use that nothing is known of yet.  Those
may be read once and never again (`grep -r`): what is worked with does not make room for them, but for a small part.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from typing import TypeVar

from dsfs.model.nodes import VersionKey
from dsfs.model.retention import Amount, CachedVersion, Retention, Room

# Of the limit, for all versions in use together that nothing is known of yet.  bench/simulate: a scan costs what is
# worked with as much as this.
PROBATION = 0.03

K = TypeVar("K", bound=Hashable)
RetentionOf = Callable[[str], Retention]


class Refusal(Enum):
    """Why a run is passed through to its reader, and not filled."""

    LIMIT = "limit"
    FLOOR = "floor"
    SHARE = "share"


def refusal(run: Amount, held_bytes: int, allotted_bytes: int, room: Room) -> Refusal | None:
    """What speaks against filling a run of a version that holds so much and is allotted so much; None: nothing.

    `room` counts what is reserved as used.
    """
    if room.used.size_bytes + run.size_bytes > room.limit_bytes:
        return Refusal.LIMIT
    if not (room.free - run).covers(room.floor):
        return Refusal.FLOOR
    return Refusal.SHARE if held_bytes + run.size_bytes > allotted_bytes else None


def allotments(
    versions: Iterable[CachedVersion], room: Room, retention_of: RetentionOf, now_ns: int
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

    pinned = {v.key: wanted[v.key] for v in active if v.is_pinned(now_ns)}
    known = {v.key: wanted[v.key] for v in active if v.is_reused and v.key not in pinned}
    unknown = {v.key: wanted[v.key] for v in active if v.key not in pinned and v.key not in known}

    for_pinned = _shares(pinned, max(0, room.limit_bytes - fixed.total()))
    left = max(0, room.limit_bytes - fixed.total() - sum(for_pinned.values()))
    probation = min(left, int(room.limit_bytes * PROBATION), sum(unknown.values()))
    for_known = _shares(known, left - probation)
    left -= sum(for_known.values())
    if protected:  # above the high watermark it would leave, little by little
        left -= protected + room.limit_bytes - room.low_bytes
    return for_pinned | for_known | _shares(unknown, max(probation, left))


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
