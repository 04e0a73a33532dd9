"""What tests of a mount have in common: contents to place, and ways to look."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.rig.node import MIB
from tests.rig.reading import forget_pages, read_at

V = "photos/v1"
LARGE = Random(1).randbytes(12 * MIB + 12_345)
OTHER = Random(2).randbytes(len(LARGE))
BLOCK = 128 * 1024


def walk(top: Path) -> Iterator[Path]:
    """Everything below `top`, directories too."""
    for directory, names, files in os.walk(top, onerror=_raise):
        yield from (Path(directory, name) for name in names + files)


def errno_of(attempt: Callable[..., object], *args: object) -> int:
    """The errno with which the attempt fails."""
    try:
        attempt(*args)
    except OSError as error:
        return error.errno or 0
    raise AssertionError("no OSError")


def read_part(path: Path, offset: int, size: int) -> bytes:
    """Bytes that the daemon has to deliver: neither the page cache nor the kernel's readahead has a part in it."""
    forget_pages(path)
    return read_at(path, offset, size)


def _raise(error: OSError) -> None:
    raise error
