"""The backing directory: its layout and its format mark.

    dsfs.json                                        format version, cluster id
    account                                          see account.py
    versions/<name>/<version>/<generation>/          catalog.mdb, segments, summary.json: immutable
    turns/                                           see turn.py
    segments/<aa>/<identity>[.part|.map|.sum]        see segment.py
    segments/<aa>/<identity>[.part].trash-<ns>       see trash.py
    nodes/<node>/                                    see nodes.py
    pins/, events/, uses/                            see pins.py, eventlog.py, lastuses.py
    shares, standing                                 see bulletin.py

Concurrency: blocking calls, safe to use from several threads.
"""

import errno
import json
import logging
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from dsfs.model.blocks import BlockTable
from dsfs.model.errors import BackingError
from dsfs.model.retention import Amount
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, NEW, file_system_of, is_unfinished, remove
from dsfs.storage.leftovers import abandoned
from dsfs.storage.segment import SegmentFile
from dsfs.storage.segmentnames import remove_all

log = logging.getLogger(__name__)

FORMAT = 1
MARK = "dsfs.json"
FOLDERS = ("segments", "turns", "versions", "nodes", "pins", "events", "uses")
REQUESTS = "requests"  # made when it is needed


class BackingDirectory:
    """`cluster`: the id that all nodes find in its mark.

    `was_away`: for a while this directory was not the one at its path, so that what was seen there says nothing about
    it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.was_away = False
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
        """Folders, and nothing that a crash left.  Readers need neither, and who fills meets the fault himself."""
        try:
            self.make_folders()
            for name in abandoned(self.path, filter(is_unfinished, os.listdir(self.path))):
                remove(self.path / name)
        except OSError as exc:
            log.info("%s cannot be put in order: %s", self.path, exc)

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

    def make_folders(self) -> None:
        """Those of them that are missing."""
        for name in FOLDERS:
            reach("backing.folder")
            (self.path / name).mkdir(exist_ok=True)

    # ---------------------------------------------------------------- layout

    def segment(self, identity: str, blocks: BlockTable) -> SegmentFile:
        return SegmentFile(self.segment_path(identity), identity, blocks, self.file_system)

    def segment_path(self, identity: str) -> Path:
        """Where its sealed file lies."""
        return self.path / "segments" / identity[:2] / identity

    def remove_segment(self, identity: str) -> Amount:
        """Remove all files of a segment that nobody here has open; returns what they took.

        What of it was hidden before is deleted when its time has come.  OSError if a file cannot be removed.
        """
        return remove_all(self.segment_path(identity), self.file_system)

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

    @property
    def standing(self) -> Path:
        """Where it is said what the last round of eviction found."""
        return self.path / "standing"

    # ---------------------------------------------------------------- is it there

    def probe(self) -> None:
        """Ask the server something that no client answers by itself; OSError if it says no.  Waits for it."""
        reach("backing.probe")
        self.statvfs()

    def statvfs(self) -> os.statvfs_result:
        """What its file system says of itself."""
        return os.statvfs(self.path)

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
