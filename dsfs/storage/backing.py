"""The backing directory: its layout, its format mark, and the room dsfs may take in it.

    dsfs.json                                        format version, cluster id
    versions/<name>/<version>/<generation>/          catalog.mdb, summary.json: immutable
    segments/<aa>/<identity>[.part|.map|.sum]        see segment.py

Concurrency: blocking calls, safe to use from several threads; `_lock` guards the account of bytes.
"""

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from dsfs.model.blocks import BlockTable
from dsfs.model.errors import BackingError, NoRoomError
from dsfs.model.retry import Pause
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.segment import SegmentFile

FORMAT = 1
STATVFS_BELIEVED_S = 1.0
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class BackingDirectory:
    """`limit_bytes`: the most dsfs uses here; `floor`: free space it never takes, from the size of the file
    system.

    `used_bytes` is what the residency index says at the start, and from then on what this daemon filled and
    dropped.
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
        self._floor = floor
        self._clock = clock
        self._lock = threading.Lock()
        self._reserved_bytes = 0
        self._pause = Pause()
        self._statvfs: tuple[float, int, int] | None = None
        self._prepare()
        self.file_system = file_system_of(path)

    def _prepare(self) -> None:
        """Make what is missing; BackingError if the directory is somebody else's or of an unknown format.

        Only the last component is made: an absent parent usually means that the NFS is not mounted.
        """
        mark = self.path / "dsfs.json"
        try:
            self.path.mkdir(exist_ok=True)
            if not mark.exists():
                foreign = [
                    name
                    for name in os.listdir(self.path)
                    if not name.startswith(".") and name != "lost+found"
                ]
                if foreign:
                    raise BackingError(
                        f"{self.path}: not empty ({foreign[0]!r}), and there is no dsfs.json: not ours"
                    )
                new = mark.with_name(f"dsfs.json-{uuid.uuid4().hex}")
                new.write_text(
                    json.dumps({"format": FORMAT, "cluster": uuid.uuid4().hex, "fan_out": 256}) + "\n"
                )
                try:
                    os.link(new, mark)
                except FileExistsError:
                    pass  # another node was first: its mark holds
                finally:
                    new.unlink()
            described = json.loads(mark.read_text())
            if described.get("format") != FORMAT:
                raise BackingError(
                    f"{self.path}: format {described.get('format')!r}; this version of dsfs knows format {FORMAT} only"
                )
        except OSError as exc:
            raise BackingError(f"backing directory {self.path}: {exc.strerror}") from exc
        except ValueError as exc:
            raise BackingError(f"{mark} cannot be read: {exc}") from exc
        try:
            for name in ("segments", "versions"):
                (self.path / name).mkdir(exist_ok=True)
        except OSError as exc:
            self.failed(exc)

    # ---------------------------------------------------------------- layout

    def segment(self, identity: str, blocks: BlockTable) -> SegmentFile:
        return SegmentFile(
            self.path / "segments" / identity[:2] / identity, identity, blocks, self.file_system
        )

    def remove_segment(self, identity: str) -> None:
        """Remove all files of a segment that nobody has open; OSError if one of them cannot be removed."""
        for suffix in ("", ".sum", ".map", ".part"):
            (self.path / "segments" / identity[:2] / f"{identity}{suffix}").unlink(missing_ok=True)

    def segment_files(self) -> Iterator[os.DirEntry[str]]:
        """Every file below segments/, two levels deep; names that begin with a dot (.snapshot, .nfs*) are not ours."""
        for folder in _scan(self.path / "segments"):
            if folder.is_dir(follow_symlinks=False):
                yield from _scan(Path(folder.path))

    @property
    def generations(self) -> Path:
        """Where the catalogs of all versions lie."""
        return self.path / "versions"

    # ---------------------------------------------------------------- room

    def reserve(self, length: int) -> None:
        """Take `length` bytes out of limit and floor before they are written.

        NoRoomError, with the reason, if there are not.
        """
        now = self._clock()
        with self._lock:
            if not self._pause.is_over(now):
                raise NoRoomError(self._pause.reason)
            planned = self.used_bytes + self._reserved_bytes + length
            if planned > self.limit_bytes:
                raise NoRoomError("backing.limit is reached")
            total, free = self._space(now)
            if free - self._reserved_bytes - length < self._floor(total):
                raise NoRoomError("free space would fall below backing.floor")
            self._reserved_bytes += length

    def release(self, length: int) -> None:
        """What was reserved is written and accounted, or will not be written."""
        with self._lock:
            self._reserved_bytes -= length

    def account(self, difference: int) -> None:
        """So many bytes more (or fewer) are resident."""
        with self._lock:
            self.used_bytes = max(0, self.used_bytes + difference)
            if difference < 0:
                self._statvfs = None

    def failed(self, exc: OSError) -> None:
        """A write failed: fill nothing for a while."""
        what = "no room" if exc.errno in NO_ROOM else "not usable"
        with self._lock:
            self._statvfs = None
            self._pause.fail(f"backing directory {what}: {exc.strerror}", self._clock())

    def succeeded(self) -> None:
        with self._lock:
            self._pause.succeed()

    def not_filled(self, length: int) -> None:
        with self._lock:
            self.unfilled_bytes += length

    def why_not_filling(self) -> str:
        """The reason why nothing is filled now; "" while fills go on."""
        try:
            self.reserve(1)
        except NoRoomError as exc:
            return str(exc)
        except OSError as exc:
            return f"backing directory not usable: {exc.strerror}"
        self.release(1)
        with self._lock:
            return self._pause.reason

    def space(self) -> tuple[int, int, int]:
        """(total, free, floor) in bytes; OSError if the directory is gone."""
        with self._lock:
            total, free = self._space(self._clock())
        return total, free, self._floor(total)

    def _space(self, now: float) -> tuple[int, int]:
        if self._statvfs is None or now - self._statvfs[0] > STATVFS_BELIEVED_S:
            reach("backing.statvfs")
            stat = os.statvfs(self.path)
            self._statvfs = (now, stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize)
        return self._statvfs[1:]


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if not entry.name.startswith("."):
                yield entry
