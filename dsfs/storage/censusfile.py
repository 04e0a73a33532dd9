"""The file of a census: what each segment takes, to which generations it belongs, and so what each of those holds.

    meta         "format" -> FORMAT; "cluster" -> id of the backing directory
    folders      digest of a path -> Folder
    generations  number -> Generation; what it holds is kept up to date, never added up
    lists        number -> the identities of its segments, as in its file `segments`
    segments     identity -> SegmentEntry
    fillings     identities that are being filled: what those take changes without a sign
    orphans      identity that is there and belongs to no generation -> since when that is known

On local disk; each transaction is durable, so a crash leaves the state before or after it.  It can be lost at any time,
and is made anew if the process has ended inside of it.

Concurrency: one thread writes at a time; any number read.
"""

import logging
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lmdb

from dsfs.model.errors import BackingError
from dsfs.model.nodes import VersionKey
from dsfs.storage.censuschange import Change, Databases
from dsfs.storage.censusrecords import (
    Folder,
    Generation,
    SegmentEntry,
    decode_folder,
    decode_generation,
    decode_number,
    decode_segment,
    decode_time,
    encode_number,
)
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import remove
from dsfs.storage.insidemark import InsideMark
from dsfs.storage.segmentlist import IDENTITY_BYTES

log = logging.getLogger(__name__)

FORMAT = b"dsfs census 1"
MAP_SIZE = 64 * 1024**3  # only address space
DAMAGED = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.PanicError, lmdb.BadTxnError)
BATCH = 20_000  # segments written in one transaction: it keeps the pages that it changes in memory


class _UnusableError(Exception):
    """The file is no census of this backing directory."""


