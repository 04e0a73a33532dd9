"""Names of what was taken away and is deleted later: the name it had, and when that was by the server's clock.

    0f4a5b....trash-1764156000123456789         a sealed segment, or the directory of a generation
    0f4a5b....part.trash-1764156000123456789    a segment that was being filled

A name in place and not a folder: on some file servers a folder lies elsewhere, so that a rename into it costs more.
"""

from dataclasses import dataclass

from dsfs.model.retention import Amount

MARK = ".trash-"


@dataclass(frozen=True, slots=True)
class TrashedFile:
    """What was taken away: its path in the backing directory, when, and what it takes."""

    name: str
    stamp_ns: int
    taken: Amount


def trash_name(name: str, stamp_ns: int) -> str:
    """What is called so once it was taken away at that time."""
    return f"{name}{MARK}{stamp_ns}"


def stamp_in(name: str) -> int | None:
    """When it was taken away; None if it was not."""
    before, mark, stamp = name.rpartition(MARK)
    return int(stamp) if before and mark and stamp.isascii() and stamp.isdigit() else None
