"""The node's index of what is resident: one LMDB record a segment, on local disk (LMDB must never lie on NFS).

    residency.mdb            the records
    residency.mdb.state      "running" and the boot id, or "closed" and a checksum of residency.mdb

It answers `status` and `ls` without opening segments.  The truth about a block is its record in the segment's map.
The index is written after it, in batches, so it may lag and is never ahead: a crash costs the newest batch, and a start
that finds it not closed has it rebuilt from the maps (rebuild.py).  It holds for one backing directory, whose cluster
id it keeps: beside another one it counts as lost.

Concurrency: blocking calls; one thread writes at a time and any number read.
"""

import contextlib
import logging
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import lmdb
from crc32c import crc32c

from dsfs.model.errors import BackingError
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import remove, replace_file

log = logging.getLogger(__name__)

FORMAT = b"dsfs residency 2"
# Only address space: the file is as large as its records.  A map that is full cannot be moved while somebody reads.
MAP_SIZE = 64 * 1024**3
KEY_SIZE = 20  # bytes of an identity
RUNNING, CLOSED = "running ", "closed "
_RECORD = struct.Struct("<?QIII")
_BITS = bytes([ord("0")]) + bytes([ord("1")]) * 255


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """What is resident of one segment.

    `resident_bytes`: bytes taken in the backing directory; `bitmap`: bit i tells whether block i is resident,
    little-endian; empty for a sealed segment, in which all are; `used_hour`: hours from the epoch to its last use on
    this node, or, if that is not known, to when it was filled.
    """

    identity: str
    sealed: bool
    resident_bytes: int
    resident_blocks: int
    blocks: int
    bitmap: bytes = b""
    used_hour: int = 0

    def has(self, block: int) -> bool:
        return self.sealed or bool(self.bitmap and self.bitmap[block // 8] >> block % 8 & 1)


def bitmap_of(presence: bytes | bytearray) -> bytes:
    """A bit a byte of `presence`, little-endian: linear, and no loop in Python."""
    digits = bytes(presence).translate(_BITS)[::-1]
    return int(digits or b"0", 2).to_bytes(-(-len(presence) // 8), "little")


def hour_of(moment_s: float) -> int:
    """Hours from the epoch, as many as a record holds."""
    return min(max(0, int(moment_s // 3600)), 2**32 - 1)


class ResidencyIndex:
    """The LMDB file at `path`.

    `was_lost`: there was none, or it could not be used and an empty one took its place; `was_unclean`: the daemon that
    wrote it did not come to its end, so it may lack the newest fills.
    """

    def __init__(self, path: Path, cluster: str) -> None:
        """The index of the backing directory with that cluster id.

        BackingError if the local disk does not take an index.
        """
        self._path = path
        self._cluster = cluster.encode()
        self._mark = path.with_name(path.name + ".state")
        self._write_lock = threading.Lock()
        self._written_since: set[bytes] | None = None
        self._is_behind = False
        self.was_unclean = False
        try:
            self.was_lost = not path.exists()
            if not self.was_lost:
                self._use_existing()
            if self.was_lost:
                self._begin_anew()
            self._mark_running()
        except (lmdb.Error, OSError) as exc:
            raise BackingError(f"residency index {path}: {exc}") from exc

    # ---------------------------------------------------------------- opening and closing

    def _use_existing(self) -> None:
        try:
            self.was_unclean = self._is_unclean()
            self._env = self._open()
            self._check_records()
        except (lmdb.Error, _DamagedError) as exc:
            log.warning("the residency index cannot be used and is made anew: %s", exc)
            self.was_lost, self.was_unclean = True, False

    def _is_unclean(self) -> bool:
        """Whether the file was not closed in order; _DamagedError unless its content is known to be what was written.

        LMDB ends the process over a page that was never written, so a file that lived through a loss of power is not
        even opened; nor is one that somebody changed since it was closed.
        """
        try:
            mark = self._mark.read_text()
        except FileNotFoundError:
            raise _DamagedError("nothing tells how it was closed") from None
        if mark == RUNNING + _boot_id():
            return True
        if mark != CLOSED + _checksum(self._path):
            raise _DamagedError("it is not what was written, or the machine stopped while it was in use")
        return False

    def _open(self) -> lmdb.Environment:
        reach("index.open")
        size = max(MAP_SIZE, 2 * self._path.stat().st_size if self._path.exists() else 0)
        # Not durable on purpose: after a loss of power the index is rebuilt.
        env = lmdb.open(str(self._path), subdir=False, map_size=size, sync=False, metasync=False, max_dbs=0)
        try:
            # A truncated file would end the process with SIGBUS at the first look behind its end.
            if os.path.getsize(self._path) < (env.info()["last_pgno"] + 1) * env.stat()["psize"]:
                raise _DamagedError("it was cut short")
        except BaseException:
            env.close()
            raise
        return env

    def _check_records(self) -> None:
        try:
            with self._env.begin() as txn:
                if txn.get(b"format") != FORMAT:
                    raise _DamagedError("it has an unknown format")
                if (described := txn.get(b"cluster", b"")) != self._cluster:
                    raise _DamagedError(
                        f"it describes another backing directory, cluster id {described.decode(errors='replace')!r}"
                        f" instead of {self._cluster.decode()!r}"
                    )
                for key, value in txn.cursor():
                    if len(key) == KEY_SIZE and len(value) < _RECORD.size:
                        raise _DamagedError("it has a record that is none")
        except BaseException:
            self._env.close()
            raise

    def _begin_anew(self) -> None:
        for path in (self._path, self._path.with_name(self._path.name + "-lock"), self._mark):
            remove(path)
        self._env = self._open()

    def _mark_running(self) -> None:
        try:
            replace_file(self._mark, (RUNNING + _boot_id()).encode())
            self._transact([(b"format", FORMAT), (b"cluster", self._cluster)])
        except BaseException:
            self._env.close()
            raise

    def close(self, *, clean: bool = True) -> None:
        """`clean`: everything was written; the next start need not rebuild."""
        try:
            if clean and not self._is_behind:
                reach("index.sync")
                self._env.sync(True)
        except (lmdb.Error, OSError) as exc:
            clean = False
            log.warning("the residency index cannot be closed in order: %s", exc)
        finally:
            self._env.close()
        if clean and not self._is_behind:
            try:
                replace_file(self._mark, (CLOSED + _checksum(self._path)).encode())
            except OSError as exc:
                log.warning("the residency index cannot be marked as closed: %s", exc)

    # ---------------------------------------------------------------- reading

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

    def identities(self) -> list[str]:
        with self._env.begin() as txn:
            return [key.hex() for key in txn.cursor().iternext(values=False) if len(key) == KEY_SIZE]

    # ---------------------------------------------------------------- writing

    def put(self, records: Iterable[SegmentRecord]) -> None:
        """Write all records in one transaction; a record without a resident block is removed.

        If the local disk refuses, the index is behind, and rebuilt at the next start.
        """
        with self._write_lock:
            pairs = _pairs(records)
            if self._written_since is not None:
                self._written_since.update(key for key, _ in pairs)
            self._write(pairs)

    def rebuild_later(self) -> None:
        """It may not say what is there: the next start is not to believe it as it is."""
        self._is_behind = True

    @contextlib.contextmanager
    def rebuilding(self) -> Iterator[None]:
        """For the time in which somebody looks at what is there and tells by `put_found`."""
        with self._write_lock:
            self._written_since = set()
        try:
            yield
        finally:
            with self._write_lock:
                self._written_since = None

    def put_found(self, records: Iterable[SegmentRecord]) -> None:
        """As `put`, but for what was put since `rebuilding` began: that is newer than what was found.

        The last use that was known of a segment stays, if it is later than what its files say.
        """
        with self._write_lock:
            newer = self._written_since or set()
            found = [record for record in records if bytes.fromhex(record.identity) not in newer]
            known = self.get_many(record.identity for record in found)
            self._write(
                _pairs(
                    replace(record, used_hour=max(record.used_hour, before.used_hour if before else 0))
                    for record, before in zip(found, known, strict=True)
                )
            )

    def _write(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        try:
            self._transact(pairs)
        except (lmdb.Error, OSError) as exc:
            self._is_behind = True
            log.warning("the residency index cannot be written, it is rebuilt at the next start: %s", exc)

    def _transact(self, pairs: list[tuple[bytes, bytes | None]]) -> None:
        reach("index.write")
        with self._env.begin(write=True) as txn:
            for key, value in pairs:
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
        reach("index.written")


class _DamagedError(Exception):
    """The file is no index of ours, or not what was written."""


def _boot_id() -> str:
    """Another one after each start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _checksum(path: Path) -> str:
    checksum = 0
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            checksum = crc32c(content, checksum)
    return f"{checksum:08x}"


def _pairs(records: Iterable[SegmentRecord]) -> list[tuple[bytes, bytes | None]]:
    return [
        (bytes.fromhex(record.identity), _encode(record) if record.resident_blocks else None) for record in records
    ]


def _encode(record: SegmentRecord) -> bytes:
    head = _RECORD.pack(record.sealed, record.resident_bytes, record.resident_blocks, record.blocks, record.used_hour)
    return head + (b"" if record.sealed else record.bitmap)


def _decode(identity: str, value: bytes) -> SegmentRecord:
    sealed, resident_bytes, resident_blocks, blocks, used_hour = _RECORD.unpack_from(value)
    return SegmentRecord(identity, sealed, resident_bytes, resident_blocks, blocks, value[_RECORD.size :], used_hour)
