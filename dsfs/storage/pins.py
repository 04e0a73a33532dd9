"""Pins in the backing directory: a small file for each, which all nodes see at once.

    pins/<version name>,<unique>.json        see model/pin.py and model/versionname.py

A file is never changed, and its name never comes again: an NFS client may open the old file of a name that was used
twice, and who removes a pin that is over must not remove the one that somebody has just put in its place.  So a pin
that is renewed is a new file, and the old ones go after it.

Concurrency: blocking calls, safe to use from several threads and nodes at once.
"""

import logging
import os
import uuid
from collections.abc import Callable, Set
from pathlib import Path

from dsfs.model.errors import BackingError
from dsfs.model.pin import MOST_BYTES, Pin, PinFile, Pins, content_of, pin_in
from dsfs.model.versionname import SEPARATOR, name_of
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, bytes_of, is_unfinished, refresh_names, remove, replace_direct
from dsfs.storage.leftovers import abandoned

log = logging.getLogger(__name__)

MOST = 10_000  # pins at once
SUFFIX = ".json"


class PinFolder:
    """The pins at `path`.  `check` raises OSError if what lies there now is not what should (an absent mount)."""

    def __init__(self, path: Path, fs: FileSystem, check: Callable[[], object]) -> None:
        self._path = path
        self._fs = fs
        self._check = check
        self._known: dict[str, PinFile] = {}  # a file is never changed, so it is read once
        self._damaged: Set[str] = frozenset()

    def place(self, pin: Pin) -> None:
        """Pin the version, in place of an earlier pin; BackingError if there are too many of them.  OSError."""
        before = self.all().files
        if len(before) >= MOST:
            raise BackingError(f"{self._path}: there are {MOST} pins already; dsfs pins shows them")
        name = name_of(pin.dataset, pin.version)
        reach("pins.place")
        replace_direct(self._path / f"{name}{SEPARATOR}{uuid.uuid4().hex[:12]}{SUFFIX}", content_of(pin))
        reach("pins.placed")
        for file in before.get(name, ()):
            remove(self._path / file.name)

    def remove(self, dataset: str, version: str) -> bool:
        """Take all pins of the version away, also damaged ones; whether there was one.  OSError."""
        files = self.all().files.get(name_of(dataset, version), ())
        for file in files:
            reach("pins.remove")
            remove(self._path / file.name)
        return bool(files)

    def all(self) -> Pins:
        """Every pin there is now; OSError if that cannot be known: then anything may be pinned.

        Costs 1 GETATTR and, if the folder has changed, a READDIR, and 3 requests for each file that is new here.
        """
        self._check()
        reach("pins.list")
        refresh_names(self._path, self._fs)
        names = [name for name in os.listdir(self._path) if name.endswith(SUFFIX) and not name.startswith(".")]
        known = {name: file for name in names if (file := self._known.get(name) or self._read(name)) is not None}
        damaged = {name: file for name, file in known.items() if file.pin is None}  # which may be mended
        for name in damaged.keys() - self._damaged:
            log.warning("%s cannot be understood, and counts as a pin: %s", self._path / name, damaged[name].trouble)
        self._damaged = damaged.keys()
        self._known = {name: file for name, file in known.items() if name not in damaged}
        by_version: dict[str, list[PinFile]] = {}
        for file in known.values():
            by_version.setdefault(file.version_name, []).append(file)
        return Pins({version: tuple(sorted(files, key=_age)) for version, files in by_version.items()})

    def _read(self, name: str) -> PinFile | None:
        """None if there is no such file any more."""
        try:
            pin = pin_in(bytes_of(self._path / name, MOST_BYTES))
            return PinFile(name, name_of(pin.dataset, pin.version), pin)
        except OSError as exc:
            if exc.errno in GONE:
                return None
            trouble = exc.strerror or str(exc)
        except ValueError as exc:
            trouble = str(exc)
        return PinFile(name, name.removesuffix(SUFFIX).rpartition(SEPARATOR)[0], None, trouble)

    def forget(self, pins: Pins, now_ns: int) -> None:
        """Remove those that have been over for long, and what a crash has left.  OSError."""
        for file in pins.forgotten(now_ns):
            log.info("the pin %s was over long ago: it is forgotten", file.name)
            remove(self._path / file.name)
        for name in abandoned(self._path, filter(is_unfinished, os.listdir(self._path))):
            remove(self._path / name)


def _age(file: PinFile) -> int:
    return -file.pin.at_ns if file.pin is not None else 0
