"""The node's index of what is resident: one LMDB record a segment, on local disk (LMDB must never lie on
NFS).

It answers `status` and `ls` without opening segments, and gives the sum that the limit is held against.  The
truth about a block is its record in the segment's map.  The index is written after it, in batches, so it may
lag and is never ahead: a crash costs the newest batch, and a start that finds the mark of one has the index
rebuilt from the maps (rebuild.py).

Concurrency: blocking calls; LMDB lets one thread write at a time and any number read.
"""

import contextlib
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb

from dsfs.storage.faultpoint import reach

log = logging.getLogger(__name__)

FORMAT = b"dsfs residency 1"
FIRST_MAP_SIZE = 64 * 1024 * 1024
_RECORD = struct.Struct("<?QII")
_BITS = bytes([ord("0")]) + bytes([ord("1")]) * 255


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """What is resident of one segment.

    `resident_bytes`: bytes taken in the backing directory; `bitmap`: bit i tells whether block i is resident,
    little-endian; empty for a sealed segment, in which all are.
    """

    identity: str
    sealed: bool
    resident_bytes: int
    resident_blocks: int
    blocks: int
    bitmap: bytes = b""

    def has(self, block: int) -> bool:
        return self.sealed or bool(self.bitmap and self.bitmap[block // 8] >> block % 8 & 1)


def bitmap_of(presence: bytes | bytearray) -> bytes:
    """A bit a byte of `presence`, little-endian: linear, and no loop in Python."""
    digits = bytes(presence).translate(_BITS)[::-1]
    return int(digits or b"0", 2).to_bytes(-(-len(presence) // 8), "little")


class ResidencyIndex:
    """The LMDB file at `path`.  `was_lost`: there was none, or it could not be used and an empty one took its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.was_lost = not path.exists()
        try:
            self._env = self._open()
        except (lmdb.Error, _DamagedError) as exc:
            log.warning("the residency index cannot be used and is made anew: %s", exc)
            self.was_lost = True
            for name in (path, path.with_name(path.name + "-lock")):
                name.unlink(missing_ok=True)
            self._env = self._open()
        with self._env.begin() as txn:
            self.was_unclean = txn.get(b"running") is not None
        self._write([(b"format", FORMAT), (b"running", b"1")])

    def _open(self) -> lmdb.Environment:
        size = max(FIRST_MAP_SIZE, 2 * self._path.stat().st_size if self._path.exists() else 0)
        # Not durable on purpose: after a loss of power the index is rebuilt, as after a crash.
        env = lmdb.open(str(self._path), subdir=False, map_size=size, sync=False, metasync=False, max_dbs=0)
        try:
            # A truncated file would end the process with SIGBUS at the first look behind its end.
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            if os.path.getsize(self._path) < needed:
                raise _DamagedError("it was cut short")
            with env.begin() as txn:
                if txn.get(b"format") not in (None, FORMAT):
                    raise _DamagedError("it has an unknown format")
                for _ in txn.cursor():
                    pass
        except BaseException:
            env.close()
            raise
        return env

    def get(self, identity: str) -> SegmentRecord | None:
        with self._env.begin() as txn:
            value = txn.get(bytes.fromhex(identity))
        return None if value is None else _decode(identity, value)

    def get_many(self, identities: Iterable[str]) -> Iterator[SegmentRecord | None]:
        """One record, or None, for each identity, in order, from one snapshot."""
        with self._env.begin() as txn:
            for identity in identities:
                value = txn.get(bytes.fromhex(identity))
                yield None if value is None else _decode(identity, value)

    def put(self, records: Iterable[SegmentRecord]) -> None:
        """Write all records in one transaction; a record without a resident block is removed."""
        self._write(
            [
                (bytes.fromhex(record.identity), _encode(record) if record.resident_blocks else None)
                for record in records
            ]
        )

    def total_bytes(self) -> int:
        """Bytes of all resident segments together."""
        with self._env.begin() as txn:
            return sum(_RECORD.unpack_from(value)[1] for key, value in txn.cursor() if len(key) == 20)

    def identities(self) -> list[str]:
        with self._env.begin() as txn:
            return [key.hex() for key in txn.cursor().iternext(values=False) if len(key) == 20]

    def _write(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        while True:
            try:
                reach("index.write")
                with self._env.begin(write=True) as txn:
                    for key, value in pairs:
                        if value is None:
                            txn.delete(key)
                        else:
                            txn.put(key, value)
                reach("index.written")
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])

    def close(self, *, clean: bool = True) -> None:
        """`clean`: everything was written; the next start need not rebuild."""
        with contextlib.closing(self._env):
            if clean:
                self._write([(b"running", None)])
                self._env.sync(True)


class _DamagedError(Exception):
    """The file is no index of ours."""


def _encode(record: SegmentRecord) -> bytes:
    head = _RECORD.pack(record.sealed, record.resident_bytes, record.resident_blocks, record.blocks)
    return head + (b"" if record.sealed else record.bitmap)


def _decode(identity: str, value: bytes) -> SegmentRecord:
    sealed, resident_bytes, resident_blocks, blocks = _RECORD.unpack_from(value)
    return SegmentRecord(identity, sealed, resident_bytes, resident_blocks, blocks, value[_RECORD.size :])
