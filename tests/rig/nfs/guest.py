"""The guest: a user-mode Linux as a child process, with an NFS server and its clients.

The process ends with a SIGKILL to its process group, and by itself if this process dies: everything in it is of no use
without the test run, and its images are new at each boot.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.machine import GuestMachine
from tests.rig.nfs.server import NfsServer

ROOT = Path(__file__).parents[3]
KERNEL = ROOT / ".rig"  # what .ci/setup makes
PROGRAMS = ("mount.nfs", "exportfs", "rpc.nfsd", "nfsdcld", "rpcbind", "modprobe", "ip", "tc", "mkfs.ext4")
SERVER = "srv"
MIB = 1024 * 1024
MEMORY_BYTES = 1024 * MIB
IMAGES = {"large": 2048 * MIB, "small": 64 * MIB}  # the file systems of the exports
BOOT_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 30
CONSOLE_LINES = 40


def missing() -> str | None:
    """Why there can be no guest here."""
    if not (KERNEL / "linux").exists():
        return "no .rig/linux: .ci/setup makes it, on x86_64 with apt"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"programs are missing that .ci/setup installs: {', '.join(absent)}" if absent else None


class Guest:
    """Boots with the `with` statement.  `work`: a directory that is the same, and writable, here and in the guest.

    `images`: the sizes of the exports' file systems, in the order of server.EXPORTS.
    """

    def __init__(
        self,
        work: Path,
        nodes: Sequence[str],
        *,
        memory_bytes: int = MEMORY_BYTES,
        images: Mapping[str, int] = IMAGES,
    ) -> None:
        self._work = work
        self._memory_bytes = memory_bytes
        self._images = images
        self._files = work / "nfs-guest"
        self._files.mkdir()
        self._console = self._files / "console.log"
        self.server = NfsServer(SERVER, self._files, self.console_tail)
        self.clients = [NfsClient(name, self._files, self.console_tail) for name in nodes]
        self._machines: list[GuestMachine] = [self.server, *self.clients]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            for name, size in self._images.items():
                _make_image(self._files / name, size)
            self._process = self._boot()
            deadline = time.monotonic() + BOOT_TIMEOUT_S
            for machine in self._machines:
                machine.wait_up(max(0, deadline - time.monotonic()))
            self.server.prepare()
            for client in self.clients:
                client.prepare(self.server)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(COMMAND_TIMEOUT_S)
        for machine in self._machines:
            machine.close()
        for name in self._images:
            (self._files / name).unlink(missing_ok=True)

    def console_tail(self) -> str:
        """The end of what the kernel and its first process said."""
        lines = self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        return "\n".join(["the guest's console:", *lines[-CONSOLE_LINES:]])

    def _boot(self) -> "subprocess.Popen[bytes]":
        bytecode = Path(sys.pycache_prefix or self._files / "pycache")  # the guest may write it, and starts sooner
        bytecode.mkdir(parents=True, exist_ok=True)
        init = Path(__file__).with_name("init.sh")
        settings = {
            "RIG_WORK": self._work,
            "RIG_KERNEL": KERNEL,
            "RIG_PYTHON": sys.executable,
            "RIG_NODES": ",".join(client.name for client in self.clients),
            "PYTHONPYCACHEPREFIX": bytecode,
        }
        command = [
            "setpriv", "--pdeathsig", "KILL", str(KERNEL / "linux"),
            f"mem={self._memory_bytes}", "root=none", "rootfstype=hostfs", "rootflags=/", "ro", "quiet", f"init={init}",
            *(f"ubd{number}={self._files / name}" for number, name in enumerate(self._images)),
            "con=null", "con0=null,fd:1",
            *(f"con{number}={machine.console}" for number, machine in enumerate(self._machines, 1)),
            *(f"{name}={value}" for name, value in settings.items()),
        ]  # fmt: skip
        with self._console.open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**os.environ, "TMPDIR": str(_directory_for(self._memory_bytes))},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[fd for machine in self._machines for fd in machine.guest_fds],
                start_new_session=True,
            )
        for machine in self._machines:
            machine.release_guest_fds()
        return process


def _make_image(path: Path, size_bytes: int) -> None:
    with path.open("wb") as image:
        image.truncate(size_bytes)
    command = ["mkfs.ext4", "-q", "-F", "-m", "0", str(path)]
    path_with_sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    subprocess.run(
        command, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, env={**os.environ, "PATH": path_with_sbin}
    )


def _directory_for(memory_bytes: int) -> Path:
    """Where the file that is the guest's memory has room: in memory, unless a container gives little of that."""
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free > memory_bytes:
        return shared
    return Path(tempfile.gettempdir())
