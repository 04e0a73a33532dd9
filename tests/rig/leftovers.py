"""Mounts and processes that a run of the tests or of the demo has made: found by a mark, and removed."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

from dsfs.storage.mounts import mounts

MARK = "DSFS_RUN_MARK"  # an environment variable, inherited by all that the run starts
MNT_FORCE, MNT_DETACH = 1, 2  # umount2(2)
COMMAND_TIMEOUT_S = 10

_libc = ctypes.CDLL(None)


class Leftovers:
    """What belongs to this run: dsfs mounts below `directory`, and processes started since this was made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        os.environ[MARK] = str(uuid.uuid4())
        self._mark = f"{MARK}={os.environ[MARK]}".encode()

    def release_mounts(self) -> list[str]:
        """Abort and detach the mounts, whoever waits for an answer of them; returns which there were."""
        own = [
            str(mount.mountpoint)
            for mount in reversed(mounts())  # inner ones first
            if mount.filesystem == "fuse.dsfs" and mount.mountpoint.is_relative_to(self._directory)
        ]
        for path in own:
            if os.geteuid() == 0:  # not umount(8): it may ask the stuck daemon about its argument
                _libc.umount2(os.fsencode(path), MNT_FORCE)
                _libc.umount2(os.fsencode(path), MNT_DETACH)
            else:
                command = ["fusermount3", "-u", "-z", path]
                subprocess.run(command, capture_output=True, timeout=COMMAND_TIMEOUT_S)
        return own

    def processes(self) -> dict[int, str]:
        """The command lines of living processes, by pid."""
        found = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit() or int(directory.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # ended meanwhile, or another user's
                if self._mark in (directory / "environ").read_bytes().split(b"\0"):
                    command = (directory / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(directory.name)] = command.decode(errors="replace").strip()
        return found

    def kill_processes(self, settle_s: float) -> list[str]:
        """Kill what still runs when `settle_s` has passed; returns its command lines."""
        deadline = time.monotonic() + settle_s
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return list(left.values())
