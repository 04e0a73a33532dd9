"""What systemd sees of the daemon: READY when the mount answers, WATCHDOG while it is well, STOPPING at the end."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.background import in_background
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, read_at
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

ROOT = Path(__file__).parents[2]
WATCHDOG_S = 0.6
NOTICE_TIMEOUT_S = 30


class Supervisor:
    """Starts the daemon of a node as systemd would, and hears what it says."""

    def __init__(self, node: Node, s3: S3Server, address: Path) -> None:
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(address))
        self._notices.settimeout(NOTICE_TIMEOUT_S)
        watchdog = {"NOTIFY_SOCKET": str(address), "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        with node.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dsfs", "mount", "--foreground", "--config", str(node.config)],
                cwd=ROOT, env={**os.environ, **s3.env(), **watchdog}, stdout=log, stderr=log,
            )  # fmt: skip

    def wait_for(self, assignment: str) -> str:
        """The next notice with that line."""
        for _ in range(1000):
            notice = self._notices.recv(4096).decode()
            if assignment in notice.splitlines():
                return notice
        raise AssertionError(f"a thousand notices, and no {assignment}")

    def forget(self) -> None:
        """Drop the notices that are there."""
        self._notices.setblocking(False)
        try:
            while True:
                self._notices.recv(4096)
        except BlockingIOError:
            self._notices.settimeout(NOTICE_TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._notices.close()


@pytest.fixture
def supervisor(node: Node, s3: S3Server, tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(node, s3, tmp_path / "notify")
    yield supervisor
    supervisor.close()


def test_ready_is_told_when_the_mount_answers(supervisor: Supervisor, node: Node, version: SourceVersion) -> None:
    notice = supervisor.wait_for("READY=1")
    assert f"STATUS=mounted at {node.mountpoint}" in notice
    assert node.is_mounted()
    assert version.tree(node.mountpoint).is_dir()


def test_watchdog_is_fed_twice_within_its_time_also_while_the_origin_is_stalled(
    supervisor: Supervisor, node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    supervisor.wait_for("READY=1")
    path = version.tree(node.mountpoint) / version.large[0]
    path.stat()
    proxy.add(Fault(action="stall"))
    reading = in_background(lambda: read_at(path, 0, 4096))
    wait_until(lambda: proxy.stalled > 0, what="the read reaching the origin")
    supervisor.forget()
    began = time.monotonic()
    for _ in range(6):
        supervisor.wait_for("WATCHDOG=1")
    assert time.monotonic() - began < 6 * WATCHDOG_S
    proxy.clear()
    proxy.release()
    assert len(reading.result(NOTICE_TIMEOUT_S)) == 4096


def test_stopping_is_told_at_the_first_signal_and_the_exit_code_is_0(supervisor: Supervisor, node: Node) -> None:
    supervisor.wait_for("READY=1")
    supervisor.process.send_signal(signal.SIGTERM)
    supervisor.wait_for("STOPPING=1")
    assert supervisor.process.wait(NOTICE_TIMEOUT_S) == 0
    assert not node.is_mounted()
