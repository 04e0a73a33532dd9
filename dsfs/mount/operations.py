"""The requests of the kernel: unpack, call, reply.  The one place where an exception becomes an errno.

Everything below a version is immutable, so the kernel may believe it for ever: names, attributes, absent
names, and pages (keep_cache).  What a name of a dataset or version stands for may change with a refresh: the kernel
believes it for NAMES_S.

Concurrency: one task a request, on the trio thread.  A handler raises nothing but FUSEError: anything else
would leave the request unanswered and end the mount.
"""

import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError

from dsfs.cache.library import Library
from dsfs.cache.open import Opener
from dsfs.cache.read import OpenFile, Reader
from dsfs.cache.versions import Dataset, Generation, Version
from dsfs.metrics import Metrics
from dsfs.model.errors import DsfsError, NotFoundError
from dsfs.model.keys import NAME_MAX
from dsfs.mount.inodes import ROOT, Inodes, Place
from dsfs.mount.openreply import LASTING
from dsfs.storage.catalog import Entry
from dsfs.storage.room import Room

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

NAMES_S = 1.0  # so soon a refresh shows; to be asked takes 40 us
FOREVER_S = 1e6  # what the kernel takes as "until told otherwise" (11 days)
LARGEST_SIZE = 2**63 - 1  # bytes; a limit may be larger, what programs compute with may not
XATTR_PREFIX = b"user.dsfs."
XATTRS = ("object", "etag", "resident", "generation")
WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND


