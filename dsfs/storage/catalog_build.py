"""How a catalog is made of a listing, in memory that does not grow with the number of files.

Two passes.  The first writes entries and names as keys come, in their order: a stack of the directories one is
in suffices, since the keys below a directory are neighbours.  But `x` and `x/y` are not ("x", "x-1", "x/y"), so
a file may turn out to be a directory later; it is taken back then.  The second pass goes over what has stayed
and does what depends on that: packs, the times of directories, counts, and the generation.

All is written to an unnamed file beside the result, which is a compact copy of it and appears complete.
"""

import json
import os
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

import lmdb

from dsfs.model.blocks import pages
from dsfs.model.keys import KeyPath, Unusable, key_path
from dsfs.model.objects import ObjectRef, identity_of
from dsfs.model.packing import SMALL_MAX, PackCutter
from dsfs.storage import catalog_format
from dsfs.storage.catalog_format import NO_PACK, ROOT, CatalogFileError, Entry, Pack, Summary

EXAMPLES_MAX = 100  # keys left out that are named
MAP_SIZE = 1 << 36  # bytes of address space, not of memory or disk; no catalog comes near
COMMIT_EVERY = 20_000  # writes; a transaction keeps the pages it changed in memory


def build_catalog(objects: Iterator[ObjectRef], *, prefix: str, origin_id: str, path: Path) -> Summary:
    """Write the catalog of the objects below `prefix` to `path`, on local disk; it is there completely or not at all.

    `objects` come in the order of their keys (ValueError if not).  Raises CatalogFileError or OSError if the
    file cannot be written, and what `objects` raises.
    """
    listed_at_s = int(time.time())
    try:
        with closing(_Store(path.parent)) as store:
            tree = _Tree(store, prefix)
            for obj in objects:
                tree.add(obj)
            finish = _Finish(store, prefix, origin_id)
            finish.run()
            summary = Summary(
                generation=finish.generation.hexdigest(),
                files=finish.files,
                directories=finish.directories,
                bytes=finish.bytes,
                packs=finish.packs,
                large_objects=finish.large_objects,
                left_out=tree.left_out,
                left_out_examples=tree.left_out_examples,
                origin_id=origin_id,
                prefix=prefix,
                listed_at_s=listed_at_s,
                made_s=finish.newest_s,
            )
            store.put(store.meta, b"format", catalog_format.FORMAT)
            store.put(store.meta, b"summary", json.dumps(asdict(summary)).encode())
            store.save(path)
    except lmdb.Error as exc:
        raise CatalogFileError(f"{path}: {exc}") from exc
    return summary


class _Store:
    """An LMDB environment in an unnamed file in `folder`, written by one thread."""

    def __init__(self, folder: Path) -> None:
        # Held until LMDB has forgotten the file, which it knows by the inode: the next file with it would be refused.
        self._held, name = tempfile.mkstemp(dir=folder, prefix=".catalog-")
        try:
            # Neither locked nor durable: nobody else sees it, and only the copy stays.
            self._env = lmdb.open(
                name, subdir=False, lock=False, sync=False, metasync=False,
                map_size=MAP_SIZE, max_dbs=len(catalog_format.DATABASES),
            )  # fmt: skip
        except BaseException:
            os.close(self._held)
            raise
        finally:
            os.unlink(name)
        self.meta, self.entries, self.names, self.packs, self.large = (
            self._env.open_db(name) for name in catalog_format.DATABASES
        )
        self._txn = self._env.begin(write=True)
        self._writes = 0

    def get(self, db: lmdb._Database, key: bytes) -> bytes | None:
        return self._txn.get(key, db=db)

    def put(self, db: lmdb._Database, key: bytes, value: bytes, *, append: bool = False) -> None:
        """`append`: the key is greater than all in the database; its pages are then filled wholly."""
        self._count_write()
        self._txn.put(key, value, db=db, append=append)

    def delete(self, db: lmdb._Database, key: bytes) -> None:
        self._count_write()
        self._txn.delete(key, db=db)

    def _count_write(self) -> None:
        self._writes += 1
        if self._writes % COMMIT_EVERY == 0:
            self._commit()

    def all_entries(self) -> Iterator[Entry]:
        """The entries in the order of indexes; they may be written meanwhile."""
        following = ROOT
        while batch := self._entries_from(following):
            yield from batch
            following = batch[-1].index + 1

    def _entries_from(self, index: int) -> list[Entry]:
        found: list[Entry] = []
        with self._txn.cursor(self.entries) as cursor:
            if cursor.set_range(catalog_format.entry_key(index)):
                for key, row in cursor:
                    if len(found) == COMMIT_EVERY:
                        break
                    found.append(catalog_format.decode_entry(catalog_format.index_in(key), row))
        return found

    def _commit(self) -> None:
        self._txn.commit()
        self._txn = self._env.begin(write=True)

    def save(self, path: Path) -> None:
        """Make `path` a compact copy, durably, in place of what was there."""
        self._commit()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".catalog-")
        try:
            try:
                self._env.copyfd(handle, compact=True)
                os.fchmod(handle, 0o644)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        self._txn.abort()
        self._env.close()
        os.close(self._held)


