"""What who evicts found and did in its last round, for all nodes to show: how much of each version is there, what is
leaving, and what is wrong.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from dsfs.model.document import decode, encode
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import CachedVersion

FORMAT = 1
MOST_BYTES = 16 * 1024 * 1024
MOST_VERSIONS = 10_000  # with the longest names they stay below MOST_BYTES, nearly always far
BELIEVED_S = 300.0  # a standing that is older tells nothing of what is there now


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """So much of a generation's `size_bytes` is there, counted as its files take room."""

    dataset: str
    version: str
    generation: str
    held_bytes: int
    size_bytes: int

    @property
    def key(self) -> VersionKey:
        return self.dataset, self.version, self.generation


@dataclass(frozen=True, slots=True)
class Standing:
    """As it was at `counted_ns`, by the server's clock; `node`, called `host`, did the round.

    `is_whole`: a version that is not named holds nothing.  `trouble`: why nothing leaves, or is deleted, "" while that
    goes on.  `owed_bytes`: of what was deleted, what is not free yet (model/ledger.py).
    """

    counted_ns: int
    node: str
    host: str
    leaving_bytes: int
    owed_bytes: int
    trouble: str
    is_whole: bool
    versions: tuple[HeldVersion, ...]


@dataclass(frozen=True, slots=True)
class Resident:
    """What a node knows of a version: bytes of its files that are resident, and what those take."""

    size_bytes: int
    taken_bytes: int


def resident_bytes(known: Resident, held: HeldVersion | None, total_bytes: int, *, is_filled_since: bool) -> int:
    """How many bytes of a version's files are resident, of `total_bytes`, from what a node knows and what was found of
    all nodes.

    What was found counts checksums, too, and says nothing of single files: where both agree but for a fiftieth, what is
    known is right.  `is_filled_since`: the node has filled some of it since that was found.
    """
    held_bytes = held.held_bytes if held is not None else 0
    if abs(held_bytes - known.taken_bytes) * 50 <= held_bytes:
        return known.size_bytes
    found_bytes = min(total_bytes, total_bytes * held_bytes // held.size_bytes) if held and held.size_bytes else 0
    return max(found_bytes, known.size_bytes) if is_filled_since else found_bytes


def held_versions(versions: Iterable[CachedVersion], gone: Mapping[VersionKey, int]) -> tuple[HeldVersion, ...]:
    """Those of which something is there, without what of it is `gone` since; of too many, some."""
    found = (
        HeldVersion(*version.key, held_bytes, version.size_bytes)
        for version in versions
        if (held_bytes := version.held.size_bytes - gone.get(version.key, 0)) > 0
    )
    return tuple(islice(found, MOST_VERSIONS))


def content_of(standing: Standing) -> bytes:
    """The file of a standing."""
    return encode(standing, FORMAT)


def standing_in(content: bytes) -> Standing:
    """What the file says; ValueError, with the reason, if it cannot be understood."""
    return decode(Standing, content, FORMAT, MOST_BYTES)
