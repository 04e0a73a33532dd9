"""What a node tells the others of itself: its usage file, as a value and as the JSON in it.

The file comes from another node, perhaps of another version of dsfs, perhaps damaged: what is read is checked field
by field, unknown fields are left alone, and whatever else is wrong is a ValueError.
"""

import json
import math
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

FORMAT = 1
# Names have at most 255 bytes, and six characters for each in JSON: together they stay far below MOST_BYTES.
MOST_BYTES = 512 * 1024
MOST_VERSIONS = 100
MOST_SEGMENTS = 2048
MOST_CHARACTERS = 500  # of a message
_MOST_NUMBER = 2**63


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
class OpenVersion:
    """A version of which files are open: also such that nobody reads now, and such that are only mapped."""

    dataset: str
    version: str
    generation: str
    open_files: int
    bytes_per_s: float


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

    `left_out`: open versions and segments beyond the most that are told.
    """

    host: Host
    program: Program
    beat_ns: int
    versions: tuple[OpenVersion, ...]
    segments: tuple[str, ...]
    left_out: int
    traffic: Traffic
    backing: Dependency
    origins: tuple[Dependency, ...]
    trouble: tuple[str, ...]


def content_of(usage: Usage) -> bytes:
    """The usage file; ASCII, so that any name survives, also one that is not UTF-8."""
    return json.dumps({"format": FORMAT, **asdict(usage)}, separators=(",", ":")).encode() + b"\n"


def usage_in(content: bytes) -> Usage:
    """What the file says; ValueError, with the reason, if it cannot be understood."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"longer than {MOST_BYTES} bytes")
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    if found.get("format") != FORMAT:
        raise ValueError(f"format {str(found.get('format'))[:20]}, not {FORMAT}")
    usage: Usage = _checked(Usage, found, "usage")
    return usage


def _checked(kind: Any, found: object, name: str) -> Any:
    """`found`, which JSON made, as a value of the type `kind`."""
    make: Any = kind
    if is_dataclass(kind) and isinstance(found, dict):
        hints = get_type_hints(kind)
        if missing := hints.keys() - found.keys():
            raise ValueError(f"{name} without {min(missing)}")
        return make(**{field: _checked(hint, found[field], field) for field, hint in hints.items()})
    if get_origin(kind) is tuple and isinstance(found, list):
        return tuple(_checked(get_args(kind)[0], each, name) for each in found)
    if kind is float and type(found) is int:
        found = float(found) if found < _MOST_NUMBER else math.inf
    if type(found) is not kind or (isinstance(found, int | float) and not 0 <= found < _MOST_NUMBER):
        raise ValueError(f"{name} is not what it should be")
    return found
