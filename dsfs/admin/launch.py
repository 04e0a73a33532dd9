"""`dsfs mount` in the background: start the daemon in a session of its own and wait until the mount answers.

The daemon reports through a notification socket, as it would to systemd; it writes its log to a file, where
its last words are found if it ends before.
"""

import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dsfs.model.errors import DsfsError

ROTATE_BYTES = 16 * 1024 * 1024
STOP_S = 10.0  # how long a daemon that was not ready in time may take to end
_LAST_LINES = 5


class StartError(DsfsError):
    """The daemon ended before the mount answered; the message is its own, `exit_code` too."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Started:
    """A daemon whose mount answers."""

    pid: int
    status: str


def daemon_command(arguments: Sequence[str]) -> list[str]:
    """The command line of the daemon, for the interpreter that runs now."""
    return [sys.executable, "-m", "dsfs", "mount", "--foreground", *arguments]


def launch(command: Sequence[str], log_file: Path, *, timeout_s: float) -> Started:
    """Run `command` detached from this session until it says READY=1.

    Raises StartError if it ends before, DsfsError (after ending it) if it takes longer than `timeout_s`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WATCHDOG_")}
    with (
        _opened_log(log_file) as log,
        tempfile.TemporaryDirectory(prefix="dsfs-") as private,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices,
    ):
        log_start = log.tell()
        address = f"{private}/notify"
        notices.bind(address)
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=environment | {"NOTIFY_SOCKET": address},
        )
        try:
            status = _wait_ready(daemon, notices, log_file, log_start, timeout_s)
        except BaseException:
            _end(daemon)
            raise
    started = Started(daemon.pid, status)
    daemon.returncode = 0  # it is meant to outlive this process: keep Popen from warning about that
    return started


def _opened_log(log_file: Path) -> BinaryIO:
    """The log, open behind its end; one that has grown large is put aside.  DsfsError if it cannot be written."""
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        if log_file.exists() and log_file.stat().st_size > ROTATE_BYTES:
            log_file.replace(log_file.with_name(log_file.name + ".1"))
        return log_file.open("ab")
    except OSError as exc:
        raise DsfsError(f"the log of the daemon cannot be written: {exc.filename}: {exc.strerror}") from None


def _wait_ready(
    daemon: "subprocess.Popen[bytes]",
    notices: socket.socket,
    log_file: Path,
    log_start: int,
    timeout_s: float,
) -> str:
    """The daemon's status at the moment its mount answers."""
    deadline_s = time.monotonic() + timeout_s
    status = ""
    ended = os.pidfd_open(daemon.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(notices, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while (left_s := deadline_s - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(left_s)}
                if notices.fileno() in ready:
                    told = dict(line.partition("=")[::2] for line in _datagram(notices).splitlines())
                    status = told.get("STATUS", status)
                    if told.get("READY") == "1":
                        return status
                elif ended in ready:
                    raise _start_error(daemon.wait(), log_file, log_start)
    finally:
        os.close(ended)
    waited_for = f" ({status})" if status else ""
    raise DsfsError(f"the mount did not answer within {timeout_s:g} s{waited_for}; see {log_file}")


def _datagram(notices: socket.socket) -> str:
    return notices.recv(64 * 1024).decode(errors="replace")


def _start_error(exit_code: int, log_file: Path, log_start: int) -> StartError:
    """What to say about a daemon that ended: its own `dsfs: ...` lines, or else its last ones.

    Beside its own, those of fusermount3, which mounts for who is not root and tells nobody else why it does not.
    """
    with log_file.open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode(errors="replace").splitlines()
    if exit_code > 0 and any(line.startswith("dsfs: ") for line in lines):
        own_words = [line.removeprefix("dsfs: ") for line in lines if line.startswith(("dsfs: ", "fusermount3: "))]
        return StartError("\n".join(own_words), exit_code)
    how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with {exit_code}"
    last = [f"the daemon {how} before the mount answered; the end of {log_file}:", *lines[-_LAST_LINES:]]
    return StartError("\n".join(last), max(exit_code, 1))


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    """End a daemon that is not wanted any more, by force if need be."""
    if daemon.poll() is not None:
        return
    daemon.terminate()
    try:
        daemon.wait(STOP_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
