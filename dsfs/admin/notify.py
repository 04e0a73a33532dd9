"""What systemd, or `dsfs mount`, is told about the daemon: datagrams as sd_notify(3) describes them."""

import logging
import os
import socket
from collections.abc import Mapping
from typing import Self

log = logging.getLogger(__name__)


class Notifier:
    """Tells whoever started the daemon how it is; does nothing where nobody asked.

    Telling never blocks and never raises: a supervisor that does not listen must not hurt the mount.
    """

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        self.watchdog_s = watchdog_s
        """Within so many seconds `alive` must be called again and again; None where nobody watches."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID say."""
        interval_us = environment.get("WATCHDOG_USEC", "")
        watched_pid = environment.get("WATCHDOG_PID", "") or str(os.getpid())
        is_watched = interval_us.isdigit() and int(interval_us) > 0 and watched_pid == str(os.getpid())
        watchdog_s = int(interval_us) / 1e6 if is_watched else None
        return cls(environment.get("NOTIFY_SOCKET") or None, watchdog_s=watchdog_s)

    def ready(self, status: str) -> None:
        """The mount answers."""
        self._tell("READY=1", f"STATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        """What the daemon is doing, for people."""
        self._tell(f"STATUS={_one_line(status)}")

    def alive(self) -> None:
        """The daemon is not stuck."""
        self._tell("WATCHDOG=1")

    def stopping(self, status: str = "stopping") -> None:
        """The daemon is on its way out."""
        self._tell("STOPPING=1", f"STATUS={_one_line(status)}")

    def _tell(self, *assignments: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(assignments).encode(errors="replace"), self._address)
        except OSError as exc:
            log.debug("%s cannot be told to the supervisor: %s", assignments[0], exc)


def _one_line(text: str) -> str:
    return " ".join(text.split())
