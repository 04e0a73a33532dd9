"""Where catalogs lie: an immutable directory for each generation of a version, in the backing directory and
on local disk.

    <backing>/versions/<name>/<version>/<generation>/   catalog.mdb and summary.json, shared by all nodes
    <state_dir>/catalogs/<name>/<version>/<generation>/   the copy a node opens (no LMDB file is opened on NFS)

The current generation is the one with the highest sequence number.  A directory appears under its final name
complete, by one rename; it is never changed afterwards.

Concurrency: blocking calls; the caller works on one version at a time.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from dsfs.storage.faultpoint import reach

log = logging.getLogger(__name__)

CATALOG = "catalog.mdb"
SUMMARY = "summary.json"


@dataclass(frozen=True, slots=True)
class PlacedGeneration:
    """A generation as its summary.json describes it; `path` is its directory."""

    path: Path
    generation: str
    sequence: int
    size: int
    digest: str


class GenerationStore:
    """The directories of all versions below `local` (this node's) and `shared` (the backing directory's)."""

    def __init__(self, local: Path, shared: Path) -> None:
        self._local = local
        self._shared = shared

    def versions(self, dataset: str) -> list[str]:
        """Versions of the dataset that have a generation here or in the backing directory."""
        return sorted(set(_names(self._local / dataset)) | set(_names(self._shared / dataset)))

    def datasets(self) -> list[str]:
        return sorted(set(_names(self._local)) | set(_names(self._shared)))

    def current(self, dataset: str, version: str) -> PlacedGeneration | None:
        """The current generation, copied to local disk if it only lies in the backing directory.

        None if there is none.
        """
        local = list(_generations(self._local / dataset / version))
        shared = list(_generations(self._shared / dataset / version))
        for placed in sorted(
            [*local, *shared], key=lambda found: (found.sequence, found in local), reverse=True
        ):
            path = placed.path if placed in local else self._copied(placed, self._local / dataset / version)
            if path is not None and _is_whole(path / CATALOG, placed):
                return PlacedGeneration(path, placed.generation, placed.sequence, placed.size, placed.digest)
            log.warning(
                "catalog of %s/%s, generation %s, is damaged and left out",
                dataset,
                version,
                placed.generation,
            )
            if path is not None:
                shutil.rmtree(path, ignore_errors=True)
        return None

    def add(self, dataset: str, version: str, built: Path, summary: dict[str, object]) -> PlacedGeneration:
        """Make the catalog file `built` the current generation.

        It is moved.  The copy in the backing directory may fail.
        """
        folder = self._local / dataset / version
        generation = str(summary["generation"])
        known = [*_generations(folder), *_generations(self._shared / dataset / version)]
        sequence = max((placed.sequence for placed in known), default=0) + 1
        described = {**summary, "sequence": sequence, "size": built.stat().st_size, "digest": _digest(built)}
        new = folder / f"{generation}.new-{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        os.replace(built, new / CATALOG)
        (new / SUMMARY).write_text(json.dumps(described) + "\n")
        _replace_directory(new, folder / generation)
        placed = _described(folder / generation)
        try:
            self._share(placed, self._shared / dataset / version)
        except OSError as exc:
            log.warning(
                "catalog of %s/%s cannot be put into the backing directory: %s", dataset, version, exc
            )
        return placed

    def catalogs(self, dataset: str, version: str) -> list[Path]:
        """The catalog files of all generations that are on local disk."""
        return [placed.path / CATALOG for placed in _generations(self._local / dataset / version)]

    def _share(self, placed: PlacedGeneration, folder: Path) -> None:
        reach("generation.share")
        new = folder / f"{placed.generation}.new-{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(placed.path, new)
        _replace_directory(new, folder / placed.generation)

    def _copied(self, placed: PlacedGeneration, folder: Path) -> Path | None:
        new = folder / f"{placed.generation}.new-{os.getpid()}"
        try:
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(placed.path, new)
        except OSError as exc:
            log.warning("catalog %s cannot be copied: %s", placed.path, exc)
            return None
        _replace_directory(new, folder / placed.generation)
        return folder / placed.generation


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def _generations(folder: Path) -> Iterator[PlacedGeneration]:
    for name in _names(folder):
        if ".new-" not in name:
            try:
                yield _described(folder / name)
            except (OSError, ValueError, KeyError, TypeError) as exc:
                log.warning("%s describes no generation: %s", folder / name, exc)


def _described(path: Path) -> PlacedGeneration:
    found = json.loads((path / SUMMARY).read_text())
    return PlacedGeneration(path, path.name, int(found["sequence"]), int(found["size"]), str(found["digest"]))


def _is_whole(catalog: Path, placed: PlacedGeneration) -> bool:
    """Opening a cut LMDB file would end the process with SIGBUS, and a changed one give wrong extents: read it once."""
    try:
        return catalog.stat().st_size == placed.size and _digest(catalog) == placed.digest
    except OSError:
        return False


def _digest(path: Path) -> str:
    digest = blake2b(digest_size=20)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _replace_directory(new: Path, final: Path) -> None:
    """Give the complete directory its name; if another has it, that one is as good."""
    try:
        os.rename(new, final)
    except OSError:
        if not (final / SUMMARY).exists():
            shutil.rmtree(final, ignore_errors=True)
            os.rename(new, final)
        else:
            shutil.rmtree(new)
