"""When versions were last used, by any node, and how often: a small file for each in the backing directory.

    uses/<version name>        its mtime is when a node last told that the version is in use (model/versionname.py);
                               it says how many uses there were (model/lastuse.py)

The mtime is set by a request that names no time, so it is the server's.  Whether a version is dropped or not does not
matter: how long ago it was used is known until that is more than a year.

The file is replaced when a use begins, and not changed otherwise.  Several nodes that begin one at once read the same
count and the same mtime, so that they write the same; and who comes later finds that somebody has just told.

Concurrency: blocking calls, safe to use from several threads and nodes at once.
"""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dsfs.model.lastuse import (
    MOST_BYTES,
    SAME_USE_S,
    CountedUses,
    LastUse,
    content_of,
    counted_in,
    uses_after,
)
from dsfs.model.versionname import name_of, version_in
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import (
    GONE,
    FileSystem,
    attributes_of,
    is_unfinished,
    mtime_ns,
    open_plain,
    refresh_names,
    remove,
    replace_direct,
)
from dsfs.storage.leftovers import abandoned

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    """What a file said when its mtime was `used_ns`; None: that it is no use file."""

    used_ns: int
    counted: CountedUses | None

    def still_holds(self, used_ns: int) -> bool:
        """Whether it still says so, with that mtime."""
        return 0 <= used_ns - self.used_ns <= SAME_USE_S * 1e9


class LastUses:
    """The use files at `path`, a folder that is there."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs
        self._known: dict[str, _Known] = {}

    def begin(self, dataset: str, version: str, now_ns: int) -> None:
        """A use of the version begins on this node; if nobody has told of it lately, by the server's clock, it is
        another one (9 requests, else 6).  OSError.
        """
        path = self._path / name_of(dataset, version)
        reach("lastuses.touch")
        refresh_names(self._path, self._fs)  # another node may just have made it
        try:
            with open_plain(path) as file:
                idle_s = (now_ns - attributes_of(file.fileno(), anew=True).mtime_ns) / 1e9
                counted = self._counted(file)  # of the same file, whatever has its name by now
        except FileNotFoundError:
            uses: float | None = 1.0
        else:
            uses = uses_after(counted.uses if counted else 1.0, idle_s)
        if uses is None:
            os.utime(path)
        else:
            replace_direct(path, content_of(CountedUses(dataset, version, uses)))

    def touch(self, dataset: str, version: str) -> None:
        """A use that has begun goes on (1 SETATTR).  OSError, FileNotFoundError if the version was forgotten."""
        reach("lastuses.touch")
        os.utime(self._path / name_of(dataset, version))

    def of(self, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """When each of them was last used (ns, by the server's clock); those that never were are left out.

        OSError if that cannot be known.  Costs 1 GETATTR for each, and 1.
        """
        reach("lastuses.look")
        refresh_names(self._path, self._fs)
        os.stat(self._path)  # without it, nothing would have been used
        found = ((names, self._used_ns(name_of(*names))) for names in versions)
        return {names: used_ns for names, used_ns in found if used_ns is not None}

    def all(self, versions: Iterable[tuple[str, str]] = ()) -> list[LastUse]:
        """Every version that was ever used.  OSError if that cannot be known.

        `versions`: those that a file may be of which neither its name nor its content tells; it has an mtime all the
        same.  Other files of that kind are left out.
        Costs 1 GETATTR, the READDIRs of the folder if that has changed, and 1 GETATTR for each version; an attribute
        cache, which may be as old as actimeo, is not believed.  3 more for those of which a use has begun since the
        last look.
        """
        reach("lastuses.look")
        refresh_names(self._path, self._fs)
        known: dict[str, _Known] = {}
        for name in os.listdir(self._path):
            if name.startswith(".") or ".new-" in name or (used_ns := self._used_ns(name)) is None:
                continue
            before = self._known.get(name)
            counted = before.counted if before and before.still_holds(used_ns) else self._read(name)
            known[name] = _Known(used_ns, counted)
        self._known = known
        named = {name_of(*version): CountedUses(*version) for version in versions}
        found = ((of.counted or named.get(name), of.used_ns) for name, of in known.items())
        return [LastUse(of.dataset, of.version, used_ns, of.uses) for of, used_ns in found if of is not None]

    def _used_ns(self, name: str) -> int | None:
        try:
            return mtime_ns(self._path / name)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            return None

    def _read(self, name: str) -> CountedUses | None:
        """What the file says, or its name, which is believed first; None if it is no use file."""
        counted = None
        try:
            with open_plain(self._path / name) as file:
                counted = self._counted(file)
        except OSError as exc:
            log.info("%s cannot be read: %s", self._path / name, exc.strerror)
        if (names := version_in(name)) is None:
            return counted
        return CountedUses(*names, counted.uses if counted else 1.0)

    def _counted(self, file: BinaryIO) -> CountedUses | None:
        """None if it cannot be understood."""
        try:
            return counted_in(file.read(MOST_BYTES + 1))
        except ValueError as exc:
            log.info("%s cannot be understood: %s", file.name, exc)
            return None

    def forget(self, now_ns: int) -> None:
        """Remove what is too old to matter, and what a crash has left.  OSError."""
        for use in self.all():
            if use.is_forgotten(now_ns):
                remove(self._path / name_of(use.dataset, use.version))
        for name in abandoned(self._path, filter(is_unfinished, os.listdir(self._path))):
            remove(self._path / name)
