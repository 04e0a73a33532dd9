"""What files and directories take of the file system: allocated bytes, and inodes.

Concurrency: blocking calls.
"""

import os
from contextlib import suppress
from pathlib import Path

from dsfs.model.retention import NOTHING, Amount

_BLOCK = 512  # bytes: the unit of st_blocks, whatever the file system's own


def room_of(found: os.stat_result) -> Amount:
    """What the one file or directory takes."""
    return Amount(found.st_blocks * _BLOCK, 1)


def room_below(path: Path) -> Amount:
    """What the directory takes with all that is in it, or the file; what goes away meanwhile takes nothing."""
    taken = NOTHING
    with suppress(FileNotFoundError):
        taken += room_of(os.lstat(path))
        with suppress(NotADirectoryError), os.scandir(path) as entries:
            for entry in entries:
                taken += room_below(Path(entry.path))
    return taken