class CensusFile:
    """The file at `path`, made anew if it is of no use; BackingError if the local disk refuses.

    `folders` (by path), `generations` (by number) are what it says, in memory: for the thread that writes.
    """

    def __init__(self, path: Path, cluster: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.folders: dict[str, Folder] = {}
        self.generations: dict[int, Generation] = {}
        self._numbers: dict[tuple[str, str], dict[str, int]] = {}
        self._highest = 0  # number of a generation
        try:
            self._mark = InsideMark(path.with_name(path.name + "-inside"))
            try:
                with self._mark.inside():
                    self._use_or_begin(cluster)
            except BaseException:
                self._mark.close()
                raise
        except (lmdb.Error, OSError) as exc:
            raise BackingError(f"census {path}: {exc}") from exc

    def _use_or_begin(self, cluster: str) -> None:
        try:
            self._use(cluster)
        except (_UnusableError, lmdb.Error) as exc:
            log.info("the census is made anew: %s", exc)
            for name in (self._path, self._path.with_name(self._path.name + "-lock")):
                remove(name)
            self._begin(cluster)

    def _use(self, cluster: str) -> None:
        if not self._path.exists():
            raise _UnusableError("there is none")
        if self._mark.was_left:
            raise _UnusableError("dsfs has ended inside of it, and would end again if a page is damaged")
        self._open()
        try:
            # Behind the end of a truncated file there is no page: a look there would end the process with SIGBUS.
            if os.path.getsize(self._path) < (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]:
                raise _UnusableError("it was cut short")
            self._open_databases()
            self._load(cluster.encode())
        except BaseException:
            self._env.close()
            raise

    def _begin(self, cluster: str) -> None:
        self._open()
        try:
            self._open_databases()
            with self._env.begin(self._dbs.meta, write=True) as txn:
                txn.put(b"cluster", cluster.encode())
                txn.put(b"format", FORMAT)
        except BaseException:
            self._env.close()
            raise

    def _open(self) -> None:
        reach("census.open")
        # Without metasync, a loss of power may cost the last transaction.
        self._env = lmdb.open(
            str(self._path), subdir=False, map_size=MAP_SIZE, metasync=False, max_dbs=len(Databases._fields)
        )

    def _open_databases(self) -> None:
        self._dbs = Databases(*(self._env.open_db(name.encode()) for name in Databases._fields))

    def _load(self, cluster: bytes) -> None:
        with self._env.begin() as txn:
            if (txn.get(b"format", db=self._dbs.meta), txn.get(b"cluster", db=self._dbs.meta)) != (FORMAT, cluster):
                raise _UnusableError("it is of another backing directory, or of an unknown format")
            try:
                folders = [decode_folder(value) for _, value in txn.cursor(self._dbs.folders)]
                generations = [(decode_number(k), decode_generation(v)) for k, v in txn.cursor(self._dbs.generations)]
            except (ValueError, TypeError, KeyError, struct.error) as exc:
                raise _UnusableError("it has a record that is none") from exc
        self.folders.update((folder.path, folder) for folder in folders)
        for number, generation in generations:
            self._note(number, generation)

    def close(self) -> None:
        self._env.close()
        self._mark.close()

    @contextmanager
    def _transaction(
        self, db: lmdb._Database | None = None, *, write: bool = False
    ) -> Iterator["lmdb.Transaction[bytes]"]:
        """Whoever is in the file is in one of these.  BackingError if the disk refuses, or the file is damaged."""
        try:
            with self._mark.inside(), self._env.begin(db, write=write) as txn:
                yield txn
        except lmdb.Error as exc:
            if isinstance(exc, DAMAGED) and remove(self._path):
                log.warning("census %s is damaged; it is made anew by the next start: %s", self._path, exc)
            raise BackingError(f"census {self._path}: {exc}") from exc

    # ---------------------------------------------------------------- reading

    def segments_in(self, fan: bytes) -> dict[bytes, SegmentEntry]:
        """What is known of the segments whose identities begin with this byte."""
        found = {}
        with self._transaction(self._dbs.segments) as txn, txn.cursor() as cursor:
            if cursor.set_range(fan):
                for key, value in cursor:
                    if not key.startswith(fan):
                        break
                    found[key] = decode_segment(value)
        return found

    def fillings_in(self, fan: bytes) -> list[bytes]:
        """Which of them are being filled."""
        with self._transaction(self._dbs.fillings) as txn, txn.cursor() as cursor:
            if not cursor.set_range(fan):
                return []
            found = []
            for key in cursor.iternext(values=False):
                if not key.startswith(fan):
                    break
                found.append(key)
            return found

    def held_of(self, number: int) -> Iterator[tuple[bytes, SegmentEntry]]:
        """What is there of the generation's segments, each batch as it is when it is asked for."""
        identities = self.identities_of(number)
        for batch in _batches(identities):
            yield from self.entries(batch)

    def entries(self, identities: Iterable[bytes]) -> list[tuple[bytes, SegmentEntry]]:
        """What is there of these segments."""
        with self._transaction(self._dbs.segments) as txn:
            found = ((identity, txn.get(identity)) for identity in identities)
            known = [(identity, decode_segment(value)) for identity, value in found if value is not None]
        return [(identity, entry) for identity, entry in known if entry.inodes]

    def owners_of(self, identity: bytes) -> tuple[int, ...]:
        """The numbers of its generations."""
        with self._transaction(self._dbs.segments) as txn:
            value = txn.get(identity)
            return () if value is None else decode_segment(value).owners

    def identities_of(self, number: int) -> bytes:
        """The identities of the generation's segments, one after the other."""
        with self._transaction(self._dbs.lists) as txn:
            return txn.get(encode_number(number), b"")

    def orphans(self) -> list[tuple[bytes, int]]:
        """Segments that belong to no generation, and since when that is known."""
        with self._transaction(self._dbs.orphans) as txn:
            return [(key, decode_time(value)) for key, value in txn.cursor()]

    # ---------------------------------------------------------------- writing

    @contextmanager
    def change(self, now_ns: int) -> Iterator[Change]:
        """A transaction: all that is put in the block becomes true, or nothing.  BackingError if the disk refuses."""
        reach("census.write")
        with self._transaction(write=True) as txn:
            change = Change(txn, self._dbs, self.generations, now_ns)
            yield change
            change.end()
        reach("census.written")
        with self._lock:
            for path, folder in change.folders.items():
                if folder is None:
                    self.folders.pop(path, None)
                else:
                    self.folders[path] = folder
            for number, generation in change.generations.items():
                self._note(number, generation)

    def _note(self, number: int, generation: Generation | None) -> None:
        """That is what the file says of it now; None: nothing."""
        self._highest = max(self._highest, number)
        before = self.generations.pop(number, None)
        known = generation or before
        if known is not None:
            dataset, version, name = known.key
            numbers = self._numbers.setdefault((dataset, version), {})
            if generation is None:
                numbers.pop(name, None)
            else:
                numbers[name] = number
                self.generations[number] = generation

    def join(self, generation: Generation, identities: bytes, now_ns: int) -> None:
        """Take in a generation with these segments.  Until that has come to its end, it is not there."""
        number = self._highest + 1
        with self.change(now_ns) as change:
            change.put_list(number, identities)
            change.put_generation(number, generation)
        for batch in _batches(identities):
            with self.change(now_ns) as change:
                for identity in batch:
                    change.own(identity, number)
        with self.change(now_ns) as change:
            change.put_generation(number, replace(self.generations[number], is_joined=True))

    def leave(self, number: int, now_ns: int) -> None:
        """Forget a generation, and what its segments know of it."""
        with self.change(now_ns) as change:
            change.put_generation(number, replace(self.generations[number], is_joined=False))
        for batch in _batches(self.identities_of(number)):
            with self.change(now_ns) as change:
                for identity in batch:
                    change.disown(identity, number)
        with self.change(now_ns) as change:
            change.forget_generation(number)

    def all_folders(self) -> list[Folder]:
        """For other threads than the one that writes."""
        with self._lock:
            return list(self.folders.values())

    def all_generations(self) -> list[tuple[int, Generation]]:
        """The same; only those that are there wholly."""
        with self._lock:
            return [(number, found) for number, found in self.generations.items() if found.is_joined]

    def key_of(self, number: int) -> VersionKey | None:
        """The key of a generation that is there wholly, else None."""
        with self._lock:
            found = self.generations.get(number)
            return found.key if found is not None and found.is_joined else None

    def numbers_of(self, dataset: str, version: str) -> dict[str, int]:
        """The numbers of the version's generations."""
        with self._lock:
            return dict(self._numbers.get((dataset, version), {}))


def _batches(identities: bytes) -> Iterator[Iterator[bytes]]:
    step = BATCH * IDENTITY_BYTES
    for start in range(0, len(identities), step):
        end = min(start + step, len(identities))
        yield (identities[at : at + IDENTITY_BYTES] for at in range(start, end, IDENTITY_BYTES))
