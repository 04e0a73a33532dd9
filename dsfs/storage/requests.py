"""Requests that outlive a daemon: a folder with a small file for each, on this node or in the backing directory.

    requests/<id>.json        see model/request.py; its mtime, by the clock of the file server, is when it was asked for

Nodes find them by reading the folder, never by a name: an NFS client believes for a while that a name it did not find
does not exist.  What was asked for long ago is forgotten.

Concurrency: blocking calls, safe to use from several threads and nodes at once.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from dsfs.model.errors import BackingError
from dsfs.model.request import MAX_BYTES, WarmRequest, decode
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, is_unfinished, open_plain, refresh_names, remove, replace_file
from dsfs.storage.leftovers import abandoned, server_now_ns

log = logging.getLogger(__name__)

MOST = 256  # requests at once
EXPIRES_S = 7 * 86_400.0
SUFFIX = ".json"


class RequestFolder:
    """The requests at `path`.  `check` raises OSError if what lies there now is not what should (an absent mount)."""

    def __init__(self, path: Path, fs: FileSystem, check: Callable[[], object]) -> None:
        self._path = path
        self._fs = fs
        self._check = check
        self._unreadable: set[str] = set()

    def place(self, request: WarmRequest) -> None:
        """Ask, or ask again.  BackingError if there are too many requests, or the folder cannot be written."""
        try:
            self._check()
            self._path.mkdir(exist_ok=True)
            names = self._names()
            if len(names) >= MOST and self._file(request).name not in names:
                raise BackingError(f"{self._path}: there are {MOST} requests already; dsfs warm --list shows them")
            reach("request.place")
            replace_file(self._file(request), request.encode())
        except OSError as exc:
            raise BackingError(f"{self._path}: {exc.strerror}") from exc

    def withdraw(self, request: WarmRequest) -> None:
        """The request is done, or not wanted any more; OSError if it cannot be removed."""
        self._check()
        reach("request.withdraw")
        remove(self._file(request))

    def all(self) -> dict[WarmRequest, int]:
        """Every request, and when it was asked for (ns, by the clock of the file server).

        OSError if that cannot be known now.
        """
        self._check()
        found: dict[WarmRequest, int] = {}
        for name in self._names()[:MOST]:
            try:
                with open_plain(self._path / name) as file:
                    asked_ns = os.fstat(file.fileno()).st_mtime_ns
                    found[decode(file.read(MAX_BYTES + 1))] = asked_ns
            except OSError as exc:
                if exc.errno not in GONE:
                    raise
            except ValueError as exc:
                if name not in self._unreadable and len(self._unreadable) < MOST:
                    self._unreadable.add(name)
                    log.warning("request %s is left alone: %s", self._path / name, exc)
        return found

    def expired(self, requests: dict[WarmRequest, int]) -> list[WarmRequest]:
        """Those that were asked for too long ago, by the clock of the file server; what a crash left goes.  OSError."""
        for name in abandoned(self._path, filter(is_unfinished, self._listed())):
            remove(self._path / name)
        if not requests:
            return []
        now_ns = server_now_ns(self._path)
        return [request for request, asked_ns in requests.items() if now_ns - asked_ns > EXPIRES_S * 1e9]

    def _names(self) -> list[str]:
        return sorted(name for name in self._listed() if name.endswith(SUFFIX) and not name.startswith("."))

    def _listed(self) -> list[str]:
        reach("request.list")
        try:
            for folder in (self._path.parent, self._path):  # it may have been looked for before there was one
                refresh_names(folder, self._fs)
            return os.listdir(self._path)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            return []

    def _file(self, request: WarmRequest) -> Path:
        return self._path / f"{request.id}{SUFFIX}"
