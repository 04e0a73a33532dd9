"""What the supervisor is told."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsfs.admin.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """NOTIFY_SOCKET, and the socket behind it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        if request.param == "path":
            address = str(tmp_path / "notify")
            listening.bind(address)
        else:
            listening.bind("")  # the kernel chooses an abstract address
            address = "@" + listening.getsockname()[1:].decode()
        yield address, listening


def test_supervisor_hears_of_every_change(supervisor: tuple[str, socket.socket]) -> None:
    address, listening = supervisor
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    notifier.ready("mounted\nat /datasets")
    notifier.status("listing")
    notifier.alive()
    notifier.stopping()
    assert [listening.recv(4096).decode() for _ in range(4)] == [
        "READY=1\nSTATUS=mounted at /datasets",
        "STATUS=listing",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_nobody_who_asked_is_told_nothing() -> None:
    Notifier.from_environment({}).ready("mounted")


def test_supervisor_that_is_gone_does_not_hurt(tmp_path: Path) -> None:
    Notifier(str(tmp_path / "gone")).ready("mounted")


def test_supervisor_that_does_not_listen_does_not_block(supervisor: tuple[str, socket.socket]) -> None:
    notifier = Notifier(supervisor[0])
    for _ in range(10_000):
        notifier.alive()


def test_watchdog_counts_only_for_the_process_it_names() -> None:
    environment = {"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}
    assert Notifier.from_environment(environment).watchdog_s == 20
    assert Notifier.from_environment(environment | {"WATCHDOG_PID": "1"}).watchdog_s is None
    assert Notifier.from_environment({"WATCHDOG_USEC": "0"}).watchdog_s is None
    assert Notifier.from_environment({}).watchdog_s is None
