"""The names of a segment's files, what takes them away, and what those files take.

Concurrency: blocking calls, safe to use from several threads and nodes at once.
"""

import logging
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from dsfs.model.blocks import PAGE, BlockTable, pages
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage import blockmap
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, Allocated, FileSystem, allocated, is_there, refresh_names, remove
from dsfs.storage.taken import room_now

log = logging.getLogger(__name__)

# A page of a file system holds so many extents that they are as long together, however small they are.
TREE_BYTES = 32 * 1024 * 1024


def beside(path: Path, suffix: str) -> Path:
    """The file of the segment at `path` whose name ends in `suffix` ("" for the sealed one)."""
    return path.with_name(path.name + suffix)


def remove_waste(path: Path, *suffixes: str) -> bool:
    """Remove files of the segment that are of no use any more; whether all are gone.  What stays is waste."""
    are_gone = True
    for suffix in suffixes:
        try:
            remove(beside(path, suffix))
        except OSError as exc:
            log.info("segment %s%s cannot be removed: %s", path.name, suffix, exc)
            are_gone = False
    return are_gone


def is_sealed(path: Path) -> bool:
    """Whether the sealed file and its checksums are there.  OSError if that cannot be known."""
    return is_there(path) and is_there(beside(path, ".sum"))


def remove_old_names(path: Path, fd: int, fs: FileSystem) -> bool:
    """Remove the names that the file `fd` had before its seal, or has yet though another one was sealed first; whether
    they are gone.

    Only if `.part` is that file and the segment is sealed: else they may be those of a filling that goes on, since
    somebody wrote late, and who opened it has unsealed it.  Between the look and the removal that may happen yet, in
    the time of two or three requests: then the segment is fetched again.
    """
    try:
        refresh_names(path.parent, fs)
        if is_sealed(path) and os.path.samestat(os.stat(beside(path, ".part")), os.fstat(fd)):
            return remove_waste(path, ".map", ".part")
    except OSError as exc:
        if exc.errno in GONE:
            return True  # another node has: of the two .part is the last to go
        log.info("segment %s: what is left of its filling cannot be removed: %s", path.name, exc)
    return False


def remove_all(path: Path, fs: FileSystem) -> Amount:
    """Remove all files of the segment; returns what they took, but for what another node has removed meanwhile, and
    what has another name yet, with which it is counted (trash.py: it was hidden while it was being sealed).

    OSError if one of them cannot be removed.
    """
    refresh_names(path.parent, fs)  # a name of another node's might be believed not to be there
    names = [beside(path, suffix) for suffix in ("", ".sum", ".map", ".part")]
    found: dict[Path, Allocated] = {}
    for name in reversed(names):  # a seal gives the last of them: its inode is asked for once more then
        with suppress(FileNotFoundError):
            found[name] = allocated(name)
    ours = Counter(file.inode for file in found.values())  # one may have two names
    links = {file.inode: file.links for file in found.values()}
    sizes: dict[int, int] = {}
    for name in names:
        reach("segment.remove")
        if remove(name) and name in found and links[found[name].inode] <= ours[found[name].inode]:
            sizes[found[name].inode] = found[name].size_bytes
    return Amount(sum(sizes.values()), len(sizes))


def overhead(blocks: BlockTable) -> Amount:
    """The most that a segment takes beside its blocks: map, checksums, and what the file system notes of extents."""
    records = pages(blockmap.position(len(blocks)))
    return Amount(2 * records + PAGE * (1 + blocks.size // TREE_BYTES), 3)


def correction(path: Path, blocks: BlockTable) -> Amount:
    """What the segment takes that was just sealed, less what was reserved for it.

    Its data for certain: some file systems tell what a file takes only seconds later, or compress.
    """
    data_bytes = pages(blocks.size)
    try:
        size_bytes = max(data_bytes, room_now(path).size_bytes) + room_now(beside(path, ".sum")).size_bytes
    except OSError:  # somebody has removed it already
        return NOTHING
    return Amount(size_bytes - data_bytes, 2) - overhead(blocks)
