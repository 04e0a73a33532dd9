"""The catalog of a version: its files and directories, and the segments they lie in.

Read-only, from a memory-mapped file on local disk (catalog_format.py says what is in it; it must never be
opened on NFS): nothing is parsed at the start, and 10 million files are no Python objects.

Concurrency: safe to use from several threads at once, since every call, and every batch of an iteration,
has a read transaction of its own; the file never changes, so all of them see the same.  `close` is for when
nobody is inside.  LMDB refuses to open a file that this process has open already.
"""

import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lmdb

from dsfs.model.blocks import UniformBlocks
from dsfs.model.errors import NotFoundError
from dsfs.model.objects import ObjectRef
from dsfs.storage import catalog_format
from dsfs.storage.catalog_format import CatalogFileError, Entry, Pack, Summary

__all__ = ["Catalog", "CatalogFileError", "Entry", "Member", "Pack", "Summary"]

BATCH = 512  # entries read in one transaction of an iteration


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a pack: its entry, where it begins in the segment (bytes), and its object."""

    index: int
    offset: int
    obj: ObjectRef


class Catalog:
    """The catalog in the file at `path`.  Raises CatalogFileError if that is none, or is damaged."""

    def __init__(self, path: Path) -> None:
        try:
            self._env = lmdb.open(
                str(path), subdir=False, readonly=True, lock=False, create=False,
                max_dbs=len(catalog_format.DATABASES),
            )  # fmt: skip
        except lmdb.Error as exc:
            raise CatalogFileError(f"{path}: {exc}") from exc
        try:
            self._check_whole(path)
            meta, self._entries, self._names, self._packs, self._large = (
                self._env.open_db(name, create=False) for name in catalog_format.DATABASES
            )
            with self._env.begin(meta) as txn:
                if (found := txn.get(b"format")) != catalog_format.FORMAT:
                    raise CatalogFileError(f"{path}: unknown format {found!r}")
                described = json.loads(txn.get(b"summary", b"{}"))
            described["left_out_examples"] = [tuple(pair) for pair in described["left_out_examples"]]
            self.summary = Summary(**described)
        except (lmdb.Error, ValueError, KeyError, TypeError) as exc:
            self._env.close()
            raise CatalogFileError(f"{path}: no catalog, or a damaged one: {exc!r}") from exc
        except CatalogFileError:
            self._env.close()
            raise
        self.generation = self.summary.generation

    def _check_whole(self, path: Path) -> None:
        # Behind the end of a truncated file there is no page: a look there would end the process with SIGBUS.
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if os.path.getsize(path) < needed:
            raise CatalogFileError(f"{path}: cut short, it should have {needed} bytes")

    def close(self) -> None:
        self._env.close()

    # ------------------------------------------------------------------ files and directories

    def entry(self, index: int) -> Entry:
        """The entry with this index; 0 is the root.  Raises NotFoundError."""
        with self._env.begin() as txn:
            return self._entry(txn, index)

    def child(self, parent: int, name: bytes) -> Entry | None:
        """What is called `name` in directory `parent`."""
        with self._env.begin() as txn:
            value = txn.get(catalog_format.name_key(parent, name), db=self._names)
            return None if value is None else self._entry(txn, catalog_format.index_in(value))

    def children(self, parent: int, after: int = catalog_format.ROOT) -> Iterator[Entry]:
        """What lies in directory `parent`, in the order of names, behind the child with index `after`."""
        name = b"" if after == catalog_format.ROOT else self.entry(after).name
        while batch := self._children_behind(parent, name):
            yield from batch
            name = batch[-1].name

    def resolve(self, path: str) -> Entry:
        """The entry at "a/b/c" below the root ("" is the root itself).  Raises NotFoundError."""
        index = catalog_format.ROOT
        with self._env.begin() as txn:
            for name in os.fsencode(path).split(b"/") if path else ():
                value = txn.get(catalog_format.name_key(index, name), db=self._names)
                if value is None:
                    raise NotFoundError(f"no file or directory '{path}'")
                index = catalog_format.index_in(value)
            return self._entry(txn, index)

    def object_of(self, entry: Entry) -> ObjectRef:
        """The object that holds the file."""
        with self._env.begin() as txn:
            return self._object(entry, self._path(txn, entry.index))

    # ------------------------------------------------------------------ packs and segments

    def pack(self, number: int) -> Pack:
        """Raises NotFoundError."""
        with self._env.begin(buffers=True) as txn:
            return catalog_format.decode_pack(number, self._pack_row(txn, number))

    def members(self, pack: int, first: int, count: int) -> list[Member]:
        """The members `first` and following, at most `count`.  Raises NotFoundError if there is no such pack."""
        with self._env.begin(buffers=True) as packs:
            row = self._pack_row(packs, pack)
            indexes = catalog_format.member_indexes(row, catalog_format.decode_pack(pack, row).members, first, count)
        found: list[Member] = []
        folders: dict[int, str] = {}  # members of one directory are neighbours: its path is looked up once
        with self._env.begin() as txn:
            for index in indexes:
                entry = self._entry(txn, index)
                if entry.parent not in folders:
                    folder = self._path(txn, entry.parent)
                    folders = {entry.parent: f"{folder}/" if folder else ""}
                path = folders[entry.parent] + entry.name.decode()
                found.append(Member(index, entry.offset, self._object(entry, path)))
        return found

    def member_indexes(self, pack: int) -> "array[int]":
        """The indexes of the entries of all members of a pack.  Raises NotFoundError if there is no such pack."""
        with self._env.begin(buffers=True) as txn:
            row = self._pack_row(txn, pack)
            count = catalog_format.decode_pack(pack, row).members
            return catalog_format.member_indexes(row, count, 0, count)

    def member_sizes(self, pack: int) -> list[int]:
        """The sizes (bytes) of all members of a pack.  Raises NotFoundError."""
        with self._env.begin(buffers=True) as txn:
            row = self._pack_row(txn, pack)
            return catalog_format.member_sizes(row, catalog_format.decode_pack(pack, row).members).tolist()

    def segments(self) -> Iterator[tuple[str, int, int]]:
        """Identity, size in bytes and number of blocks of every segment of the version, packs first."""
        for number in range(self.summary.packs):
            pack = self.pack(number)
            yield pack.identity, pack.size, pack.members
        for _, identity, size in self.large_objects():
            yield identity, size, len(UniformBlocks(size))

    def large_objects(self) -> Iterator[tuple[int, str, int]]:
        """The index of the entry, the identity and the size in bytes of every large object, in order."""
        following = 0
        while batch := self._large_from(following):
            for index, (identity, size) in batch:
                yield index, identity, size
                following = index + 1

    # ------------------------------------------------------------------ within one transaction

    def _entry(self, txn: "lmdb.Transaction[bytes]", index: int) -> Entry:
        return catalog_format.decode_entry(index, self._row(txn, index))

    def _row(self, txn: "lmdb.Transaction[bytes]", index: int) -> bytes:
        row = txn.get(catalog_format.entry_key(index), db=self._entries)
        if row is None:
            raise NotFoundError(f"no entry with index {index}")
        return row

    def _path(self, txn: "lmdb.Transaction[bytes]", index: int) -> str:
        names: list[bytes] = []
        while index != catalog_format.ROOT:
            index, name = catalog_format.decode_place(self._row(txn, index))
            names.append(name)
        return b"/".join(reversed(names)).decode()

    def _object(self, entry: Entry, path: str) -> ObjectRef:
        return ObjectRef(self.summary.prefix + path, entry.size, entry.etag, entry.mtime_s)

    def _pack_row(self, txn: "lmdb.Transaction[memoryview]", number: int) -> memoryview:
        row = txn.get(catalog_format.pack_key(number), db=self._packs)
        if row is None:
            raise NotFoundError(f"no pack {number}")
        return row

    def _children_behind(self, parent: int, name: bytes) -> list[Entry]:
        """The first BATCH children whose names are greater than `name`."""
        found: list[Entry] = []
        prefix = catalog_format.name_key(parent, b"")
        with self._env.begin() as txn, txn.cursor(self._names) as cursor:
            # No name has a NUL in it: this key lies behind `name` and before all that are greater.
            if cursor.set_range(catalog_format.name_key(parent, name + b"\0")):
                for key, value in cursor:
                    if len(found) == BATCH or not key.startswith(prefix):
                        break
                    found.append(self._entry(txn, catalog_format.index_in(value)))
        return found

    def _large_from(self, index: int) -> list[tuple[int, tuple[str, int]]]:
        """Index, identity and size of the first BATCH large objects with `index` or a greater one."""
        found: list[tuple[int, tuple[str, int]]] = []
        with self._env.begin() as txn, txn.cursor(self._large) as cursor:
            if cursor.set_range(catalog_format.entry_key(index)):
                for key, value in cursor:
                    if len(found) == BATCH:
                        break
                    found.append((catalog_format.index_in(key), catalog_format.decode_large(value)))
        return found
