"""Where catalogs lie: an immutable directory for each generation of a version, in the backing directory and
on local disk.

    <backing>/versions/<name>/<version>/<generation>/   catalog.mdb, segments and summary.json, shared by all nodes
    <state_dir>/catalogs/<name>/<version>/<generation>/   the copy a node opens (no LMDB file is opened on NFS)

The current generation is the one with the highest sequence number.  A directory appears under its final name complete,
by one rename; afterwards only its sequence number changes, when an old generation comes back.  Both change the mtime of
the version's folder, in the same moment.  One that was taken away (trash.py) counts as gone.

Concurrency: blocking calls; the caller works on one version at a time.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from dsfs.model.blocks import PAGE, pages
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import Amount
from dsfs.model.trashname import stamp_in
from dsfs.storage.catalog_format import CatalogFileError
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import (
    SNAPSHOTS,
    FileSystem,
    is_unfinished,
    refresh_names,
    remove,
    replace_file,
    unfinished,
)
from dsfs.storage.leftovers import abandoned
from dsfs.storage.segmentlist import SegmentList, list_segments

log = logging.getLogger(__name__)

CATALOG = "catalog.mdb"
SUMMARY = "summary.json"
SEGMENTS = "segments"
FOLDERS = 3
TAKEN = frozenset({errno.ENOTEMPTY, errno.EEXIST})  # what a rename says where there is a directory
UNDESCRIBED = (OSError, ValueError, KeyError, TypeError)

Taking = Callable[[Amount], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class PlacedGeneration:
    """A generation as its summary.json describes it; `path` is its directory.

    `size` and `digest` are those of the catalog; `segment_bytes` and `segments_digest` those of its segments (see
    segmentlist.py), 0 and "" if it has no list of them.
    """

    path: Path
    generation: str
    sequence: int
    size: int
    digest: str
    segment_bytes: int
    segments_digest: str
    made_s: int


class GenerationStore:
    """The directories of all versions below `local` (this node's) and `shared` (the backing directory's).

    `taking`: the block that it enters puts so much into the backing directory; NoRoomError if there is no room.
    `unshared`: generations of this node that may be missing there; of their segments the others do not know whose they
    are.
    """

    def __init__(self, local: Path, shared: Path, fs: FileSystem, taking: Taking) -> None:
        self._local = local
        self._shared = shared
        self._fs = fs
        self._taking = taking
        self.unshared: set[PlacedGeneration] = set()

    def _there(self, *names: str) -> Path:
        """A folder of the backing directory, with what other nodes have just put into it or above."""
        folder = self._shared
        with suppress(OSError):  # whoever looks into it will tell
            refresh_names(folder, self._fs)
            for name in names:
                refresh_names(folder := folder / name, self._fs)
        return self._shared.joinpath(*names)

    def versions(self, dataset: str, shared: bool) -> list[str]:
        """Versions of the dataset that have a generation in the backing directory, or here."""
        return sorted(_names(self._there(dataset) if shared else self._local / dataset))

    def datasets(self, shared: bool) -> list[str]:
        """The same of datasets."""
        return sorted(_names(self._there() if shared else self._local))

    def current(self, dataset: str, version: str, *, here_only: bool = False) -> PlacedGeneration | None:
        """The current generation, copied to local disk if it only lies in the backing directory.

        None if there is none.  `here_only`: without a look at the backing directory.
        """
        here = self._local / dataset / version
        _remove(here, _unfinished(here))
        local = list(_generations(here))
        if here_only:
            newest = next(filter(_is_whole, sorted(local, key=lambda found: found.sequence, reverse=True)), None)
            self.unshared.update([newest] if newest is not None else [])
            return newest
        there = self._there(dataset, version)
        with suppress(OSError):  # read-only or full: it can wait
            _remove(there, abandoned(there, _unfinished(there)))
        shared = list(_generations(there))
        for placed in sorted([*local, *shared], key=lambda found: (found.sequence, found in local), reverse=True):
            copy = placed if placed in local else self._copied(placed, here)
            if copy is None:
                continue
            if _is_whole(copy):
                if all((other.generation, other.sequence) != (copy.generation, copy.sequence) for other in shared):
                    self.share(dataset, version, copy)
                return copy
            log.warning("catalog of %s/%s, generation %s, is damaged and left out", dataset, version, copy.generation)
            shutil.rmtree(copy.path, ignore_errors=True)
        return None

    def add(
        self, dataset: str, version: str, built: Path, summary: Mapping[str, object], segments: SegmentList
    ) -> PlacedGeneration:
        """Make the catalog file `built`, which is moved, the current generation of this node.

        OSError if the local disk does not take it.
        """
        here = self._local / dataset / version
        generation = str(summary["generation"])
        sequence = max((placed.sequence for placed in _generations(here)), default=0) + 1
        described = {
            **summary,
            "sequence": sequence,
            "size": built.stat().st_size,
            "digest": _digest(built),
            "segment_bytes": segments.size_bytes,
            "segments_digest": segments.digest,
        }
        new = unfinished(here / generation)
        try:
            reach("generation.add")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            reach("generation.move")
            os.replace(built, new / CATALOG)
            reach("generation.list")
            (new / SEGMENTS).write_bytes(segments.identities)
            reach("generation.describe")
            (new / SUMMARY).write_text(json.dumps(described) + "\n")
            placed = _place(new, here / generation)
        except OSError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        self.unshared.add(placed)
        return placed

    def catalogs(self, dataset: str, version: str) -> list[Path]:
        """The catalog files of all generations that are on local disk."""
        return [placed.path / CATALOG for placed in _generations(self._local / dataset / version)]

    def share(self, dataset: str, version: str, placed: PlacedGeneration, *, is_again: bool = False) -> None:
        """Put a copy into the backing directory.  That may fail, or a crash come first: then it is tried again."""
        self.unshared.add(placed)
        try:
            reach("generation.share")
            self._shared.stat()  # else a copy would be made on the disk below an NFS that is not mounted any more
            there = self._there(dataset, version, placed.generation)
            if not _is_same_at(there, placed):  # it may have been there all the while, in a silence
                with self._taking(_size_of(placed)):
                    _copy(placed, there.parent)
            self.unshared.discard(placed)
        except NoRoomError as exc:
            level = logging.DEBUG if is_again else logging.INFO
            log.log(level, "catalog %s is for this node only yet: %s", placed.path, exc)
        except UNDESCRIBED as exc:
            # Two nodes at the same moment: over NFSv3 the slower one may not see yet what is there.
            is_overtaken = isinstance(exc, OSError) and exc.errno in TAKEN
            level = logging.DEBUG if is_again else logging.INFO if is_overtaken else logging.WARNING
            log.log(level, "catalog %s cannot be put into the backing directory yet: %s", placed.path, exc)

    def _copied(self, placed: PlacedGeneration, folder: Path) -> PlacedGeneration | None:
        try:
            return _copy(placed, folder)
        except OSError as exc:
            log.warning("catalog %s cannot be copied: %s", placed.path, exc)
            return None


def _is_same_at(path: Path, placed: PlacedGeneration) -> bool:
    """Whether the generation lies there, too, whole, and counts as new as it does here."""
    with suppress(*UNDESCRIBED):
        found = described(path)
        return found.sequence == placed.sequence and _is_whole(found)
    return False


def _size_of(placed: PlacedGeneration) -> Amount:
    """What a copy takes at most, with the folders of the dataset, the version and the generation."""
    sizes = [path.stat().st_size for path in placed.path.iterdir()]
    return Amount(sum(map(pages, sizes)) + FOLDERS * PAGE, len(sizes) + FOLDERS)


def _copy(placed: PlacedGeneration, folder: Path) -> PlacedGeneration:
    new = unfinished(folder / placed.generation)
    try:
        reach("generation.copy")
        shutil.rmtree(new, ignore_errors=True)
        # Files only, so that their times are those of the server, at which they were copied.
        shutil.copytree(placed.path, new, copy_function=shutil.copyfile)
        reach("generation.copied")
        return _place(new, folder / placed.generation)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name != SNAPSHOTS]  # others may be those of versions
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        log.info("%s cannot be read: %s", folder, exc)
        return []


def _unfinished(folder: Path) -> list[str]:
    """What a crash left of a generation that was about to be placed, or another node is about to place."""
    return list(filter(is_unfinished, _names(folder)))


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
        with suppress(OSError):
            remove(folder / name)  # a summary that was to be replaced


def _generations(folder: Path) -> Iterator[PlacedGeneration]:
    for name in _names(folder):
        if not name.startswith(".") and ".new-" not in name and stamp_in(name) is None:
            try:
                yield described(folder / name)
            except UNDESCRIBED as exc:
                log.warning("%s describes no generation: %s", folder / name, exc)


def described(path: Path) -> PlacedGeneration:
    """The generation in that directory; one of UNDESCRIBED if its summary is not there, or makes no sense."""
    found = json.loads((path / SUMMARY).read_text())
    return PlacedGeneration(
        path,
        path.name,
        int(found["sequence"]),
        int(found["size"]),
        str(found["digest"]),
        int(found.get("segment_bytes", 0)),
        str(found.get("segments_digest", "")),
        int(found.get("made_s", 0)),
    )


def segments_of(placed: PlacedGeneration, work: Path) -> SegmentList:
    """Its segments: from their list, or if that is missing or damaged, from a copy of the catalog, which is made at
    `work` on local disk and removed.

    CatalogFileError if the catalog is damaged, too.  OSError if one cannot be read.
    """
    with suppress(FileNotFoundError):
        found = SegmentList((placed.path / SEGMENTS).read_bytes(), placed.segment_bytes)
        if found.digest == placed.segments_digest:
            return found
    reach("generation.list_catalog")
    try:
        shutil.copyfile(placed.path / CATALOG, work)
        if work.stat().st_size != placed.size or _digest(work) != placed.digest:
            raise CatalogFileError(f"{placed.path / CATALOG} is damaged")
        return list_segments(work)
    finally:
        remove(work)


def is_superseded(path: Path, fs: FileSystem) -> bool:
    """Whether the version has a whole generation with a higher sequence number than the one at `path`."""
    refresh_names(path.parent, fs)
    refresh_names(path, fs)
    own = described(path).sequence
    return any(placed.sequence > own and _is_whole(placed) for placed in _generations(path.parent))


def _is_whole(placed: PlacedGeneration) -> bool:
    """Opening a cut LMDB file would end the process with SIGBUS, and a changed one give wrong extents: read it once."""
    catalog = placed.path / CATALOG
    try:
        return catalog.stat().st_size == placed.size and _digest(catalog) == placed.digest
    except OSError:
        return False


def _digest(path: Path) -> str:
    digest = blake2b(digest_size=20)
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            digest.update(content)
    return digest.hexdigest()


def _place(new: Path, final: Path) -> PlacedGeneration:
    """Give the complete directory its name.

    If a whole one has it already (another node may be at the same), that one stays, but takes the higher sequence
    number: an old generation that has come back is the current one.
    """
    if _is_whole_at(final) or not _renamed(new, final):
        if not _is_whole_at(final):  # after an attempt at it an NFS client is believed that
            shutil.rmtree(final, ignore_errors=True)
            os.rename(new, final)
        else:
            _take_sequence(final, described(new).sequence)
            shutil.rmtree(new)
    reach("generation.placed")
    return described(final)


def _renamed(new: Path, final: Path) -> bool:
    reach("generation.place")
    try:
        os.rename(new, final)
    except OSError as exc:
        if exc.errno not in {*TAKEN, errno.ENOTDIR}:
            raise
        return False
    return True


def _is_whole_at(path: Path) -> bool:
    try:
        return _is_whole(described(path))
    except UNDESCRIBED:
        return False


def _take_sequence(path: Path, sequence: int) -> None:
    if described(path).sequence < sequence:
        summary = json.loads((path / SUMMARY).read_text())
        content = (json.dumps({**summary, "sequence": sequence}) + "\n").encode()
        # Out of the version's folder, whose mtime then tells of it.
        replace_file(path / SUMMARY, content, new=unfinished(path))
