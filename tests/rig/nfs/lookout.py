"""How much lies in a backing directory, looked at on the server from the first moment to the last."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.background import in_background
from tests.rig.filler import allocated_below
from tests.rig.nfs.server import NfsServer

PAUSE_S = 0.2  # the guest has one CPU, and a look takes some of it
LONGEST_S = 1800.0
END_S = 60.0


@dataclass(frozen=True)
class Seen:
    """The most that was there, in so many looks: of what has a name (`du`), and for the file system (`df`)."""

    looks: int
    named_bytes: int
    used_bytes: int


class Lookout:
    """Looks a few times a second while the `with` statement lasts or until `finish`.

    `stop`: a file that is not there yet.  What else is in the file system does not change meanwhile.
    """

    def __init__(self, server: NfsServer, backing: Path, stop: Path) -> None:
        self._server = server
        self._backing = backing
        self._stop = stop
        self._before_bytes = server.call(used_in, backing.parent)

    def __enter__(self) -> Self:
        arguments = self._stop, self._backing, self._before_bytes
        self._looking = in_background(lambda: self._server.call_within(LONGEST_S, look_until, *arguments))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.touch()

    def now(self) -> tuple[int, int]:
        """What is there now, as `du` and as `df` have it."""
        return self._server.call(look, self._backing, self._before_bytes)

    def finish(self) -> Seen:
        self._stop.touch()
        return self._looking.result(END_S)


def used_in(export: Path) -> int:
    found = os.statvfs(export)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def look(backing: Path, before_bytes: int) -> tuple[int, int]:
    return allocated_below(backing), used_in(backing.parent) - before_bytes


def look_until(stop: Path, backing: Path, before_bytes: int) -> Seen:
    looks = named_bytes = used_bytes = 0
    while not stop.exists():
        named, used = look(backing, before_bytes)
        looks, named_bytes, used_bytes = looks + 1, max(named_bytes, named), max(used_bytes, used)
        time.sleep(PAUSE_S)
    return Seen(looks, named_bytes, used_bytes)
