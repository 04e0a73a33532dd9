"""What lies in one of the folders of segments/: what each segment takes, what was taken away, and the rest.

Of a sealed segment that is known nothing is asked: it does not change, and if it was sealed anew, its bytes are the
same.  That it was, which matters for when it was filled, the READDIR tells by another inode number, unless the old one
is used again.  That it was used, which its checksums tell to the day (opening.py), is learned within a day.  So a
folder that has changed costs a READDIR and a look at what is new or being filled.  What was sealed a moment ago is
looked at once more: some file systems (ZFS) tell what a file takes only seconds later.

Concurrency: blocking calls; other nodes may rename and unlink meanwhile.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsfs.model.retention import NOTHING, Amount
from dsfs.model.trashname import stamp_in
from dsfs.storage.censusrecords import LATEST_NS, NOTHING_THERE, SegmentEntry
from dsfs.storage.filesystem import GONE, FileSystem, lstat_anew
from dsfs.storage.segmentlist import IDENTITY_BYTES
from dsfs.storage.taken import room_of

_IDENTITY = re.compile(f"[0-9a-f]{{{2 * IDENTITY_BYTES}}}")
_SEALED = frozenset({"", "sum"})
SETTLED_NS = 30 * 10**9  # so long after its last change a file takes what it will take

Trashed = tuple[str, int, int]  # name, bytes, inodes


@dataclass(slots=True)
class Contents:
    """`changes`: identity, what was known of it, and what is there; `taken`: all together, but for `trash`.

    `is_settled`: what was sealed takes what it will take.
    """

    changes: list[tuple[bytes, SegmentEntry, SegmentEntry]] = field(default_factory=list)
    taken: Amount = NOTHING
    trash: list[Trashed] = field(default_factory=list)
    entries: int = 0
    is_settled: bool = True


def read_folder(
    path: Path,
    known: Mapping[bytes, SegmentEntry],
    trash: Sequence[Trashed],
    fs: FileSystem,
    now_ns: int,
    *,
    is_full: bool,
) -> Contents:
    """What is there now, at this time of the server; `known` and `trash` are what was there before.

    `is_full`: each file is looked at again.
    """
    found = Contents()
    known_trash = {} if is_full else {trashed[0]: trashed for trashed in trash}
    strays = room_of(os.lstat(path))
    segments: dict[bytes, dict[str, os.DirEntry[str]]] = {}
    fan = path.name
    with os.scandir(path) as names:
        for entry in names:
            found.entries += 1
            name, _, suffix = entry.name.partition(".")
            if not _IDENTITY.fullmatch(name) or not name.startswith(fan):
                strays += _taken(entry)
            elif suffix and stamp_in(entry.name) is not None:
                found.trash.append(known_trash.get(entry.name) or (entry.name, *_bytes_and_inodes(_taken(entry))))
            else:
                segments.setdefault(bytes.fromhex(name), {})[suffix] = entry
    size_bytes = inodes = 0
    for identity, files in segments.items():
        before = known.get(identity, NOTHING_THERE)
        after = before
        if is_full or not before.seal or files.keys() != _SEALED or files[""].inode() != before.seal:
            is_again = files.keys() == _SEALED and bool(before.inodes) and not (before.seal or before.is_filling)
            after = _measured(files, path, fs, now_ns, is_again=is_again)._replace(owners=before.owners)
            found.is_settled &= bool(after.seal) or files.keys() != _SEALED
            if after != before:
                found.changes.append((identity, before, after))
        size_bytes += after.size_bytes
        inodes += after.inodes
    for identity, before in known.items():
        if identity not in segments and before.inodes:
            found.changes.append((identity, before, NOTHING_THERE))
    found.taken = strays + Amount(size_bytes, inodes)
    return found


def filling_now(path: Path, identity: bytes, before: SegmentEntry, fs: FileSystem) -> SegmentEntry | None:
    """What a segment takes of which blocks are filled; None if it is not being filled any more (1 GETATTR)."""
    try:
        found = lstat_anew(path / f"{identity.hex()}.part", fs)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        return None
    return before._replace(data_bytes=room_of(found).size_bytes, used_ns=min(found.st_mtime_ns, LATEST_NS))


def _measured(
    files: Mapping[str, os.DirEntry[str]], folder: Path, fs: FileSystem, now_ns: int, *, is_again: bool
) -> SegmentEntry:
    data_bytes = beside_bytes = used_ns = 0
    is_settled = True
    inodes: set[int] = set()  # in the middle of a seal, one file has two names
    for suffix, found in _looked_at(files, folder, fs, is_again=is_again):
        if found.st_ino in inodes:
            continue
        inodes.add(found.st_ino)
        is_settled &= not 0 <= now_ns - found.st_ctime_ns < SETTLED_NS
        if suffix in ("", "part") and not data_bytes:
            data_bytes = room_of(found).size_bytes
        else:
            beside_bytes += room_of(found).size_bytes
        used_ns = max(used_ns, min(found.st_mtime_ns, LATEST_NS))
    is_sealed = files.keys() == _SEALED and len(inodes) == len(_SEALED)
    seal = files[""].inode() if is_sealed and is_settled else 0
    is_filling = bool(inodes) and "part" in files and "" not in files
    return SegmentEntry(data_bytes, beside_bytes, used_ns, seal, len(inodes), is_filling)


def _looked_at(
    files: Mapping[str, os.DirEntry[str]], folder: Path, fs: FileSystem, *, is_again: bool
) -> Iterator[tuple[str, os.stat_result]]:
    for suffix, entry in sorted(files.items(), key=lambda item: item[0]):
        try:
            # What is written to by others, or was looked at before, the client may know as it was long ago.  It learns
            # of a new name by asking.
            is_doubtful = is_again or suffix == "part"
            found = lstat_anew(folder / entry.name, fs) if is_doubtful else entry.stat(follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            continue
        yield suffix, found


def _taken(entry: os.DirEntry[str]) -> Amount:
    try:
        return room_of(entry.stat(follow_symlinks=False))
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        return NOTHING


def _bytes_and_inodes(taken: Amount) -> tuple[int, int]:
    return taken.size_bytes, taken.inodes
