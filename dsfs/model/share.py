"""Shares: how much of the backing directory each version in use may hold, as whoever evicts tells all nodes, and what
one node may fill of that.

A node knows what was held when it was counted, and what it has filled itself since.  What others fill meanwhile it does
not see: so what is left is cut in equal parts for the nodes that use the version.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from dsfs.model.document import decode, encode
from dsfs.model.nodes import Uses, VersionKey
from dsfs.model.retention import CachedVersion

FORMAT = 1
MOST_BYTES = 4 * 1024 * 1024
MOST_VERSIONS = 1000
BELIEVED_S = 900.0  # shares that nobody has counted anew for so long say nothing any more


@dataclass(frozen=True, slots=True)
class Share:
    """Of one version: `nodes` use it, and together it may hold `allotted_bytes` (see allotment.py)."""

    dataset: str
    version: str
    generation: str
    allotted_bytes: int
    held_bytes: int
    nodes: int

    @property
    def key(self) -> VersionKey:
        return self.dataset, self.version, self.generation

    @property
    def left_bytes(self) -> int:
        return self.allotted_bytes - self.held_bytes


@dataclass(frozen=True, slots=True)
class Shares:
    """All versions in use when it was counted what they hold, by the server's clock."""

    counted_ns: int
    versions: tuple[Share, ...]

    def are_over(self, now_ns: int) -> bool:
        return now_ns - self.counted_ns > BELIEVED_S * 1e9


def shares_of(
    versions: Iterable[CachedVersion], allotted: Mapping[VersionKey, int], uses: Uses, counted_ns: int
) -> Shares:
    """The shares of versions in use that may not be there wholly; of too many, of those that have the least left."""
    shares = []
    for version in versions:
        if allotted.get(version.key, version.size_bytes) < version.size_bytes:
            nodes = len(uses.versions.get(version.key, ()))
            shares.append(Share(*version.key, allotted[version.key], version.held.size_bytes, max(1, nodes)))
    return Shares(counted_ns, tuple(sorted(shares, key=lambda share: share.left_bytes)[:MOST_VERSIONS]))


def content_of(shares: Shares) -> bytes:
    """The file of shares."""
    return encode(shares, FORMAT)


def shares_in(content: bytes) -> Shares:
    """What the file says; ValueError, with the reason, if it cannot be understood."""
    return decode(Shares, content, FORMAT, MOST_BYTES)


@dataclass(slots=True)
class Fillings:
    """What this node has filled of each version, by when, and may fill yet.  Times are seconds of its own clock."""

    _lately: Counter[VersionKey] = field(default_factory=Counter)  # since it looked last at the shares
    _before: deque[tuple[float, Counter[VersionKey]]] = field(default_factory=deque)  # between two looks, until then
    _shares: dict[VersionKey, tuple[Share, int]] = field(default_factory=dict)  # with what was filled until that look

    def note(self, key: VersionKey, size_bytes: int) -> None:
        """So much is filled just now; negative: was not filled after all."""
        self._lately[key] += size_bytes

    def learn(self, shares: Iterable[Share], counted_s: float, now_s: float) -> None:
        """These are the shares; what versions hold was counted at that moment."""
        self._before.append((now_s, self._lately))
        self._lately = Counter()
        while now_s - self._before[0][0] > BELIEVED_S:
            self._before.popleft()
        since: Counter[VersionKey] = Counter()
        for until_s, filled in self._before:
            if until_s > counted_s:
                since.update(filled)
        self._shares = {share.key: (share, since[share.key]) for share in shares}

    def share(self, key: VersionKey) -> Share | None:
        """That of the version, with what this node has filled since; None: there is none, and no limit."""
        if key not in self._shares:
            return None
        share, since = self._shares[key]
        return replace(share, held_bytes=share.held_bytes + since + self._lately[key])

    def has_room(self, key: VersionKey, size_bytes: int) -> bool:
        """Whether so much more of the version may be filled by this node."""
        if key not in self._shares:
            return True
        share, since = self._shares[key]
        return since + self._lately[key] + size_bytes <= share.left_bytes // share.nodes
