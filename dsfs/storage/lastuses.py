"""When versions were last used, by any node: a small file for each in the backing directory.

    uses/<version name>        its mtime is when a node last told that the version is in use (model/versionname.py)

The mtime is set by a request that names no time, so it is the server's.  Whether a version is dropped or not does not
matter: how long ago it was used is known until that is more than a year.

Concurrency: blocking calls, safe to use from several threads and nodes at once.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dsfs.model.lastuse import MOST_BYTES, LastUse, content_of, version_of
from dsfs.model.versionname import name_of, version_in
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import (
    GONE,
    FileSystem,
    is_unfinished,
    mtime_ns,
    refresh_names,
    remove,
    replace_direct,
)
from dsfs.storage.leftovers import abandoned

log = logging.getLogger(__name__)


class LastUses:
    """The use files at `path`, a folder that is there."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs
        self._described: dict[str, tuple[str, str] | None] = {}  # what the files say whose names do not

    def touch(self, dataset: str, version: str) -> None:
        """The version is in use now (1 SETATTR; 5 requests for its first use).  OSError."""
        path = self._path / name_of(dataset, version)
        reach("lastuses.touch")
        with suppress(FileNotFoundError):
            os.utime(path)
            return
        refresh_names(self._path, self._fs)  # another node may just have made it
        try:
            os.utime(path)
        except FileNotFoundError:
            replace_direct(path, content_of(dataset, version))

    def of(self, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """When each of them was last used (ns, by the server's clock); those that never were are left out.

        OSError if that cannot be known.  Costs 1 GETATTR for each, and 1.
        """
        reach("lastuses.look")
        refresh_names(self._path, self._fs)
        os.stat(self._path)  # without it, nothing would have been used
        found = ((names, self._used_ns(name_of(*names))) for names in versions)
        return {names: used_ns for names, used_ns in found if used_ns is not None}

    def all(self) -> list[LastUse]:
        """Every version that was ever used.  OSError if that cannot be known.

        Costs 1 GETATTR, the READDIRs of the folder if that has changed, and 1 GETATTR for each version; an attribute
        cache, which may be as old as actimeo, is not believed.  3 more, once, for names too long for a file name.
        """
        reach("lastuses.look")
        refresh_names(self._path, self._fs)
        found = []
        for name in os.listdir(self._path):
            if name.startswith(".") or ".new-" in name:
                continue
            names, used_ns = self._version_of(name), self._used_ns(name)
            if names is not None and used_ns is not None:
                found.append(LastUse(*names, used_ns))
        return found

    def _used_ns(self, name: str) -> int | None:
        try:
            return mtime_ns(self._path / name)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            return None

    def _version_of(self, name: str) -> tuple[str, str] | None:
        """None if it is no use file, or cannot be understood."""
        if (names := version_in(name)) is not None:
            return names
        if name not in self._described:
            try:
                with (self._path / name).open("rb") as file:
                    self._described[name] = version_of(file.read(MOST_BYTES + 1))
            except OSError as exc:
                log.info("%s cannot be read: %s", self._path / name, exc.strerror)
                return None
            except ValueError as exc:
                log.info("%s is left alone: %s", self._path / name, exc)
                self._described[name] = None
        return self._described[name]

    def forget(self, now_ns: int) -> None:
        """Remove what is too old to matter, and what a crash has left.  OSError."""
        for use in self.all():
            if use.is_forgotten(now_ns):
                remove(self._path / name_of(use.dataset, use.version))
        for name in abandoned(self._path, filter(is_unfinished, os.listdir(self._path))):
            remove(self._path / name)
