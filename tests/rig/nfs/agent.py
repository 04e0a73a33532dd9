"""The first process of a node: starts what the tests ask for there, and tells how it ends.

Requests and answers are lines of JSON on a console of the guest.  A request is {"start": number, ...}, for a program
(`argv`) or for a function (`task`, see tests.rig.nfs.task), or {"signal": number, ...} to one that was started.
The answers to a start: {"started": number, "pid": ...}, perhaps {"ready": number} (it said READY=1 on its
notification socket, as to systemd), and {"ended": number, "code": ...}, negative for a signal.

One thread, so that it may fork at any time, and it touches no file system but that of this machine, so that it
answers whatever the others do.

A Python program (`python -m`) is started as a fork of the agent in which the libraries of dsfs are imported already:
that takes three seconds here, half of what a scene of four nodes would take.  From there on it runs as with `-m`.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import tty
from pathlib import Path
from typing import Any

from tests.rig.nfs import task

EXIT_NOT_STARTED = 127
# What dsfs imports of others; nothing of dsfs itself, which looks at the environment while it is imported.
LIBRARIES = ("boto3", "elftools.elf.elffile", "lmdb", "obstore.auth.boto3", "pyfuse3", "rich", "trio")

# Who looks at these does so while it is loaded, and a task may have had that done in the agent.
BEFORE_START = {"LD_PRELOAD", "DSFS_CRASH_AT", "DSFS_FREEZE_AT"}


class Become(BaseException):
    """In a new process: it is to be the Python program `argv`."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv


class Agent:
    def __init__(self, console: str) -> None:
        self._console = os.open(console, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        tty.setraw(self._console)
        self._received = b""
        self._started: dict[int, int] = {}  # pid -> number
        self._notices: dict[int, socket.socket] = {}  # number -> its notification socket
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._console, selectors.EVENT_READ, self._read_requests)

    def serve(self) -> None:
        awakened, awaken = socket.socketpair()
        for end in (awakened, awaken):
            end.setblocking(False)
        signal.set_wakeup_fd(awaken.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(awakened, selectors.EVENT_READ, lambda: self._reap(awakened))
        self._tell(hello=os.getpid())
        while True:
            for key, _ in self._selector.select():
                key.data()

    def close(self) -> None:
        """In a new process: all that is the agent's."""
        self._selector.close()
        for notices in self._notices.values():
            notices.close()
        os.close(self._console)

    def _tell(self, **answer: object) -> None:
        line = json.dumps(answer).encode() + b"\n"
        while line:
            line = line[os.write(self._console, line) :]

    def _read_requests(self) -> None:
        self._received += os.read(self._console, 1 << 16)
        while b"\n" in self._received:
            line, self._received = self._received.split(b"\n", 1)
            request = json.loads(line)
            if "start" in request:
                self._start(request["start"], request)
            else:
                self._signal(request["signal"], request["number"], request["group"])

    def _start(self, number: int, request: dict[str, Any]) -> None:
        environment = {**os.environ, **request["env"]}
        if request["notify"]:
            address = f"/run/notify-{number}"
            notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            notices.bind(address)
            self._notices[number] = notices
            self._selector.register(notices, selectors.EVENT_READ, lambda: self._hear(number))
            environment["NOTIFY_SOCKET"] = address
        if request["task"]:
            with contextlib.suppress(Exception):  # the process will fail on it, and tell
                importlib.import_module(request["module"])  # here, so that it is there for the next one, too
        is_program = request["argv"][:2] == [sys.executable, "-m"] and BEFORE_START.isdisjoint(environment)
        if is_program:
            for library in LIBRARIES:
                importlib.import_module(library)
            gc.freeze()
        pid = os.fork()
        if pid == 0:
            try:
                _prepare(request)
                if is_program:
                    os.environ.clear()
                    os.environ.update(environment)
                    raise Become(request["argv"][2:])
                _become(request, environment)
            except Become:
                raise
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(EXIT_NOT_STARTED)
        self._started[pid] = number
        self._tell(started=number, pid=pid)

    def _hear(self, number: int) -> None:
        if b"READY=1" in self._notices[number].recv(4096).split(b"\n"):
            self._tell(ready=number)

    def _signal(self, number: int, signal_number: int, group: bool) -> None:
        for pid, started in self._started.items():
            if started == number:  # not reaped, so the pid is still its own
                (os.killpg if group else os.kill)(pid, signal_number)

    def _reap(self, awakened: socket.socket) -> None:
        """All children that have ended, orphans of others among them: this is the node's init."""
        awakened.recv(4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._started.pop(pid, None)
            if number is None:
                continue
            notices = self._notices.pop(number, None)
            if notices is not None:
                self._selector.unregister(notices)
                notices.close()
            self._tell(ended=number, code=os.waitstatus_to_exitcode(status))


def _prepare(request: dict[str, Any]) -> None:
    """Make this new process independent of the agent, with standard streams as asked for."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(request["stdout"], flags, 0o644), 1)
    os.dup2(os.open(request["stderr"], flags, 0o644) if request["stderr"] else 1, 2)


def _become(request: dict[str, Any], environment: dict[str, str]) -> None:
    """Turn this new process into what was asked for; does not return unless that fails."""
    os.closerange(3, 256)
    if request["task"]:
        os.environ.update(environment)
        task.perform(Path(request["task"]))
        os._exit(0)
    os.execvpe(request["argv"][0], request["argv"], environment)


if __name__ == "__main__":
    agent = Agent(sys.argv[2])
    try:
        agent.serve()
    except Become as program:
        agent.close()
        sys.argv = program.argv
    random.seed()  # not what all others have
    if not hasattr(sys.modules.get(sys.argv[0]), "__path__"):  # of a package it is another module that runs
        sys.modules.pop(sys.argv[0], None)  # a task may have imported it
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
