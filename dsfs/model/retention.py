"""What decides about the cache: how its versions are used, how much room there is, and the settings.

Times are mtimes of the file server, in ns.  Sizes are what the server has allocated, not lengths.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dsfs.model.nodes import VersionKey
from dsfs.model.reuse import KNOWN_USES

# A job opens and closes files, and pauses between its epochs: so long after its last use a version counts as in use.
ACTIVE_S = 600.0
# What was read again and again is protected so long after its last use: this part of stale_after.
LATELY = 1 / 7


@dataclass(frozen=True, slots=True)
class Amount:
    """What files take of a file system."""

    size_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.size_bytes + other.size_bytes, self.inodes + other.inodes)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.size_bytes - other.size_bytes, self.inodes - other.inodes)

    def covers(self, other: "Amount") -> bool:
        """Whether it is as much, of both."""
        return self.size_bytes >= other.size_bytes and self.inodes >= other.inodes


NOTHING = Amount()


@dataclass(frozen=True, slots=True)
class Retention:
    """How one dataset is kept.  `most_bytes`: the most that all of its versions may hold together."""

    stale_after_s: float
    keep_newest: int
    most_bytes: int

    @property
    def lately_s(self) -> float:
        return max(ACTIVE_S, self.stale_after_s * LATELY)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The backing directory: what may be used of it, and what is.

    `used`: by dsfs, with what is `leaving`: that was taken away and is deleted after the grace.  `free`: of the file
    system; it never falls below `floor`.
    """

    limit_bytes: int
    high_bytes: int
    low_bytes: int
    used: Amount
    leaving: Amount
    free: Amount
    floor: Amount

    def missing(self, need: Amount, taken: Amount, *, is_spare: bool = False) -> Amount:
        """What has to leave yet, beside what was `taken` already, so that there is room for `need` (not positive:
        nothing).

        That is so much as to get below the high watermark, and of what `is_spare`, below the low one, if the high one
        is passed.
        """
        present = self.used - self.leaving
        above = present.size_bytes + need.size_bytes - self.high_bytes
        if is_spare and present.size_bytes > self.high_bytes:
            above = max(above, present.size_bytes - self.low_bytes)
        to_floor = self.floor + need - self.free - self.leaving
        return Amount(max(above, to_floor.size_bytes), to_floor.inodes) - taken


@dataclass(frozen=True, slots=True)
class CachedVersion:
    """One generation of a version, of which something is in the backing directory.

    `size_bytes`: what all of its files would take.  `held`: what is there, with what it shares with others.
    `used_ns`: its last use on any node, or when it was filled.  `users`: the nodes that have files of it open, and
    since when.  `uses`, `is_reused`: see model/reuse; also what somebody asked for (a warm) counts as reused.
    `newer`: how many versions of the dataset are newer.  `is_current`: whether it can still be opened.
    """

    key: VersionKey
    size_bytes: int
    held: Amount
    used_ns: int
    users: Mapping[str, int]
    uses: float
    is_reused: bool
    newer: int
    is_current: bool
    pinned_until_ns: int = 0

    @property
    def dataset(self) -> str:
        return self.key[0]

    def idle_s(self, now_ns: int) -> float:
        """Since its last use; 0 while files of it are open: a mapping is read without a word."""
        return 0.0 if self.users else max(0, now_ns - self.used_ns) / 1e9

    def is_pinned(self, now_ns: int) -> bool:
        return self.pinned_until_ns > now_ns

    def is_active(self, now_ns: int) -> bool:
        """Whether it is in use, or was a moment ago."""
        return self.idle_s(now_ns) <= ACTIVE_S

    @property
    def is_known(self) -> bool:
        """Whether it was used before its last use, too."""
        return self.uses >= KNOWN_USES

    def is_protected(self, retention: Retention, now_ns: int) -> bool:
        """Whether it belongs to what is worked with, although it is not in use now: it was, and came back, lately."""
        return self.is_known and self.idle_s(now_ns) <= retention.lately_s


class CachedSegment(NamedTuple):
    """One segment of a version.  `used_ns`: its last use on any node, to the day.  `others`: the other versions that it
    is part of.  `is_open`: on any node.
    """

    identity: str
    size_bytes: int
    inodes: int
    used_ns: int
    is_open: bool
    others: tuple[VersionKey, ...] = ()