class _Tree:
    """First pass: entries and names, as the keys come."""

    def __init__(self, store: _Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._previous = ""
        self._inside: list[bytes] = []  # names of the directories one is in, and
        self._indexes = [ROOT]  # their indexes, the root's first
        self._next = ROOT + 1
        self._last_name_key = b""
        self.left_out = 0
        self.left_out_examples: list[tuple[str, str]] = []
        self._put(Entry(ROOT, ROOT, b"", True, 0, 0, None))

    def add(self, obj: ObjectRef) -> None:
        """Take the next object."""
        if not obj.key.startswith(self._prefix) or obj.key <= self._previous:
            raise ValueError(f"{obj.key!r} is not below {self._prefix!r}, or not behind {self._previous!r}")
        self._previous = obj.key
        relative = obj.key[len(self._prefix) :]
        if not relative:
            return  # the marker of the version itself
        found = key_path(relative, obj.size)
        if isinstance(found, Unusable):
            self._leave_out(obj.key, found)
        else:
            self._add_path(obj, found)

    def _add_path(self, obj: ObjectRef, path: KeyPath) -> None:
        self._enter(path.directories)
        if path.name is not None:
            entry = Entry(self._next, self._indexes[-1], path.name, False, obj.size, obj.modified_s, obj.etag)
            self._put_new(entry)
        else:  # the marker is the first key in its directory, which was therefore just made
            *_, parent, index = self._indexes
            self._put(Entry(index, parent, path.directories[-1], True, 0, obj.modified_s, None))

    def _enter(self, directories: tuple[bytes, ...]) -> None:
        """Leave and make directories until one is in these."""
        same = 0
        for name, inside in zip(directories, self._inside, strict=False):
            if name != inside:
                break
            same += 1
        del self._inside[same:], self._indexes[same + 1 :]
        for name in directories[same:]:
            self._inside.append(name)
            self._take_back(name)
            self._indexes.append(self._next)
            self._put_new(Entry(self._next, self._indexes[-2], name, True, 0, 0, None))

    def _take_back(self, name: bytes) -> None:
        """Leave out the file that has the name of the directory that is to be made."""
        value = self._store.get(self._store.names, catalog_format.name_key(self._indexes[-1], name))
        if value is not None:
            self._store.delete(self._store.entries, value)
            self._leave_out(self._prefix + b"/".join(self._inside).decode(), Unusable.ALSO_DIRECTORY)

    def _leave_out(self, key: str, reason: Unusable) -> None:
        self.left_out += 1
        if len(self.left_out_examples) < EXAMPLES_MAX:
            self.left_out_examples.append((key, reason.value))

    def _put_new(self, entry: Entry) -> None:
        self._next += 1
        self._put(entry, is_new=True)
        key = catalog_format.name_key(entry.parent, entry.name)
        value = catalog_format.entry_key(entry.index)
        # True for the files of a directory that has no directories: most.
        is_greatest = key > self._last_name_key
        self._store.put(self._store.names, key, value, append=is_greatest)
        if is_greatest:
            self._last_name_key = key

    def _put(self, entry: Entry, *, is_new: bool = False) -> None:
        key = catalog_format.entry_key(entry.index)
        self._store.put(self._store.entries, key, catalog_format.encode_entry(entry), append=is_new)


@dataclass(slots=True)
class _OpenDirectory:
    entry: Entry
    path: bytes  # with a slash at the end; b"" for the root
    mtime_s: int


@dataclass(slots=True)
class _OpenPack:
    number: int
    size: int = 0
    fingerprints: bytearray = field(default_factory=bytearray)
    indexes: "array[int]" = field(default_factory=lambda: array("Q"))
    sizes: "array[int]" = field(default_factory=lambda: array("I"))


class _Finish:
    """Second pass: packs, segments of large objects, times of directories, counts and the generation.

    The generation is a digest of what a reader sees and where its bytes come from: so with the same generation
    two catalogs name the same objects.
    """

    def __init__(self, store: _Store, prefix: str, origin_id: str) -> None:
        self._store = store
        self._prefix = prefix
        self._origin_id = origin_id
        self._stack: list[_OpenDirectory] = []
        self._cutter = PackCutter()
        self._pack = _OpenPack(NO_PACK)
        self.generation = blake2b(digest_size=20, person=b"dsfs generation")
        self.generation.update(_fields(catalog_format.FORMAT, origin_id.encode(), prefix.encode()))
        self.files = self.directories = self.bytes = self.packs = self.large_objects = self.newest_s = 0

    def run(self) -> None:
        for entry in self._store.all_entries():
            while self._stack and self._stack[-1].entry.index != entry.parent:
                self._leave_directory()
            if entry.is_dir:
                self._enter_directory(entry)
            else:
                self._add_file(entry)
        while self._stack:
            self._leave_directory()
        self._close_pack()

    def _enter_directory(self, entry: Entry) -> None:
        path = b""
        if entry.index != ROOT:
            path = self._stack[-1].path + entry.name + b"/"
            self.directories += 1
            self.generation.update(_fields(path))
        self._stack.append(_OpenDirectory(entry, path, entry.mtime_s))

    def _leave_directory(self) -> None:
        left = self._stack.pop()
        if self._stack:
            self._stack[-1].mtime_s = max(self._stack[-1].mtime_s, left.mtime_s)
        if left.mtime_s != left.entry.mtime_s:
            left.entry.mtime_s = left.mtime_s
            self._rewrite(left.entry)
        self.newest_s = left.mtime_s  # in the end that of the root

    def _add_file(self, entry: Entry) -> None:
        folder = self._stack[-1]
        folder.mtime_s = max(folder.mtime_s, entry.mtime_s)
        path = folder.path + entry.name
        version = f"etag {entry.etag}" if entry.etag is not None else f"modified {entry.mtime_s}"
        self.generation.update(_fields(path, str(entry.size).encode(), version.encode("utf-8", "surrogatepass")))
        self.files += 1
        self.bytes += entry.size
        if entry.size:
            obj = ObjectRef(self._prefix + path.decode(), entry.size, entry.etag, entry.mtime_s)
            fingerprint = obj.fingerprint(self._origin_id)
            if entry.size <= SMALL_MAX:
                self._add_member(entry, fingerprint)
            else:
                self._add_large(entry, fingerprint)

    def _add_large(self, entry: Entry, fingerprint: bytes) -> None:
        self.large_objects += 1
        value = catalog_format.encode_large(identity_of(fingerprint), entry.size)
        self._store.put(self._store.large, catalog_format.entry_key(entry.index), value, append=True)

    def _add_member(self, entry: Entry, fingerprint: bytes) -> None:
        if self._cutter.begins_pack(fingerprint, entry.size):
            self._close_pack()
            self._pack = _OpenPack(self.packs)
            self.packs += 1
        pack = self._pack
        entry.pack, entry.member, entry.offset = pack.number, len(pack.indexes), pack.size
        self._rewrite(entry)
        pack.size += pages(entry.size)
        pack.fingerprints += fingerprint
        pack.indexes.append(entry.index)
        pack.sizes.append(entry.size)

    def _close_pack(self) -> None:
        pack = self._pack
        if pack.indexes:
            closed = Pack(pack.number, identity_of(bytes(pack.fingerprints)), len(pack.indexes), pack.size)
            row = catalog_format.encode_pack(closed, pack.indexes, pack.sizes)
            self._store.put(self._store.packs, catalog_format.pack_key(pack.number), row, append=True)

    def _rewrite(self, entry: Entry) -> None:
        row = catalog_format.encode_entry(entry)
        self._store.put(self._store.entries, catalog_format.entry_key(entry.index), row)


def _fields(*fields: bytes) -> bytes:
    """Fields as one text: none has a NUL, and the digest of two lists is the same only if they are."""
    return b"\0".join(fields) + b"\0\n"
