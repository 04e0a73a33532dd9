"""Where nodes see each other: a directory for each, with two small files that it alone writes.

    <backing>/nodes/<node>/heartbeat     empty; its mtime says when the node was last alive, by the server's clock
    <backing>/nodes/<node>/usage         what it tells of itself (model/usage.py)

A beat is one SETATTR that says "now" and names no time, so the clock of the node does not matter.  The heartbeat is
open for reading only: with a write delegation a client of NFS 4.2 may keep the times itself, by its own clock.
Nothing here is believed out of an attribute cache, which may be as old as actimeo.

Concurrency: blocking, and as long as the server is silent; `_turn` guards the own directory, so that one thread beats
or looks after the other.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from dsfs.model.nodes import Look, ServerClock, Sighting
from dsfs.model.usage import MOST_BYTES, Usage, content_of, told_within, usage_in
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import (
    GONE,
    NO_ROOM,
    FileSystem,
    attributes_of,
    bytes_of,
    is_unfinished,
    mtime_ns,
    overwrite_direct,
    refresh_names,
    replace_direct,
)

log = logging.getLogger(__name__)

HEARTBEAT = "heartbeat"
USAGE = "usage"
RETELL_S = 60.0  # what has not changed is written again after so long: an old usage file means that none can be written
_MACHINE_ID = Path("/etc/machine-id")
_NFS_UNIQUE_IDS = (
    Path("/sys/fs/nfs/net/nfs_client/identifier"), Path("/sys/module/nfs/parameters/nfs4_unique_id"),
)  # fmt: skip


def node_id(state_dir: Path) -> str:
    """The same after each start of the daemon with that state directory on this machine.

    Nothing is kept for it in the state directory, so a copy of that on another machine is another node.
    """
    machine = ""
    with suppress(OSError):
        machine = _MACHINE_ID.read_text()
    return blake2b(os.fsencode("\0".join((machine, socket.gethostname(), str(state_dir)))), digest_size=8).hexdigest()


def nfs_unique_id() -> str:
    """What an administrator gave the NFS client so that the server tells it from others of its name; "" for nothing."""
    for path in _NFS_UNIQUE_IDS:
        with suppress(OSError):
            found = path.read_text().strip()
            if found and found != "(null)":
                return found
    return ""


class NodesDirectory:
    """This node among the others; `node` is its id, `path` the directory, which is there.

    INVARIANT: the own heartbeat has the mtime that this process gave it last (`_beat_ns`, None if that is not known),
    or another process takes itself for the same node.
    """

    def __init__(
        self, path: Path, node: str, fs: FileSystem, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._fs = fs
        self.node = node
        self._clock = clock
        self._turn = threading.Lock()
        self._server = ServerClock()
        self._fd: int | None = None
        self._beat_ns: int | None = None
        self._told: Usage | None = None

    # ---------------------------------------------------------------- this node

    def beat(self, usage: Usage) -> None:
        """Be alive, and tell `usage` if it is news.  OSError if the server says no."""
        with self._turn:
            self._beat(usage)

    def leave(self, usage: Usage) -> None:
        """The last beat."""
        with self._turn:
            try:
                self._beat(usage)
            finally:
                self._close()

    def _beat(self, usage: Usage) -> None:
        beat_ns = self._touch()
        usage = replace(usage, beat_ns=beat_ns)
        if self._told is None or self._is_news(usage, self._told):
            self._told = self._write(self.path / self.node / USAGE, usage)

    def _write(self, path: Path, usage: Usage) -> Usage:
        """What of it was told: all, but where there is no room for another file.

        Then over the one before, and no more than that holds: or nobody would know what is in use here, so that nothing
        could leave, and there would be no room for ever.
        """
        try:
            replace_direct(path, content_of(usage))
        except OSError as exc:
            if exc.errno not in NO_ROOM:
                raise
            shorter = told_within(usage, path.stat().st_size)
            if shorter is None:
                raise
            overwrite_direct(path, content_of(shorter))
            return shorter
        return usage

    def _is_news(self, usage: Usage, told: Usage) -> bool:
        return usage != replace(told, beat_ns=usage.beat_ns) or abs(usage.beat_ns - told.beat_ns) > RETELL_S * 1e9

    def _touch(self) -> int:
        """Set the own heartbeat to the server's time, and return that."""
        try:
            if self._fd is not None:
                self._check_own(self._fd)
            return self._set_now(self._fd if self._fd is not None else self._join())
        except OSError as exc:
            if exc.errno in GONE:  # others gave this node up, or the directory is not mounted any more
                self._close()
            raise

    def _check_own(self, fd: int) -> None:
        """Give up the directory if another node uses it, too."""
        seen = attributes_of(fd, anew=True)
        if seen.links == 0:
            self._close()
        elif self._beat_ns is not None and seen.mtime_ns != self._beat_ns:
            taken, self.node = self.node, uuid.uuid4().hex[:16]
            log.warning(
                "another node calls itself %s: it has the machine id, the hostname and the state directory of this one,"
                " which is node %s until its daemon is started anew; give each its own /etc/machine-id",
                taken, self.node,
            )  # fmt: skip
            self._close()

    def _join(self) -> int:
        """Open the own heartbeat, made if it is missing."""
        folder = self.path / self.node
        refresh_names(self.path, self._fs)
        reach("nodes.join")
        folder.mkdir(exist_ok=True)  # not its parent: that may be missing because nothing is mounted here
        for name in filter(is_unfinished, os.listdir(folder)):
            with suppress(FileNotFoundError):
                os.unlink(folder / name)
        self._fd = os.open(folder / HEARTBEAT, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._fd

    def _set_now(self, fd: int) -> int:
        reach("nodes.beat")
        asked_s = self._clock()
        self._beat_ns = None  # what fails now may have been done all the same
        os.utime(fd)
        self._beat_ns = os.fstat(fd).st_mtime_ns  # out of the server's answer
        self._server.note(asked_s, self._clock(), self._beat_ns)
        return self._beat_ns

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd = self._beat_ns = self._told = None

    def now_ns(self) -> int:
        """The server's time, which sets the own heartbeat; OSError if the server says no."""
        with self._turn:
            return self._touch()

    def time_at(self, moment_s: float) -> int:
        """The server's time at that moment of this node's monotonic clock.

        From the last beat; the server is asked only if there was none.  OSError if it says no.
        """
        known = self.known_time_at(moment_s)
        return known if known is not None else self.now_ns() - round((self._clock() - moment_s) * 1e9)

    def known_time_at(self, moment_s: float) -> int | None:
        """The same without a question; None if there was no beat yet."""
        return self._server.time_at(moment_s)

    # ---------------------------------------------------------------- all nodes

    def look(self) -> Look:
        """All nodes as they are now; OSError if this one cannot see them.  Damage of another one is its own trouble."""
        with self._turn:
            now_ns = self._touch()
            step_ns, steps = self._server.step_ns, self._server.steps
        found = (self._sighting(name) for name in self._names())
        return Look(now_ns, step_ns, tuple(sighting for sighting in found if sighting is not None), steps)

    def _names(self) -> list[str]:
        refresh_names(self.path, self._fs)
        return sorted(name for name in os.listdir(self.path) if not name.startswith("."))

    def _sighting(self, name: str) -> Sighting | None:
        """None if there is no such node (any more)."""
        folder = self.path / name
        try:
            refresh_names(folder, self._fs)
            beat_ns = mtime_ns(folder / HEARTBEAT)
        except OSError as exc:
            if exc.errno in GONE or isinstance(exc, NotADirectoryError):
                return None
            return Sighting(name, None, None, f"{HEARTBEAT}: {exc.strerror}")
        try:
            return Sighting(name, beat_ns, usage_in(bytes_of(folder / USAGE, MOST_BYTES)))
        except OSError as exc:
            return Sighting(name, beat_ns, None, f"{USAGE}: {exc.strerror}")
        except ValueError as exc:
            return Sighting(name, beat_ns, None, f"{USAGE}: {exc}")

    def forget(self, look: Look) -> None:
        """Remove what nodes have left that are long dead.

        Several nodes may do that at once; one that comes back meanwhile finds itself gone, and joins anew.
        """
        for node in look.forgotten():
            log.info("node %s has been silent for days: it is forgotten", node)
            _remove(self.path / node)
        seen = {sighting.node for sighting in look.sightings}
        for name in self._names():
            if name not in seen:  # a crash came in the middle of the above
                with suppress(OSError):
                    os.rmdir(self.path / name)


def _remove(folder: Path) -> None:
    """The heartbeat last: what has one is looked at again."""
    try:
        for name in sorted(os.listdir(folder), key=lambda name: name == HEARTBEAT):
            with suppress(FileNotFoundError):
                os.unlink(folder / name)
        os.rmdir(folder)
    except OSError as exc:
        log.info("%s cannot be removed: %s", folder, exc)
