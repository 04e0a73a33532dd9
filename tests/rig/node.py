"""A compute node with dsfs: its configuration, its daemon, its mount; on this machine or on another.

The daemon runs in the foreground as it does under systemd, and tells through a notification socket that the mount
answers.  It is ended by its process id, and its mount taken away, whatever happens in between.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dsfs.admin.client import ControlClient
from dsfs.storage.mounts import detach, mount_at
from tests.rig.machine import LocalMachine, Machine, RunningProcess

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 30.0
MIB = 1024 * 1024

Settings = Mapping[str, Mapping[str, object]]
# So that a busy machine is not taken for a stalled origin.
PATIENT: Settings = {"origin": {"stall_timeout": "20s", "timeout": "60s"}}
# The user may read what it likes, since Python, and what a test makes, may lie where only root comes.
AS_NOBODY = (
    "setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups",
    "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search",
)  # fmt: skip


class NodeError(Exception):
    """The daemon did not do what it was started for; the message holds the end of its log."""


class Node:
    """`settings` adds to or replaces keys of the sections; `env` is the daemon's environment beside the necessary.

    `work` is one directory here and on `machine`; `backing` need be there only.
    """

    module = "dsfs"  # what the daemon is started as

    def __init__(
        self,
        work: Path,
        endpoint_url: str,
        env: Mapping[str, str],
        *,
        url: str = "s3://lake/datasets",
        settings: Settings | None = None,
        backing: Path | None = None,
        machine: Machine | None = None,
        more: str = "",
    ) -> None:
        self.work = work
        self.mountpoint = work / "mnt"
        self.state_dir = work / "state"
        self.backing = backing or work / "backing"
        self.config = work / "dsfs.toml"
        self.log = work / "daemon.log"
        self.machine: Machine = machine or LocalMachine()
        self.process: RunningProcess | None = None
        self._env = dict(env)
        work.mkdir(parents=True, exist_ok=True)
        sections: dict[str, dict[str, object]] = {
            "origin": {
                "url": url, "endpoint_url": endpoint_url, "timeout": "20s", "stall_timeout": "2s",
                "connect_timeout": "2s", "names_ttl": "500ms",
            },
            "backing": {"path": str(self.backing), "limit": "8GiB", "floor": "0%"},
            "memory": {"limit": "128MiB"},
            "mount": {"owner": str(os.getuid()), "group": str(os.getgid()), "allow_other": False},
        }  # fmt: skip
        for name, values in (settings or {}).items():
            sections.setdefault(name, {}).update(values)
        lines = [f"mountpoint = {json.dumps(str(self.mountpoint))}", f"state_dir = {json.dumps(str(self.state_dir))}"]
        for name, section in sections.items():
            lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in section.items())]
        self.config.write_text("\n".join(lines) + "\n" + more)

    # ---------------------------------------------------------------- the daemon

    def start(self, *options: str, env: Mapping[str, str] | None = None) -> Self:
        """Start the daemon and wait until its mount answers."""
        process = self.spawn(*options, env=env)
        try:
            self._wait_ready(process)
        except BaseException:
            self.kill()
            raise
        return self

    def spawn(self, *options: str, env: Mapping[str, str] | None = None) -> RunningProcess:
        """Start the daemon and do not wait."""
        assert self.process is None, "the daemon of this node is running"
        command = ["mount", "--foreground", "--config", str(self.config), *options]
        self.process = self.machine.start(
            sys.executable, "-m", self.module, *command, env={**self._env, **(env or {})}, log=self.log
        )
        return self.process

    def _wait_ready(self, process: RunningProcess) -> None:
        try:
            ready = process.wait_ready(START_TIMEOUT_S)
        except TimeoutError:
            raise NodeError(f"the mount did not answer within {START_TIMEOUT_S:g} s:\n{self.log_tail()}") from None
        if not ready:
            raise NodeError(f"the daemon ended with {process.returncode}:\n{self.log_tail()}")

    def stop(self) -> int:
        """End the daemon with SIGTERM; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """Wait for the end of the daemon; its exit code."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NodeError(f"the daemon did not end within {timeout_s:g} s:\n{self.log_tail()}") from None
        self.process = None
        return code

    def kill(self) -> None:
        """End the daemon with SIGKILL and take its mount away."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(END_TIMEOUT_S)
            self.process = None
        if self.is_mounted():
            self.machine.call(detach, self.mountpoint)

    def restart(self, *, env: Mapping[str, str] | None = None) -> Self:
        assert self.stop() == 0, self.log_tail()
        return self.start(env=env)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def __enter__(self) -> Self:
        return self.start() if self.process is None else self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    # ---------------------------------------------------------------- looking at it

    def ask(self, verb: str, **args: Any) -> Any:
        """What the daemon answers on its control socket."""
        return self.machine.call(_ask, self.state_dir / "control.sock", verb, args)

    def version(self, name: str) -> dict[str, Any]:
        """The facts of NAME/VERSION in `status`."""
        versions = self.ask("status", target=name)["versions"]
        assert len(versions) == 1, versions
        return dict(versions[0])

    def metric(self, name: str) -> float:
        """The value of a metric as Prometheus would see it, all labels together; 0 if it has no sample."""
        lines = self.ask("metrics")["text"].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def command(self, *words: str, through: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        """Run `dsfs WORDS --config ...` as a user would; `through`: a program that starts it, see AS_NOBODY."""
        command = (*through, sys.executable, "-m", "dsfs", *words, "--config", str(self.config))
        return self.machine.run(*command, env=self._env)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-40:])

    def is_mounted(self) -> bool:
        return self.machine.call(mount_at, self.mountpoint) is not None

    def segment_files(self, suffix: str = "") -> list[Path]:
        """The files of all segments with that suffix; "" = sealed ones."""
        return self.machine.call(_files_with_suffix, self.backing / "segments", suffix)


def _ask(control_socket: Path, verb: str, args: dict[str, Any]) -> Any:
    return ControlClient(control_socket).call(verb, args)


def _files_with_suffix(segments: Path, suffix: str) -> list[Path]:
    return sorted(path for path in segments.glob("*/*") if path.suffix == suffix and path.is_file())
