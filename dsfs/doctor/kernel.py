"""Values that the kernel shows as files in /proc and /sys."""

from contextlib import suppress
from pathlib import Path


def number_in(path: Path) -> int | None:
    """The number in such a file; None where this kernel, or this container, has no such file."""
    with suppress(OSError, ValueError):
        return int(path.read_text())
    return None