def answers(
    handler: Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]]:
    """Turn what a handler raises into the errno of its reply."""

    @functools.wraps(handler)
    async def wrapper(self: "Operations", *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except NotFoundError as exc:
            raise FUSEError(errno.ENOENT) from exc
        except DsfsError as exc:
            log.warning("%s: %s: %s", handler.__name__, errno.errorcode[exc.errno], exc)
            raise FUSEError(exc.errno) from exc
        except Exception as exc:  # a bug: never let it end the mount
            log.exception("%s%r: unexpected error", handler.__name__, args)
            raise FUSEError(errno.EIO) from exc

    return cast(Callable[Concatenate["Operations", P], Coroutine[Any, Any, R]], wrapper)


@dataclass(slots=True)
class OpenDirectory:
    """`names`.

    Of the mountpoint and of datasets, as they were at opendir; else the directory `index` of a generation.
    """

    names: Sequence[str] = ()
    parent: Dataset | None = None
    generation: Generation | None = None
    index: int = 0


@dataclass
class Operations(pyfuse3.Operations):
    """The file system as pyfuse3 calls it."""

    library: Library
    opener: Opener
    reader: Reader
    room: Room
    metrics: Metrics
    uid: int
    gid: int
    inodes: Inodes = field(default_factory=Inodes)
    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __post_init__(self) -> None:
        super().__init__()
        self._started_ns = time.time_ns()
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._next_handle = 1

    # ---------------------------------------------------------------- attributes

    @answers
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        if len(name) > NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)  # the kernel refuses only far longer ones
        holder = None if parent_inode == ROOT else self._place(parent_inode).holder
        try:
            if holder is None:
                return self._of_dataset(await self.library.dataset(os.fsdecode(name)))
            if isinstance(holder, Dataset):
                return self._of_version(await self.library.version(holder, os.fsdecode(name)))
        except NotFoundError:
            return self._absent(NAMES_S)
        generation, index = await self._directory(parent_inode)
        entry = generation.catalog.child(index, name)
        return self._absent(FOREVER_S) if entry is None else self._of_entry(generation, entry)

    @answers
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> EntryAttributes:
        return await self._attributes(inode)

    async def _attributes(self, inode: int) -> EntryAttributes:
        if inode == ROOT:
            return self._directory_attributes(
                ROOT, 0o755, self.uid, self.gid, self._started_ns, NAMES_S
            )
        place = self._place(inode)
        if isinstance(place.holder, Dataset):
            return self._of_dataset(place.holder)
        if isinstance(place.holder, Version):
            return self._of_version(place.holder)
        return self._of_entry(place.holder, place.holder.catalog.entry(place.index))

    def _place(self, inode: int) -> Place:
        place = self.inodes.place(inode)
        if place is None:
            raise FUSEError(errno.ESTALE)
        return place

    async def _directory(self, inode: int) -> tuple[Generation, int]:
        """The directory of a catalog that the inode stands for; a version's catalog is made ready."""
        place = self._place(inode)
        if isinstance(place.holder, Version):
            # The version's own inode means the first generation it had: a newer one has a root of its own.
            current = await self.library.generation(place.holder)
            place.holder.was_used = True
            return place.holder.first or current, 0
        if isinstance(place.holder, Generation):
            place.holder.version.was_used = True
            return place.holder, place.index
        raise FUSEError(errno.ENOTDIR)

    def _of_dataset(self, dataset: Dataset) -> EntryAttributes:
        inode = self.inodes.of_dataset(dataset)
        return self._directory_attributes(
            inode, dataset.dir_mode, dataset.uid, dataset.gid, self._started_ns, NAMES_S
        )

    def _of_version(self, version: Version) -> EntryAttributes:
        dataset = version.dataset
        current = version.current
        time_ns = current.catalog.entry(0).mtime_s * 1_000_000_000 if current else self._started_ns
        attributes = self._directory_attributes(
            self.inodes.of_version(version), dataset.dir_mode, dataset.uid, dataset.gid, time_ns, NAMES_S
        )
        # tar calls a file changed whose ctime changes while it is read, and the first to read a version has it listed.
        attributes.st_ctime_ns = self._started_ns
        return attributes

    def _of_entry(self, generation: Generation, entry: Entry) -> EntryAttributes:
        dataset = generation.version.dataset
        inode = self.inodes.of_entry(generation, entry.index)
        time_ns = entry.mtime_s * 1_000_000_000
        if entry.is_dir:
            return self._directory_attributes(
                inode, dataset.dir_mode, dataset.uid, dataset.gid, time_ns, FOREVER_S
            )
        attributes = self._base(
            inode, stat.S_IFREG | dataset.file_mode, dataset.uid, dataset.gid, time_ns, FOREVER_S
        )
        attributes.st_nlink = 1
        attributes.st_size = entry.size
        attributes.st_blocks = -(-entry.size // 512)
        return attributes

    def _directory_attributes(
        self, inode: int, mode: int, uid: int, gid: int, time_ns: int, believed_s: float
    ) -> EntryAttributes:
        attributes = self._base(inode, stat.S_IFDIR | mode, uid, gid, time_ns, believed_s)
        attributes.st_nlink = 2
        return attributes

    def _base(
        self, inode: int, mode: int, uid: int, gid: int, time_ns: int, believed_s: float
    ) -> EntryAttributes:
        attributes = EntryAttributes()
        attributes.st_ino = inode
        attributes.st_mode = mode
        attributes.st_uid = uid
        attributes.st_gid = gid
        attributes.st_blksize = 128 * 1024
        attributes.st_atime_ns = attributes.st_mtime_ns = attributes.st_ctime_ns = time_ns
        attributes.entry_timeout = attributes.attr_timeout = believed_s
        return attributes

    def _absent(self, believed_s: float) -> EntryAttributes:
        """The reply that lets the kernel remember that there is no such name."""
        attributes = EntryAttributes()
        attributes.st_ino = 0
        attributes.entry_timeout = believed_s
        return attributes

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nothing is kept for an inode."""

    # ---------------------------------------------------------------- directories

    @answers
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        if inode == ROOT:
            directory = OpenDirectory(await self.library.dataset_names())
        elif isinstance(dataset := self._place(inode).holder, Dataset):
            directory = OpenDirectory(await self.library.version_names(dataset), dataset)
        else:
            generation, index = await self._directory(inode)
            directory = OpenDirectory(generation=generation, index=index)
            return self._handle(self._directories, directory, LASTING)
        return self._handle(self._directories, directory)

    @answers
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        self.metrics.directory_requests.add()
        directory = self._directories[fh]
        if (generation := directory.generation) is not None:
            for entry in generation.catalog.children(directory.index, start_id):
                if not pyfuse3.readdir_reply(
                    token, entry.name, self._of_entry(generation, entry), entry.index
                ):
                    return
            return
        for position in range(start_id, len(directory.names)):
            name = directory.names[position]
            try:
                if directory.parent is None:
                    attributes = self._of_dataset(await self.library.dataset(name))
                else:
                    attributes = self._of_version(await self.library.version(directory.parent, name))
            except DsfsError:
                continue  # gone since opendir
            if not pyfuse3.readdir_reply(token, os.fsencode(name), attributes, position + 1):
                return

    @answers
    async def releasedir(self, fh: int) -> None:
        del self._directories[fh]

    # ---------------------------------------------------------------- files

    @answers
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> FileInfo:
        if flags & WRITE_FLAGS:
            raise FUSEError(errno.EROFS)
        generation, index = await self._directory(inode)
        entry = generation.catalog.entry(index)
        if entry.is_dir:
            raise FUSEError(errno.EISDIR)
        file = await self.opener.open(generation, entry)
        return FileInfo(fh=self._handle(self._files, file), keep_cache=True)

    @answers
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        began = time.perf_counter()
        file = self._files[fh]
        try:
            got = await self.reader.read(file, offset, size)
        except Exception as exc:
            number = exc.errno if isinstance(exc, DsfsError) else errno.EIO  # as `answers` replies
            self.metrics.read_errors.add(label=errno.errorcode[number])
            raise
        finally:
            self.metrics.read_seconds.observe(time.perf_counter() - began)
            self.metrics.read_requests.add()
        self.metrics.read_bytes.add(len(got))
        file.generation.version.was_used = True
        return cast(bytes, got)  # pyfuse3 takes any buffer and replies before anything else runs

    async def flush(self, fh: int) -> None:
        # Answered so once, the kernel never asks again: one request less for each close.
        raise FUSEError(errno.ENOSYS)

    @answers
    async def release(self, fh: int) -> None:
        self.opener.release(self._files.pop(fh))

    def _handle(self, table: dict[int, R], value: R, mark: int = 0) -> int:
        handle = self._next_handle | mark
        self._next_handle += 1
        table[handle] = value
        return handle

    # ---------------------------------------------------------------- the rest

    @answers
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The size is `backing.limit`, used is what lies in the backing directory: `df` shows the cache."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        size = min(self.room.limit_bytes, LARGEST_SIZE)
        data.f_blocks = size // 4096
        data.f_bfree = data.f_bavail = max(0, size - self.room.used_bytes) // 4096
        data.f_namemax = NAME_MAX
        return data

    @answers
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        wanted = name.removeprefix(XATTR_PREFIX)
        if wanted == name or inode == ROOT:
            raise FUSEError(pyfuse3.ENOATTR)
        facts = await self._xattrs(inode)
        value = facts.get(wanted.decode("ascii", "replace"))
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value.encode("utf-8", "surrogateescape")

    @answers
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        if inode == ROOT:
            return []
        return [XATTR_PREFIX + name.encode() for name in await self._xattrs(inode)]

    async def _xattrs(self, inode: int) -> dict[str, str]:
        """What of XATTRS there is for the inode."""
        place = self._place(inode)
        if not isinstance(place.holder, Generation):
            current = place.holder.current if isinstance(place.holder, Version) else None
            return {"generation": current.id} if current else {}
        generation = place.holder
        entry = generation.catalog.entry(place.index)
        if entry.is_dir:
            return {"generation": generation.id}
        obj = generation.catalog.object_of(entry)
        resident, total = await self.opener.resident_blocks(generation, entry)
        facts = {
            "object": f"{generation.version.dataset.origin.origin_id}/{obj.key}",
            "etag": obj.etag,
            "resident": f"{resident}/{total}",
            "generation": generation.id,
        }
        return {name: value for name in XATTRS if (value := facts[name]) is not None}
