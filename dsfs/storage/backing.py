"""The backing directory: its layout, its format mark, and the room dsfs may take in it.

    dsfs.json                                        format version, cluster id
    versions/<name>/<version>/<generation>/          catalog.mdb, segments, summary.json: immutable
    turns/                                           see turn.py
    segments/<aa>/<identity>[.part|.map|.sum]        see segment.py
    segments/<aa>/<identity>[.part].trash-<ns>       see trash.py
    nodes/<node>/                                    see nodes.py
    pins/, events/, uses/, shares                    see pins.py, eventlog.py, lastuses.py, shares.py

Concurrency: blocking calls, safe to use from several threads; `_lock` guards the account of bytes.
"""

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dsfs.model.blocks import BlockTable
from dsfs.model.errors import BackingError, NoRoomError
from dsfs.model.retry import Pause
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, NEW, file_system_of, is_unfinished, remove
from dsfs.storage.filling import remove_all
from dsfs.storage.leftovers import abandoned
from dsfs.storage.segment import SegmentFile

FORMAT = 1
MARK = "dsfs.json"
FOLDERS = ("segments", "turns", "versions", "nodes", "pins", "events", "uses")
REQUESTS = "requests"  # made when it is needed
STATVFS_BELIEVED_S = 1.0  # and for so long it is believed that the directory is still the same
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Statvfs:
    """Bytes of the file system and free ones among them, as they were at `at_s`, less what was filled since."""

    at_s: float
    total: int
    free: int


