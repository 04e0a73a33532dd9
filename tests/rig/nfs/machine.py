"""The server or a node of the guest, as a tests.rig.machine.Machine: programs and functions run there."""

import itertools
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from tests.rig.nfs import task

P = ParamSpec("P")
T = TypeVar("T")

START_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 5.0


class MachineLostError(Exception):
    """The guest, or the agent in it, has ended."""


class GuestProcess:
    """A process on a machine of the guest, the head of a process group."""

    def __init__(self, machine: "GuestMachine", number: int, what: str) -> None:
        self.what = what
        self.pid = 0
        self.is_ready = False
        self.returncode: int | None = None
        self._machine = machine
        self._number = number

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._machine.wait_for(lambda: self.returncode is not None, timeout):
            raise subprocess.TimeoutExpired(self.what, timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def wait_ready(self, timeout_s: float) -> bool:
        if not self._machine.wait_for(lambda: self.is_ready or self.returncode is not None, timeout_s):
            raise TimeoutError(f"{self.what}: not ready within {timeout_s:g} s")
        return self.is_ready

    def send_signal(self, sig: int) -> None:
        self._machine.tell(signal=self._number, number=int(sig), group=False)

    def kill(self) -> None:
        """SIGKILL to the process and to what it has started."""
        self._machine.tell(signal=self._number, number=int(signal.SIGKILL), group=True)


class GuestMachine:
    """`env` is added to the environment of what starts from now on."""

    def __init__(self, name: str, files: Path, console_tail: Callable[[], str]) -> None:
        self.name = name
        self.env: dict[str, str] = {}
        self.files = files
        self._console_tail = console_tail
        requests_end, requests = os.pipe()
        answers, answers_end = os.pipe()
        self.guest_fds = [requests_end, answers_end]
        self.console = f"fd:{requests_end},fd:{answers_end}"  # as user-mode Linux takes it
        self._requests = os.fdopen(requests, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb")
        self._numbers = itertools.count(1)
        self._changed = threading.Condition()
        self._processes: dict[int, GuestProcess] = {}
        self._is_up = False
        self._is_lost = False
        self._listener = threading.Thread(target=self._listen, name=f"agent of {name}", daemon=True)
        self._listener.start()

    # ---------------------------------------------------------------- what tests do

    def start(self, *argv: str, env: Mapping[str, str] | None = None, log: Path) -> GuestProcess:
        """Start a program that writes to `log`, appending."""
        return self._start(" ".join(argv), argv=argv, env=env, notify=True, stdout=log)

    def run(
        self, *argv: str, env: Mapping[str, str] | None = None, timeout_s: float = CALL_TIMEOUT_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program to its end; one that takes longer is killed, and TimeoutExpired tells what it wrote."""
        stdout, stderr = self._new_file("out"), self._new_file("err")
        process = self._start(" ".join(argv), argv=argv, env=env, stdout=stdout, stderr=stderr)
        try:
            code = self._finish(process, timeout_s)
        finally:
            written = [_take(path) for path in (stdout, stderr)]
        return subprocess.CompletedProcess(argv, code, *written)

    def check(self, *argv: str, timeout_s: float = CALL_TIMEOUT_S) -> str:
        """Run a program that has to succeed; what it wrote."""
        done = self.run(*argv, timeout_s=timeout_s)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function of a module in a new process there: arguments, result and exception are copies."""
        return self.call_within(CALL_TIMEOUT_S, function, *args, **kwargs)

    def call_within(self, timeout_s: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`; TimeoutExpired when the time is over, and the process is killed."""
        path, stdout = self._new_file("task"), self._new_file("out")
        task.place(path, function, args, kwargs)
        process = self._start(f"{function.__qualname__}()", task=str(path), module=function.__module__, stdout=stdout)
        try:
            code = self._finish(process, timeout_s)
            written = stdout.read_text(errors="replace")
            if code != 0:
                raise RuntimeError(f"{self.name}: {process.what} ended with {code}:\n{written}")
            result: T = task.outcome(path)
            return result
        finally:
            for used in (path, stdout, task.outcome_file(path)):
                used.unlink(missing_ok=True)

    def kill_processes(self) -> None:
        """All that tests have started here and left."""
        left = list(self._processes.values())
        for process in left:
            process.kill()
        for process in left:
            process.wait(KILL_TIMEOUT_S)

    # ---------------------------------------------------------------- processes

    def _start(
        self,
        what: str,
        *,
        argv: tuple[str, ...] = (),
        task: str = "",
        module: str = "",
        env: Mapping[str, str] | None = None,
        notify: bool = False,
        stdout: Path,
        stderr: Path | None = None,
    ) -> GuestProcess:
        number = next(self._numbers)
        process = self._processes[number] = GuestProcess(self, number, f"{self.name}: {what}")
        self.tell(
            start=number, argv=argv, task=task, module=module, env={**self.env, **(env or {})},
            notify=notify, stdout=str(stdout), stderr=str(stderr or ""),
        )  # fmt: skip
        if not self.wait_for(lambda: process.pid, START_TIMEOUT_S):
            raise TimeoutError(f"{process.what} was not started within {START_TIMEOUT_S:g} s\n{self._console_tail()}")
        return process

    def _finish(self, process: GuestProcess, timeout_s: float) -> int:
        """Wait for the end, and bring it about; a process that waits for a silent server may not even die."""
        try:
            return process.wait(timeout_s)
        except BaseException:
            process.kill()
            self.wait_for(lambda: process.returncode is not None, KILL_TIMEOUT_S)
            raise

    def _new_file(self, suffix: str) -> Path:
        return self.files / f"{self.name}-{next(self._numbers)}.{suffix}"

    # ---------------------------------------------------------------- the agent

    def tell(self, **request: object) -> None:
        self._requests.write(json.dumps(request).encode() + b"\n")

    def wait_up(self, timeout_s: float) -> None:
        if not self.wait_for(lambda: self._is_up, timeout_s):
            raise TimeoutError(f"the guest did not come up: no word of {self.name}\n{self._console_tail()}")

    def wait_for(self, condition: Callable[[], object], timeout_s: float | None) -> bool:
        """Wait until an answer of the agent makes `condition` true; whether one did."""
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._is_lost, timeout_s)
            if self._is_lost and not condition():
                raise MachineLostError(f"{self.name} is lost\n{self._console_tail()}")
            return bool(condition())

    def release_guest_fds(self) -> None:
        """The guest has them now: when it ends, the answers end."""
        for fd in self.guest_fds:
            os.close(fd)
        self.guest_fds.clear()

    def close(self) -> None:
        """The guest has ended, or never began."""
        self.release_guest_fds()
        self._listener.join()
        self._requests.close()
        self._answers.close()

    def _listen(self) -> None:
        for line in self._answers:
            answer: dict[str, Any] = json.loads(line)
            with self._changed:
                if "hello" in answer:
                    self._is_up = True
                elif "started" in answer:
                    self._processes[answer["started"]].pid = answer["pid"]
                elif "ready" in answer:
                    self._processes[answer["ready"]].is_ready = True
                elif "ended" in answer:
                    self._processes.pop(answer["ended"]).returncode = answer["code"]
                self._changed.notify_all()
        with self._changed:
            self._is_lost = True
            self._changed.notify_all()


def _take(path: Path) -> str:
    """What the file holds; the file is removed."""
    text = path.read_text(errors="replace") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text
