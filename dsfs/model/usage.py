"""What a node tells the others of itself: its usage file, as a value and as the JSON in it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dsfs.model.document import decode, encode

FORMAT = 2
# Names have at most 255 bytes, and six characters for each in JSON: together they stay far below MOST_BYTES.
MOST_BYTES = 512 * 1024
MOST_VERSIONS = 100
MOST_SEGMENTS = 2048
MOST_CHARACTERS = 500  # of a message


@dataclass(frozen=True, slots=True)
class Host:
    """`nfs_unique_id`: what an administrator gave the NFS client beside the name, "" for nothing."""

    name: str
    nfs_unique_id: str


@dataclass(frozen=True, slots=True)
class Program:
    """The daemon; `run` is another one after each start."""

    run: str
    version: str
    pid: int
    mountpoint: str
    is_stopped: bool


@dataclass(frozen=True, slots=True)
class UsedVersion:
    """A version in use: now, or until a moment ago (ACTIVE_S in model/retention.py).

    `open_files`: also such that nobody reads now, and such that are only mapped.  `is_warmed`: a warm is at it.
    `since_ns`: when it came into use on this node, by the server's clock (0: that is not known); `read_bytes`, `again`:
    what was read of it since, and how much of that again (model/reuse.py).
    """

    dataset: str
    version: str
    generation: str
    open_files: int
    is_warmed: bool
    since_ns: int
    bytes_per_s: float
    read_bytes: int
    again: int

    @property
    def key(self) -> tuple[str, str, str]:
        return self.dataset, self.version, self.generation

    @property
    def is_held(self) -> bool:
        """Whether it is in use however silent that is."""
        return bool(self.open_files) or self.is_warmed


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes given to readers, those among them out of the cache, and bytes from the origin, since the start.

    `recent_*`: of them those of the last `recent_s` seconds.
    """

    read_bytes: int
    cache_bytes: int
    origin_bytes: int
    recent_s: float
    recent_read_bytes: int
    recent_cache_bytes: int
    recent_origin_bytes: int


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something the node depends on, and how it is as the node sees it; `reason` if that is not "ok"."""

    name: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """`beat_ns`: the server's time when it was told.  `segments`: identities of those that are open.

    `versions_left_out`, `segments_left_out`: beyond the most that are told; versions that are held only.
    """

    host: Host
    program: Program
    beat_ns: int
    versions: tuple[UsedVersion, ...]
    versions_left_out: int
    segments: tuple[str, ...]
    segments_left_out: int
    traffic: Traffic
    backing: Dependency
    origins: tuple[Dependency, ...]
    trouble: tuple[str, ...]


def content_of(usage: Usage) -> bytes:
    """The usage file."""
    return encode(usage, FORMAT)


def told_within(usage: Usage, most_bytes: int) -> Usage | None:
    """As much of it as a usage file of so many bytes holds, and how much is left out; None if that is too little."""
    return next((shorter for shorter in _shorter(usage) if len(content_of(shorter)) <= most_bytes), None)


def _shorter(usage: Usage) -> Iterator[Usage]:
    """First without what costs least: what nobody holds has its last use told elsewhere, and which segments are open
    matters for the versions that are told only.
    """
    yield usage
    held = tuple(version for version in usage.versions if version.is_held)
    usage = replace(usage, versions=held, trouble=())
    yield usage
    usage = replace(usage, segments=(), segments_left_out=usage.segments_left_out + len(usage.segments))
    yield usage
    yield replace(usage, versions=(), versions_left_out=usage.versions_left_out + len(held))


def usage_in(content: bytes) -> Usage:
    """What the file says; ValueError, with the reason, if it cannot be understood."""
    return decode(Usage, content, FORMAT, MOST_BYTES)