class BackingDirectory:
    """`limit_bytes`: the most dsfs uses here; `floor`: free space it never takes, from the size of the file
    system.

    `cluster` is the id that all nodes find in its mark.  `used_bytes` is what the residency index says at the start,
    and from then on what this daemon filled and dropped.  `unfilled_bytes` were fetched and not written here since the
    start, the last of them at `unfilled_at_s`.  `was_away`: for a while this directory was not the one at its path, so
    that what was seen there says nothing about it.
    """

    def __init__(
        self,
        path: Path,
        limit_bytes: int,
        floor: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.unfilled_bytes = 0
        self.unfilled_at_s: float | None = None
        self.was_away = False
        self._floor = floor
        self._clock = clock
        self._lock = threading.Lock()
        self._reserved_bytes = 0
        self._refused_bytes = 1  # what `why_not_filling` asks for: the least that would be refused again
        self._is_full = False
        self._pause = Pause()
        self._statvfs: Statvfs | None = None
        self._mark = self._prepare()
        self.cluster = _cluster_in(path / MARK, self._mark)
        self._make_ready()
        self.file_system = file_system_of(path)

    def _prepare(self) -> bytes:
        """Make what is missing and return the mark; BackingError if the directory is somebody else's.

        Only the last component is made: an absent parent usually means that the NFS is not mounted.
        """
        mark = self.path / MARK
        try:
            self.path.mkdir(exist_ok=True)
            if not mark.exists():
                foreign = [name for name in os.listdir(self.path) if not _is_neutral(name)]
                if foreign and not mark.exists():  # another node may just have begun
                    raise BackingError(f"{self.path}: not empty ({foreign[0]!r}), and there is no dsfs.json: not ours")
                self._write_mark(mark)
            return mark.read_bytes()
        except OSError as exc:
            raise BackingError(f"backing directory {self.path}: {exc.strerror}") from exc

    def _make_ready(self) -> None:
        """Folders, and nothing that a crash left.  Readers need neither: a fault here only pauses the fills."""
        try:
            self._make_folders()
            for name in abandoned(self.path, filter(is_unfinished, os.listdir(self.path))):
                remove(self.path / name)
        except OSError as exc:
            self.failed(exc)

    def _write_mark(self, mark: Path) -> None:
        cluster = uuid.uuid4().hex
        new = mark.with_name(f"{mark.name}.{cluster}{NEW}")
        try:
            reach("backing.mark")
            new.write_text(json.dumps({"format": FORMAT, "cluster": cluster, "fan_out": 256}) + "\n")
            reach("backing.mark_written")
            os.link(new, mark)
        except (FileExistsError, FileNotFoundError):
            pass  # another node was first, and may have tidied up: its mark holds
        finally:
            new.unlink(missing_ok=True)

    def _make_folders(self) -> None:
        for name in FOLDERS:
            reach("backing.folder")
            (self.path / name).mkdir(exist_ok=True)

    # ---------------------------------------------------------------- layout

    def segment(self, identity: str, blocks: BlockTable) -> SegmentFile:
        return SegmentFile(self.segment_path(identity), identity, blocks, self.file_system)

    def segment_path(self, identity: str) -> Path:
        """Where its sealed file lies."""
        return self.path / "segments" / identity[:2] / identity

    def remove_segment(self, identity: str) -> None:
        """Remove all files of a segment that nobody here has open; OSError if one of them cannot be removed.

        What of it was taken away before is deleted when its time has come.
        """
        remove_all(self.segment_path(identity), self.file_system)

    def segment_files(self) -> Iterator[os.DirEntry[str]]:
        """Every file below segments/, two levels deep; names that begin with a dot (.snapshot, .nfs*) are not ours."""
        for folder in _scan(self.path / "segments"):
            if folder.is_dir(follow_symlinks=False):
                yield from _scan(Path(folder.path))

    def segment_folders(self) -> Iterator[tuple[Path, frozenset[str]]]:
        """The folders of segments/ with the names in each."""
        for folder in _scan(self.path / "segments"):
            if folder.is_dir(follow_symlinks=False):
                yield Path(folder.path), frozenset(entry.name for entry in _scan(Path(folder.path)))

    @property
    def generations(self) -> Path:
        """Where the catalogs of all versions lie."""
        return self.path / "versions"

    @property
    def turns(self) -> Path:
        """Where the files lie that nodes lock when it is their turn."""
        return self.path / "turns"

    @property
    def nodes(self) -> Path:
        """Where the nodes see each other."""
        return self.path / "nodes"

    @property
    def requests(self) -> Path:
        """Where it is said what all nodes are to warm; made when it is needed."""
        return self.path / REQUESTS

    @property
    def pins(self) -> Path:
        """Where it is said which versions stay."""
        return self.path / "pins"

    @property
    def events(self) -> Path:
        """Where nodes tell what has happened."""
        return self.path / "events"

    @property
    def uses(self) -> Path:
        """Where nodes tell that a version is in use."""
        return self.path / "uses"

    @property
    def shares(self) -> Path:
        """Where it is said how much each version in use may hold."""
        return self.path / "shares"

    # ---------------------------------------------------------------- room

    def reserve(self, length: int) -> None:
        """Take `length` bytes out of limit and floor before they are written.

        NoRoomError, with the reason, if there are not so many.
        """
        with self._lock:
            if not self._pause.is_over(self._clock()):
                raise NoRoomError(self._pause.reason)
            is_doubtful = bool(self._pause.reason)
        try:
            measured = self._space()
            if is_doubtful:
                self._make_folders()  # what failed may be that somebody removed them
        except OSError as exc:
            self.failed(exc)
            raise NoRoomError(f"backing directory not usable: {exc.strerror}", "error") from exc
        with self._lock:
            if refusal := self._refusal(length, self._statvfs or measured):
                self._refused_bytes = length
                raise NoRoomError(*refusal)
            if length >= self._refused_bytes:
                self._refused_bytes = 1
            self._reserved_bytes += length

    def check_room(self, length: int) -> None:
        """NoRoomError if `reserve` would refuse.  Waits for the file system, as that does."""
        self.reserve(length)
        self.release(length)

    def _refusal(self, length: int, measured: Statvfs) -> tuple[str, str] | None:
        """Why there is no room for `length` bytes, in a sentence and in the word of NoRoomError; None if there is."""
        if self.used_bytes + self._reserved_bytes + length > self.limit_bytes:
            return "backing.limit is reached", "limit"
        if measured.free - self._reserved_bytes - length < self._floor(measured.total):
            return "free space would fall below backing.floor", "floor"
        return None

    def release(self, length: int) -> None:
        """What was reserved is written and accounted, or will not be written."""
        with self._lock:
            self._reserved_bytes -= length

    def account(self, difference: int) -> None:
        """So many bytes more (or fewer) are resident."""
        with self._lock:
            self.used_bytes = max(0, self.used_bytes + difference)
            if difference < 0 or self._statvfs is None:
                self._statvfs = None
                if difference < 0 and self._is_full:
                    self._pause.until_s = 0.0  # there is room again: try at once
            else:
                self._statvfs = replace(self._statvfs, free=self._statvfs.free - difference)

    def failed(self, exc: OSError) -> None:
        """A write failed: fill nothing for a while."""
        what = "no room" if exc.errno in NO_ROOM else "not usable"
        with self._lock:
            self._statvfs = None
            self._is_full = exc.errno in NO_ROOM
            self._pause.fail(f"backing directory {what}: {exc.strerror}", self._clock())

    def succeeded(self) -> None:
        with self._lock:
            self._pause.succeed()

    def not_filled(self, length: int) -> None:
        """So many bytes were fetched and will not be written."""
        with self._lock:
            self.unfilled_bytes += length
            self.unfilled_at_s = time.time()

    def why_not_filling(self) -> str:
        """The reason why nothing is filled now; "" while fills go on.  Waits for the file system."""
        try:
            measured = self._space()
        except OSError as exc:
            return f"backing directory not usable: {exc.strerror}"
        with self._lock:
            refusal = self._refusal(self._refused_bytes, measured)
            return self._pause.reason or (refusal[0] if refusal else "")

    def probe(self) -> None:
        """Ask the server something that no client answers by itself; OSError if it says no.  Waits for it."""
        reach("backing.probe")
        os.statvfs(self.path)

    def space(self) -> tuple[int, int, int]:
        """(total, free, floor) in bytes; OSError if the directory is gone.  Waits for the file system."""
        measured = self._space()
        return measured.total, measured.free, self._floor(measured.total)

    def _space(self) -> Statvfs:
        # Not under the lock: a sick server may take long, and the trio thread keeps its books under it.
        now = self._clock()
        with self._lock:
            believed = self._statvfs
        if believed is not None and now - believed.at_s <= STATVFS_BELIEVED_S:
            return believed
        reach("backing.statvfs")
        self.check_mark()
        stat = os.statvfs(self.path)
        measured = Statvfs(now, stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
        with self._lock:
            self._statvfs = measured
        return measured

    def check_mark(self) -> None:
        """OSError if what lies at the path now is not the directory of the start.

        It is neither filled (it may be the disk below an NFS that is not mounted any more) nor accounted for.
        """
        try:
            if (self.path / MARK).read_bytes() == self._mark:
                return
            what = f"another {MARK} is there instead of that of cluster id {self.cluster}"
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            what = f"{MARK} is gone, is it still mounted?"
        self.was_away = True
        raise OSError(errno.ESTALE, what)


def _cluster_in(path: Path, mark: bytes) -> str:
    """The cluster id in the mark at `path`; BackingError if it is none that this version of dsfs understands."""
    try:
        described = json.loads(mark)
    except ValueError as exc:
        raise BackingError(f"{path} cannot be read: {exc}") from exc
    entries = described if isinstance(described, dict) else {}
    if (found := entries.get("format")) != FORMAT:
        raise BackingError(f"{path.parent}: format {found!r}; this version of dsfs knows format {FORMAT} only")
    cluster = entries.get("cluster")
    if not isinstance(cluster, str) or not cluster:
        raise BackingError(f"{path} cannot be used: it has no cluster id")
    return cluster


def _is_neutral(name: str) -> bool:
    """Whether a directory with such a file still counts as empty."""
    return name.startswith(".") or name == "lost+found" or ".new-" in name


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return  # somebody removed it
    yield from (entry for entry in found if not entry.name.startswith("."))
