"""The file of a catalog: an LMDB environment in one file, with these databases.

    meta     "format" -> FORMAT; "summary" -> JSON of Summary
    entries  index -> a row: what is known of one file or directory, with its name and ETag
    names    index of the directory, name -> index
    packs    number -> a pack, the indexes of its members, the sizes of its members
    large    index -> identity and size of the segment of a large object

All keys are big-endian, so their order is that of the numbers.  Indexes follow the keys of the objects, a
directory before all that lies below it; index 0 is the root of the version.  (The key of an object goes to
1,024 bytes, one of LMDB to 511: so entries are found by number and by name in a directory, never by path.)
"""

import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from dsfs.model.errors import DsfsError

FORMAT = b"dsfs catalog 1"
DATABASES = META, ENTRIES, NAMES, PACKS, LARGE = b"meta", b"entries", b"names", b"packs", b"large"
ROOT = 0
NO_PACK = -1

# kind, parent, size, mtime_s, pack, member, offset, bytes of the name; the name and the ETag follow
_ROW = struct.Struct("<BQQqiIIB")
_PACK = struct.Struct("<20sQI")  # identity, bytes of the segment, members; then their indexes and sizes
_ROW_BYTES = _ROW.size
_LARGE = struct.Struct("<20sQ")  # identity, bytes
_PACK_NUMBER = struct.Struct(">I")
_INDEX = struct.Struct(">Q")
_INDEX_BYTES, _SIZE_BYTES = 8, 4
_IS_DIRECTORY, _ETAG_TEXT, _ETAG_MD5 = 1, 2, 4
_MD5_DIGITS = 32


class CatalogFileError(DsfsError):
    """The file of a catalog cannot be opened, read or written, or is of an unknown format."""


@dataclass(slots=True)
class Entry:
    """One file or directory of a version.  Only the builder changes one (frozen, it is made in thrice the time).

    `mtime_s` of a directory is the newest of what lies below it.  `pack` is NO_PACK for directories, empty files
    and large objects; `member` and `offset` say where in the pack the file is (0 for the others).
    """

    index: int
    parent: int
    name: bytes
    is_dir: bool
    size: int
    mtime_s: int
    etag: str | None
    pack: int = NO_PACK
    member: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Pack:
    """One pack; `size` is that of its segment in bytes."""

    number: int
    identity: str
    members: int
    size: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What a catalog holds, as summary.json says it.

    `files`, `directories` (without the root) and `bytes` count what can be seen; `left_out` the keys that no path
    can hold, the first of which are named, each with the reason.  `made_s`: when the newest object was made; 0 in
    catalogs that do not say it.
    """

    generation: str
    files: int
    directories: int
    bytes: int
    packs: int
    large_objects: int
    left_out: int
    left_out_examples: list[tuple[str, str]]
    origin_id: str
    prefix: str
    listed_at_s: int
    made_s: int = 0


def entry_key(index: int) -> bytes:
    return _INDEX.pack(index)


def name_key(parent: int, name: bytes) -> bytes:
    return _INDEX.pack(parent) + name


def index_in(value: bytes) -> int:
    """The index that a key of `entries` or a value of `names` is."""
    index: int = _INDEX.unpack(value)[0]
    return index


def pack_key(number: int) -> bytes:
    return _PACK_NUMBER.pack(number)


def encode_entry(entry: Entry) -> bytes:
    kind, etag = _encode_etag(entry.etag)
    head = _ROW.pack(
        kind | (_IS_DIRECTORY if entry.is_dir else 0), entry.parent, entry.size, entry.mtime_s,
        entry.pack, entry.member, entry.offset, len(entry.name),
    )  # fmt: skip
    return head + entry.name + etag


def decode_entry(index: int, row: bytes) -> Entry:
    kind, parent, size, mtime_s, pack, member, offset, length = _ROW.unpack_from(row)
    name_end = _ROW_BYTES + length
    etag: str | None = None
    if kind & _ETAG_MD5:
        etag = row[name_end:].hex()
    elif kind & _ETAG_TEXT:
        etag = row[name_end:].decode("utf-8", "surrogatepass")
    name, is_dir = row[_ROW_BYTES:name_end], bool(kind & _IS_DIRECTORY)
    return Entry(index, parent, name, is_dir, size, mtime_s, etag, pack, member, offset)


def _encode_etag(etag: str | None) -> tuple[int, bytes]:
    """Most ETags are MD5 in hex: half the bytes do."""
    if etag is None:
        return 0, b""
    if len(etag) == _MD5_DIGITS and etag.isalnum():
        try:
            digest = bytes.fromhex(etag)
        except ValueError:
            digest = b""
        if digest.hex() == etag:
            return _ETAG_MD5, digest
    return _ETAG_TEXT, etag.encode("utf-8", "surrogatepass")


def decode_place(row: bytes) -> tuple[int, bytes]:
    """The parent and the name in a row of `entries`."""
    _, parent, *_, length = _ROW.unpack_from(row)
    return parent, row[_ROW_BYTES : _ROW_BYTES + length]


def encode_large(identity: str, size: int) -> bytes:
    return _LARGE.pack(bytes.fromhex(identity), size)


def decode_large(value: bytes) -> tuple[str, int]:
    """Identity and size in bytes."""
    identity, size = _LARGE.unpack(value)
    return identity.hex(), size


def encode_pack(pack: Pack, indexes: Sequence[int], sizes: Sequence[int]) -> bytes:
    head = _PACK.pack(bytes.fromhex(pack.identity), pack.size, pack.members)
    return head + array("Q", indexes).tobytes() + array("I", sizes).tobytes()


def decode_pack(number: int, row: memoryview) -> Pack:
    identity, size, members = _PACK.unpack_from(row)
    return Pack(number, identity.hex(), members, size)


def member_indexes(row: memoryview, members: int, first: int, count: int) -> "array[int]":
    """The indexes of members first, first + 1, ... of the pack with this row and so many members."""
    start, end = (_PACK.size + _INDEX_BYTES * number for number in (first, min(first + count, members)))
    indexes = array("Q")
    indexes.frombytes(row[start:end])
    return indexes


def member_sizes(row: memoryview, members: int) -> "array[int]":
    """The sizes of all members in bytes."""
    sizes = array("I")
    start = _PACK.size + _INDEX_BYTES * members
    sizes.frombytes(row[start : start + _SIZE_BYTES * members])
    return sizes
