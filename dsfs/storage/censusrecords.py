"""The records of a census: a segment as a few bytes, folders and generations as JSON."""

import json
import struct
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from os import fsencode
from typing import NamedTuple

import lmdb

from dsfs.model.nodes import VersionKey

UNREAD = -1
_SEGMENT = struct.Struct("<QQqQB?")
_OWNER = struct.Struct("<I")
_NUMBER = struct.Struct(">I")
_TIME = struct.Struct("<q")


class SegmentEntry(NamedTuple):
    """What is known of a segment: bytes of its data and of what lies beside, the newest mtime of both, all its inodes.

    `seal`: inode of the data if it is sealed and nothing else lies beside: then it does not change any more; else 0.
    `owners`: the numbers of its generations.
    """

    data_bytes: int = 0
    beside_bytes: int = 0
    used_ns: int = 0
    seal: int = 0
    inodes: int = 0
    is_filling: bool = False
    owners: tuple[int, ...] = ()

    @property
    def size_bytes(self) -> int:
        return self.data_bytes + self.beside_bytes

    @property
    def is_orphan(self) -> bool:
        """Whether it is there and belongs to no generation."""
        return bool(self.inodes) and not self.owners


NOTHING_THERE = SegmentEntry()
LATEST_NS = 2**63 - 1  # that a record holds: in 2262, and a file may have any mtime


@dataclass(slots=True)
class Folder:
    """One folder as it was when its mtime was `mtime_ns`; UNREAD if it is to be read again in any case.

    `size_bytes`, `inodes`: what it takes with the files in it, but for trash, of which it has name, bytes and inodes.
    `seen_ns`: until when that was known to be so; `full_ns`: when each of its files was last looked at.  `unknown`: the
    names of generations whose segments cannot be known.
    """

    path: str
    mtime_ns: int = UNREAD
    seen_ns: int = 0
    full_ns: int = 0
    size_bytes: int = 0
    inodes: int = 0
    trash: list[tuple[str, int, int]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Generation:
    """A generation; `is_joined`: all its segments know of it.  `held_bytes`, `held_inodes`: what those take.

    `made_ns`: when the newest of its objects was made; `placed_ns`: when its catalog was put there.
    """

    key: VersionKey
    sequence: int
    made_ns: int
    placed_ns: int
    size_bytes: int
    is_joined: bool = False
    held_bytes: int = 0
    held_inodes: int = 0


def encode_segment(entry: SegmentEntry) -> bytes:
    return _SEGMENT.pack(*entry[:-1]) + b"".join(map(_OWNER.pack, entry.owners))


def decode_segment(value: bytes) -> SegmentEntry:
    """CorruptedError if it is none: of a page that LMDB takes for one."""
    try:
        owners = tuple(number for (number,) in _OWNER.iter_unpack(value[_SEGMENT.size :]))
        return SegmentEntry._make((*_SEGMENT.unpack_from(value), owners))
    except struct.error as exc:
        raise lmdb.CorruptedError(f"the record of a segment: {exc}") from exc


def folder_key(path: str) -> bytes:
    """A path may be longer than a key of LMDB."""
    return blake2b(fsencode(path), digest_size=16).digest()


def encode_folder(folder: Folder) -> bytes:
    return json.dumps(asdict(folder)).encode()


def decode_folder(value: bytes) -> Folder:
    described = json.loads(value)
    described["trash"] = [(name, size_bytes, inodes) for name, size_bytes, inodes in described["trash"]]
    return Folder(**described)


def encode_generation(generation: Generation) -> bytes:
    return json.dumps(asdict(generation)).encode()


def decode_generation(value: bytes) -> Generation:
    described = json.loads(value)
    described["key"] = tuple(described["key"])
    return Generation(**described)


def encode_number(number: int) -> bytes:
    return _NUMBER.pack(number)


def decode_number(key: bytes) -> int:
    number: int = _NUMBER.unpack(key)[0]
    return number


def encode_time(time_ns: int) -> bytes:
    return _TIME.pack(time_ns)


def decode_time(value: bytes) -> int:
    """CorruptedError, as `decode_segment`."""
    try:
        time_ns: int = _TIME.unpack(value)[0]
    except struct.error as exc:
        raise lmdb.CorruptedError(f"the time of an orphan: {exc}") from exc
    return time_ns
