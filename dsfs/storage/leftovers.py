"""What a crash left half made, told from what another node is about to complete: by its age, on the server's clock.

No clock of a node enters: a file is as old as its mtime lies behind that of a file which is made beside it now.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import remove, unfinished

ABANDONED_S = 3600.0  # by far longer than anything takes to be completed


def abandoned(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """Those of the names in `folder` that nobody has touched for ABANDONED_S; OSError if the medium refuses."""
    now_ns = None
    for name in names:
        if now_ns is None:  # only if there is one at all
            now_ns = server_now_ns(folder)
        with suppress(FileNotFoundError):
            if now_ns - os.lstat(folder / name).st_mtime_ns > ABANDONED_S * 1e9:
                yield name


def server_now_ns(folder: Path) -> int:
    """The time of the server that holds `folder`; OSError if nothing can be made there."""
    new = unfinished(folder / "now")
    reach("leftovers.now")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            return os.fstat(fd).st_mtime_ns
        finally:
            os.close(fd)
    finally:
        remove(new)
