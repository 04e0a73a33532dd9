"""One transaction of a census: whatever changes goes through here, so that sums and marks stay right.

INVARIANT, before and after: what a generation holds is the sum of what the segments take that have its number; a
segment that takes something and has no number is an orphan; one that takes nothing and has none is not there.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import lmdb

from dsfs.storage.censusrecords import (
    NOTHING_THERE,
    Folder,
    Generation,
    SegmentEntry,
    decode_segment,
    encode_folder,
    encode_generation,
    encode_number,
    encode_segment,
    encode_time,
    folder_key,
)


class Databases(NamedTuple):
    """Those of the file, as censusfile.py describes them."""

    meta: lmdb._Database
    folders: lmdb._Database
    generations: lmdb._Database
    lists: lmdb._Database
    segments: lmdb._Database
    fillings: lmdb._Database
    orphans: lmdb._Database


class Change:
    """What becomes true with the end of one transaction.

    `folders`, `generations`: what they are then; None is gone.  `known`: the generations before, by their numbers.
    `now_ns`: the server's time.
    """

    def __init__(
        self, txn: "lmdb.Transaction[bytes]", dbs: Databases, known: Mapping[int, Generation], now_ns: int
    ) -> None:
        self._txn = txn
        self._dbs = dbs
        self._known = known
        self._now = encode_time(now_ns)
        self.folders: dict[str, Folder | None] = {}
        self.generations: dict[int, Generation | None] = {}

    def put(self, identity: bytes, before: SegmentEntry, found: SegmentEntry) -> None:
        """So much is there of a segment now; to which generations it belongs does not change."""
        after = found._replace(owners=before.owners)
        for number in before.owners:
            self._hold(number, after.size_bytes - before.size_bytes, after.inodes - before.inodes)
        self._write(identity, before, after)

    def own(self, identity: bytes, number: int) -> None:
        """The segment belongs to the generation."""
        before = self._segment(identity)
        if number not in before.owners:
            self._hold(number, before.size_bytes, before.inodes)
            self._write(identity, before, before._replace(owners=(*before.owners, number)))

    def disown(self, identity: bytes, number: int) -> None:
        """It does not any more."""
        before = self._segment(identity)
        if number in before.owners:
            self._hold(number, -before.size_bytes, -before.inodes)
            owners = tuple(owner for owner in before.owners if owner != number)
            self._write(identity, before, before._replace(owners=owners))

    def _segment(self, identity: bytes) -> SegmentEntry:
        value = self._txn.get(identity, db=self._dbs.segments)
        return NOTHING_THERE if value is None else decode_segment(value)

    def _write(self, identity: bytes, before: SegmentEntry, after: SegmentEntry) -> None:
        if after.inodes or after.owners:
            self._txn.put(identity, encode_segment(after), db=self._dbs.segments)
        else:
            self._txn.delete(identity, db=self._dbs.segments)
        self._mark(self._dbs.fillings, identity, before.is_filling, after.is_filling, b"")
        self._mark(self._dbs.orphans, identity, before.is_orphan, after.is_orphan, self._now)

    def _mark(self, db: lmdb._Database, identity: bytes, was: bool, is_now: bool, value: bytes) -> None:
        if is_now and not was:
            self._txn.put(identity, value, db=db)
        elif was and not is_now:
            self._txn.delete(identity, db=db)

    def _hold(self, number: int, size_bytes: int, inodes: int) -> None:
        found = self.generations.get(number)
        if found is None:
            if number not in self._known:
                raise lmdb.CorruptedError(f"a segment belongs to generation {number}, which is none")
            found = self.generations[number] = replace(self._known[number])
        found.held_bytes += size_bytes
        found.held_inodes += inodes

    def put_generation(self, number: int, generation: Generation) -> None:
        self.generations[number] = replace(generation)

    def put_list(self, number: int, identities: bytes) -> None:
        self._txn.put(encode_number(number), identities, db=self._dbs.lists)

    def forget_generation(self, number: int) -> None:
        self.generations[number] = None
        self._txn.delete(encode_number(number), db=self._dbs.lists)

    def put_folder(self, folder: Folder) -> None:
        self.folders[folder.path] = folder

    def forget_folder(self, path: str) -> None:
        self.folders[path] = None

    def end(self) -> None:
        """Write what was changed in memory only."""
        for path, folder in self.folders.items():
            value = encode_folder(folder) if folder is not None else None
            self._store(self._dbs.folders, folder_key(path), value)
        for number, generation in self.generations.items():
            value = encode_generation(generation) if generation is not None else None
            self._store(self._dbs.generations, encode_number(number), value)

    def _store(self, db: lmdb._Database, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._txn.delete(key, db=db)
        else:
            self._txn.put(key, value, db=db)
