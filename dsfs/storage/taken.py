"""What files and directories take of the file system: allocated bytes, and inodes.

Concurrency: blocking calls; what goes away meanwhile takes nothing.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dsfs.model.retention import NOTHING, Amount
from dsfs.storage.filesystem import SECTOR, SNAPSHOTS, allocated


def room_of(found: os.stat_result) -> Amount:
    """What the one file or directory takes."""
    return Amount(found.st_blocks * SECTOR, 1)


def room_now(path: Path) -> Amount:
    """What the one at `path` takes, as the server has it now (1 GETATTR)."""
    return Amount(allocated(path).size_bytes, 1)


def room_below(path: Path) -> Amount:
    """What the directory takes with all that is in it, or the file."""
    taken = NOTHING
    with suppress(FileNotFoundError):
        taken += room_of(os.lstat(path))
    for name in names_below(path):
        with suppress(FileNotFoundError):
            taken += room_of(os.lstat(name))
    return taken


def names_below(folder: Path) -> Iterator[Path]:
    """Everything below the folder that takes room of its own.

    A file comes once, also in the middle of its seal, when it has two names in its folder.  Snapshots are left out, and
    what begins with a dot in the folder itself, but for files that an NFS client keeps for who has them open; further
    down it may be the name of a version.
    """
    waiting = [folder]
    while waiting:
        met: set[int] = set()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(inner := waiting.pop()) as entries:
            for entry in entries:
                is_hidden = inner == folder and entry.name.startswith(".") and not entry.name.startswith(".nfs")
                if is_hidden or entry.name == SNAPSHOTS or entry.inode() in met:
                    continue
                met.add(entry.inode())
                path = Path(entry.path)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
