"""A round of the census: the server is asked for the mtime of each folder, and those are read that have changed.

So a round costs in proportion to what has changed: 1 request for each folder, 1 for each segment that is being filled,
and for what is new.  What a file takes that grows in its place (an event log) is noticed within a day, when each folder
is looked through; so is what others have done to sealed files.  A round is bounded: the folder comes first that was not
seen for longest.

Which segments a generation has it says itself (segmentlist.py).  One that cannot be understood may have any.

Time is the server's.  Its mtimes have ticks, so a folder that has changed a moment ago is read once more; over NFSv3 a
second change within one tick may be seen no sooner than the next one, or the next day.

Concurrency: one thread.
"""

import logging
import os
import re
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from pathlib import Path
from zlib import crc32

from dsfs.model.trashname import stamp_in
from dsfs.storage.backing import FOLDERS, REQUESTS, BackingDirectory
from dsfs.storage.catalog_format import CatalogFileError
from dsfs.storage.censusfile import CensusFile
from dsfs.storage.censusrecords import NOTHING_THERE, UNREAD, Folder, Generation
from dsfs.storage.filesystem import GONE, SNAPSHOTS, mtime_ns, refresh_names
from dsfs.storage.generations import CATALOG, UNDESCRIBED, described, segments_of
from dsfs.storage.segmentfolder import filling_now, read_folder
from dsfs.storage.taken import room_below, room_of

log = logging.getLogger(__name__)

MOST_ENTRIES = 100_000  # folders, names and files looked at in a round, and one folder more
SAFE_NS = 2 * 10**9  # no file server has longer ticks
DAY_NS = 86_400 * 10**9
_GENERATION = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Scan:
    """What a round has done.  `since_ns`: all is known as it was then or later; None while something was never seen.

    `looked`, `read`: folders; `entries`: what of MOST_ENTRIES it took; `unknown`: paths of generations that cannot be
    understood; `trouble`: why a folder could not be looked at, "" if all could.
    """

    since_ns: int | None
    looked: int
    read: int
    entries: int
    unknown: tuple[str, ...]
    trouble: str


