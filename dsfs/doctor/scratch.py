"""The folder in the backing directory in which checks try things out: made, and removed whatever happens.

Its name begins with a dot, so a daemon takes a directory that holds nothing else for an empty one, and no scan of
dsfs enters it.
"""

import os
import shutil
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from dsfs.doctor.check import NotCheckedError

PREFIX = ".dsfs-doctor-"
_ABANDONED_S = 3600.0  # no run takes so long


class Scratch:
    """`place`: the backing directory, or the one it will be made in; nothing is touched before `make`."""

    def __init__(self, backing: Path) -> None:
        self._backing = backing
        self._name = f"{PREFIX}{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
        self._made: Path | None = None

    @property
    def place(self) -> Path:
        """Waits for the file system.  NotCheckedError if there is neither."""
        for path in (self._backing, self._backing.parent):
            if path.is_dir():
                return path
        raise NotCheckedError(f"{self._backing.parent} is not there: is it mounted?")

    @property
    def path(self) -> Path:
        """The folder; NotCheckedError if it was not made."""
        if self._made is None:
            raise NotCheckedError("nothing could be written: see directory.owner")
        return self._made

    def make(self) -> Path:
        """Make it, and remove those that dead runs have left."""
        folder = self.place / self._name
        os.mkdir(folder, 0o700)
        self._made = folder
        remove_abandoned(folder.parent, PREFIX, folder)
        return folder

    def remove(self) -> None:
        """Also in a process that has not made it."""
        for place in (self._backing, self._backing.parent):
            shutil.rmtree(place / self._name, ignore_errors=True)


def remove_abandoned(folder: Path, prefix: str, own: Path) -> None:
    """What dead runs have left there, by names that begin so: much older than `own` by the file server's clock."""
    now = os.stat(own).st_mtime
    for path in folder.glob(f"{prefix}*"):
        with suppress(OSError):
            if path != own and now - os.lstat(path).st_mtime > _ABANDONED_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
