"""What a crash leaves in the backing directory for ever, unless somebody looks for it: found and removed.

A file that a segment needs is left where it is; what is removed here is neither read nor counted by anybody.  Other
nodes are at work in the same folders, so nothing is waste before it is old (a `.part` is there before its map), but for
what lies beside a seal, for which it is looked whether it still does.  What was taken away (trash.py) is no waste: it
has a grace, and who counts what is there finds it.

Concurrency: blocking; may run beside fills, whose segments it leaves alone.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from dsfs.storage.backing import BackingDirectory
from dsfs.storage.filesystem import is_unfinished, remove
from dsfs.storage.leftovers import abandoned
from dsfs.storage.segmentnames import is_sealed

log = logging.getLogger(__name__)


def tidy(backing: BackingDirectory, is_in_use: Callable[[str], bool] = lambda identity: False) -> int:
    """Remove what no segment needs, but for segments in use; returns how many files that were.

    What cannot be removed stays, as on a read-only directory.  OSError if a folder cannot be read.
    """
    removed = 0
    for folder, names in backing.segment_folders():
        try:
            for name in chain(beside_seals(folder, names), abandoned(folder, waste_among(names))):
                if not is_in_use(name.partition(".")[0]):
                    removed += remove(folder / name)
        except OSError as exc:
            log.info("what a crash has left in %s cannot be removed: %s", folder, exc)
    if removed:
        log.info("%d files removed that a crash had left", removed)
    return removed


def tidy_state(state_dir: Path) -> None:
    """Remove what a crash left in the state directory; its lock must be held."""
    for path in state_dir.iterdir():
        if is_unfinished(path.name) and path.is_file():
            path.unlink()


def beside_seals(folder: Path, names: frozenset[str]) -> Iterator[str]:
    """Which of the files of the folder are of a filling whose segment is sealed."""
    for name in sorted(names):
        identity, _, suffix = name.partition(".")
        if suffix in ("part", "map") and {identity, f"{identity}.sum"} <= names and is_sealed(folder / identity):
            yield name


def waste_among(names: frozenset[str]) -> Iterator[str]:
    """Which of the others no segment needs."""
    for name in sorted(names):
        identity, _, suffix = name.partition(".")
        part, records, sums = (f"{identity}.{end}" in names for end in ("part", "map", "sum"))
        is_sealed = identity in names and sums
        if is_unfinished(name):
            yield name
        elif is_sealed:
            continue
        elif suffix == "part":
            if not records:
                yield name
        elif suffix == "map":
            if not part:
                yield name
        elif suffix == "sum":
            if identity not in names and not (part and records):
                yield name
        elif not suffix and not sums:
            yield name
