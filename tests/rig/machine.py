"""Where a dsfs node runs: on this machine, or on a node of the NFS rig (tests.rig.nfs.machine); both look the same."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

POLL_S = 0.2


class RunningProcess(Protocol):
    """What was started, as subprocess.Popen has it; `wait` raises subprocess.TimeoutExpired."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int) -> None: ...

    def kill(self) -> None: ...

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it says READY=1 as to systemd; False if it ended instead, TimeoutError if it does neither."""


class Machine(Protocol):
    def start(self, *argv: str, env: Mapping[str, str], log: Path) -> RunningProcess:
        """Start a program that writes to `log` and tells when it is ready; `env` is added to the machine's own."""

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end."""

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function there."""


class LocalProcess(subprocess.Popen[bytes]):
    """A child with a notification socket, which lasts until its end was seen."""

    def __init__(self, argv: tuple[str, ...], env: Mapping[str, str], log: Path) -> None:
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._directory = tempfile.TemporaryDirectory(prefix="rig-notify-")
        address = f"{self._directory.name}/socket"
        self._notices.bind(address)
        with log.open("ab") as file:
            super().__init__(
                argv, env={**_clean_environment(), **env, "NOTIFY_SOCKET": address}, stdout=file, stderr=file
            )

    def wait_ready(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        self._notices.settimeout(POLL_S)
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in self._notices.recv(4096):
                    return True
            except TimeoutError:
                if self.poll() is not None:
                    return False
        raise TimeoutError(f"not ready within {timeout_s:g} s")

    def wait(self, timeout: float | None = None) -> int:
        code = super().wait(timeout)
        self._notices.close()
        self._directory.cleanup()
        return code


class LocalMachine:
    def start(self, *argv: str, env: Mapping[str, str], log: Path) -> LocalProcess:
        return LocalProcess(argv, env, log)

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        environment = {**_clean_environment(), **(env or {})}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=timeout_s)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)


def _clean_environment() -> dict[str, str]:
    """The environment without the user's AWS settings and without what a caller's service manager put there."""
    unwanted = ("AWS_", "NOTIFY_SOCKET", "WATCHDOG_", "DSFS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
