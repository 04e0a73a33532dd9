"""A compute node with dsfs: its configuration, its daemon as a child process, its mount.

The daemon runs in the foreground as it does under systemd, and tells through a notification socket that the mount
answers.  It is ended by its process id, and its mount taken away, whatever happens in between.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dsfs.admin.client import ControlClient
from dsfs.storage.mounts import detach, mount_at

START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 30.0
MIB = 1024 * 1024

Settings = Mapping[str, Mapping[str, object]]
# So that a busy machine is not taken for a stalled origin.
PATIENT: Settings = {"origin": {"stall_timeout": "20s", "timeout": "60s"}}


class NodeError(Exception):
    """The daemon did not do what it was started for; the message holds the end of its log."""


class Node:
    """`settings` adds to or replaces keys of the sections; `env` is the daemon's environment beside the necessary."""

    def __init__(
        self,
        work: Path,
        endpoint_url: str,
        env: Mapping[str, str],
        *,
        url: str = "s3://lake/datasets",
        settings: Settings | None = None,
        backing: Path | None = None,
        more: str = "",
    ) -> None:
        self.work = work
        self.mountpoint = work / "mnt"
        self.state_dir = work / "state"
        self.backing = backing or work / "backing"
        self.config = work / "dsfs.toml"
        self.log = work / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
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

    def spawn(self, *options: str, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start the daemon and do not wait."""
        assert self.process is None, "the daemon of this node is running"
        address = self.work / "notify"
        address.unlink(missing_ok=True)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(address))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dsfs", "mount", "--foreground", "--config", str(self.config), *options],
                env={**_clean_environment(), **self._env, **(env or {}), "NOTIFY_SOCKET": str(address)},
                stdout=log,
                stderr=log,
            )
        return self.process

    def _wait_ready(self, process: "subprocess.Popen[bytes]") -> None:
        self._notices.settimeout(0.2)
        for _ in range(int(START_TIMEOUT_S / 0.2)):
            try:
                if b"READY=1" in self._notices.recv(4096):
                    return
            except TimeoutError:
                if process.poll() is not None:
                    raise NodeError(f"the daemon ended with {process.returncode}:\n{self.log_tail()}") from None
        raise NodeError(f"the mount did not answer within {START_TIMEOUT_S:g} s:\n{self.log_tail()}")

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
        self._notices.close()
        return code

    def kill(self) -> None:
        """End the daemon with SIGKILL and take its mount away."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self._notices.close()
        if mount_at(self.mountpoint) is not None:
            detach(self.mountpoint)

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
        return ControlClient(self.state_dir / "control.sock").call(verb, args)

    def version(self, name: str) -> dict[str, Any]:
        """The facts of NAME/VERSION in `status`."""
        versions = self.ask("status", target=name)["versions"]
        assert len(versions) == 1, versions
        return dict(versions[0])

    def metric(self, name: str) -> float:
        """The value of a metric as Prometheus would see it, all labels together; 0 if it has no sample."""
        lines = self.ask("metrics")["text"].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run `dsfs WORDS --config ...` as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "dsfs", *words, "--config", str(self.config)],
            env={**_clean_environment(), **self._env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-40:])

    def is_mounted(self) -> bool:
        return mount_at(self.mountpoint) is not None

    def segment_files(self, suffix: str = "") -> list[Path]:
        """The files of all segments with that suffix; "" = sealed ones."""
        return sorted(
            path for path in (self.backing / "segments").glob("*/*") if path.suffix == suffix and path.is_file()
        )


def _clean_environment() -> dict[str, str]:
    """The environment without the user's AWS settings and without what a caller's service manager put there."""
    unwanted = ("AWS_", "NOTIFY_SOCKET", "WATCHDOG_", "DSFS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