class Scanner:
    """Keeps the `file` up to date.  `work`: where a catalog is copied to if need be, on local disk."""

    def __init__(self, file: CensusFile, backing: BackingDirectory, work: Path) -> None:
        self._file = file
        self._backing = backing
        self._fs = backing.file_system
        self._work = work
        self._children: dict[str, set[str]] = {}
        for path in filter(None, file.folders):
            self._children.setdefault(_above(path), set()).add(path)

    def scan(self, now_ns: int, most_entries: int) -> Scan:
        """See Census."""
        self._backing.check_mark()
        self._begin(now_ns)
        # Where the server's clock was set back, what was seen by the old one would come last until it is so late again.
        queue = [
            (folder.seen_ns if folder.seen_ns <= now_ns else 0, path) for path, folder in self._file.folders.items()
        ]
        heapify(queue)
        met = set(self._file.folders)
        looked = read = entries = 0
        troubles: list[str] = []
        while queue and entries < most_entries:
            _, path = heappop(queue)
            if (folder := self._file.folders.get(path)) is None:
                continue  # it has gone with the one above
            try:
                is_read, count = self._look(folder, now_ns)
            except OSError as exc:
                troubles.append(f"{path or '.'}: {exc.strerror}")
                continue
            looked += 1
            read += is_read
            entries += 1 + count
            for child in self._children.get(path, set()) - met:
                met.add(child)
                heappush(queue, (0, child))
        if troubles:
            log.info("%d folders could not be looked at: %s", len(troubles), troubles[0])
        self._backing.check_mark()
        folders = self._file.folders
        unknown = sorted(f"{path}/{name}" for path, folder in folders.items() for name in folder.unknown)
        since_ns = min((folder.seen_ns for folder in folders.values()), default=0) or None
        return Scan(since_ns, looked, read, entries, tuple(unknown), troubles[0] if troubles else "")

    def _begin(self, now_ns: int) -> None:
        for number, generation in list(self._file.generations.items()):
            if not generation.is_joined:  # a crash came in the middle
                self._file.leave(number, now_ns)
        if not self._file.folders:
            with self._file.change(now_ns) as change:
                change.put_folder(Folder(""))

    def _look(self, folder: Folder, now_ns: int) -> tuple[bool, int]:
        """Whether the folder had to be read, and what it cost beyond its mtime."""
        path = self._backing.path / folder.path
        try:
            changed_ns = mtime_ns(path)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            self._forget(folder.path, now_ns)
            return False, 0
        is_full = _day(folder.path, now_ns) != _day(folder.path, folder.full_ns)
        if not is_full and changed_ns == folder.mtime_ns:
            if _is_segment_folder(folder.path):
                return False, self._look_at_fillings(folder, path, now_ns)
            folder.seen_ns = now_ns
            return False, 0
        new = Folder(
            folder.path,
            changed_ns if now_ns - changed_ns >= SAFE_NS else UNREAD,
            now_ns,
            now_ns if is_full else folder.full_ns,
        )
        if _is_segment_folder(folder.path):
            return True, self._read_segments(new, folder, path, is_full=is_full)
        if _is_version(folder.path):
            return True, self._read_generations(new, path)
        return True, self._read_plain(new, path)

    # ---------------------------------------------------------------- segments

    def _read_segments(self, new: Folder, before: Folder, path: Path, *, is_full: bool) -> int:
        known = self._file.segments_in(bytes.fromhex(path.name))
        found = read_folder(path, known, before.trash, self._fs, new.seen_ns, is_full=is_full)
        if not found.is_settled:
            new.mtime_ns = UNREAD
        new.size_bytes, new.inodes, new.trash = found.taken.size_bytes, found.taken.inodes, found.trash
        with self._file.change(new.seen_ns) as change:
            for identity, was, is_now in found.changes:
                change.put(identity, was, is_now)
            change.put_folder(new)
        return found.entries

    def _look_at_fillings(self, folder: Folder, path: Path, now_ns: int) -> int:
        """What is being filled takes more and more, without a sign; returns how many segments that are."""
        known = self._file.entries(self._file.fillings_in(bytes.fromhex(path.name)))
        found = [(identity, was, filling_now(path, identity, was, self._fs)) for identity, was in known]
        changes = [(identity, was, is_now) for identity, was, is_now in found if is_now is not None and is_now != was]
        if not changes:
            folder.seen_ns = now_ns
            return len(found)
        new = replace(folder, seen_ns=now_ns)
        with self._file.change(now_ns) as change:
            for identity, was, is_now in changes:
                change.put(identity, was, is_now)
                new.size_bytes += is_now.size_bytes - was.size_bytes
            change.put_folder(new)
        return len(found)

    # ---------------------------------------------------------------- generations

    def _read_generations(self, new: Folder, path: Path) -> int:
        taken, generations, entries = room_of(os.lstat(path)), set(), 0
        for entry in _listed(path):
            entries += 1
            if not entry.is_dir(follow_symlinks=False):
                taken += room_below(Path(entry.path))
            elif stamp_in(entry.name) is not None and _GENERATION.fullmatch(entry.name.partition(".")[0]):
                room = room_below(Path(entry.path))
                new.trash.append((entry.name, room.size_bytes, room.inodes))
            elif not entry.name.startswith("."):
                taken += room_below(Path(entry.path))
                if _GENERATION.fullmatch(entry.name):
                    generations.add(entry.name)
        new.size_bytes, new.inodes = taken.size_bytes, taken.inodes
        known = self._file.numbers_of(*_version_at(new.path))
        for generation in known.keys() - generations:
            self._file.leave(known[generation], new.seen_ns)
        for generation in sorted(generations):
            try:
                entries += self._take_in(path / generation, known.get(generation), new)
            except (CatalogFileError, *UNDESCRIBED) as exc:
                if isinstance(exc, OSError) and exc.errno not in GONE:
                    raise
                if generation not in known:
                    log.info("the segments of %s cannot be known: %s", path / generation, exc)
                    new.unknown.append(generation)
        with self._file.change(new.seen_ns) as change:
            change.put_folder(new)
        return entries

    def _take_in(self, path: Path, number: int | None, folder: Folder) -> int:
        """Know the generation at `path`, and which sequence number it has now; how many segments were new to it."""
        refresh_names(path, self._fs)
        placed = described(path)
        if number is None:
            segments = segments_of(placed, self._work)
            placed_ns = os.lstat(path / CATALOG).st_mtime_ns
            key = (*_version_at(folder.path), placed.generation)
            made_ns = placed.made_s * 10**9 or placed_ns
            generation = Generation(key, placed.sequence, made_ns, placed_ns, segments.size_bytes)
            self._file.join(generation, segments.identities, folder.seen_ns)
            return len(segments)
        if self._file.generations[number].sequence != placed.sequence:
            with self._file.change(folder.seen_ns) as change:
                change.put_generation(number, replace(self._file.generations[number], sequence=placed.sequence))
        return 0

    # ---------------------------------------------------------------- other folders

    def _read_plain(self, new: Folder, path: Path) -> int:
        taken, children, entries = room_of(os.lstat(path)), set(), 0
        for entry in _listed(path):
            entries += 1
            if not entry.is_dir(follow_symlinks=False):
                taken += room_below(Path(entry.path))
            elif entry.name != SNAPSHOTS and (new.path or entry.name in (*FOLDERS, REQUESTS)):
                children.add(f"{new.path}/{entry.name}" if new.path else entry.name)
        new.size_bytes, new.inodes = taken.size_bytes, taken.inodes
        known = self._children.setdefault(new.path, set())
        for child in known - children:
            self._forget(child, new.seen_ns)
        with self._file.change(new.seen_ns) as change:
            for child in children - known:
                change.put_folder(Folder(child))
            change.put_folder(new)
        self._children[new.path] = children
        return entries

    def _forget(self, path: str, now_ns: int) -> None:
        """The folder is not there any more; if that is because nothing is mounted, the one above will find it again."""
        for child in list(self._children.pop(path, ())):
            self._forget(child, now_ns)
        if _is_version(path):
            for number in self._file.numbers_of(*_version_at(path)).values():
                self._file.leave(number, now_ns)
        with self._file.change(now_ns) as change:
            if _is_segment_folder(path):
                for identity, was in self._file.segments_in(bytes.fromhex(path.rpartition("/")[2])).items():
                    change.put(identity, was, NOTHING_THERE)
            change.forget_folder(path)
            if path and (above := self._file.folders.get(_above(path))) is not None:
                change.put_folder(replace(above, mtime_ns=UNREAD, seen_ns=0))
        self._children.get(_above(path), set()).discard(path)


def is_of_segments(path: str) -> bool:
    """Whether segments lie in the folder, or below it."""
    return path == "segments" or path.startswith("segments/")


def _is_segment_folder(path: str) -> bool:
    above, _, name = path.rpartition("/")
    return above == "segments" and re.fullmatch(r"[0-9a-f]{2}", name) is not None


def _is_version(path: str) -> bool:
    return path.startswith("versions/") and path.count("/") == 2


def _version_at(path: str) -> tuple[str, str]:
    _, dataset, version = path.split("/")
    return dataset, version


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def _day(path: str, time_ns: int) -> int:
    """Days end at another time for each folder."""
    return (time_ns + crc32(os.fsencode(path)) * 10**9) // DAY_NS


def _listed(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)
