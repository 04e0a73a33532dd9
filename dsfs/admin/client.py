"""The asking side of the control socket: blocking, for the command line."""

import json
import logging
import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsfs.admin import protocol
from dsfs.model.errors import DaemonUnreachableError, DsfsError

log = logging.getLogger(__name__)

ANSWER_S = 30.0
PING_S = 10.0  # of silence, while an answer may take any time; then the daemon is asked whether it lives


class ControlClient:
    """Asks the daemon that answers on the socket `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def call(
        self, verb: str, args: dict[str, Any] | None = None, *, timeout_s: float | None = ANSWER_S
    ) -> Any:
        """The daemon's answer to one request; None waits as long as it lives, and does not stand still.

        Raises DaemonUnreachableError if nobody answers, and the daemon's own error where it says no.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        with self._connection() as connection:
            try:
                with suppress(ConnectionError):  # who is refused may be answered before it has asked
                    connection.sendall(protocol.line_of({"verb": verb, "args": args or {}}))
                line = self._received_line(connection, deadline_s)
            except TimeoutError:
                raise DaemonUnreachableError(
                    f"the daemon on {self.path} has not answered for {timeout_s or ANSWER_S:g} s"
                ) from None
            except ConnectionError:
                line = b""
        if not line.endswith(b"\n"):
            raise DaemonUnreachableError(f"the daemon on {self.path} ended before it answered")
        try:
            answer = json.loads(line)
            if answer["ok"]:
                return answer["result"]
            message, kind = str(answer["error"]), str(answer["kind"])
        except (ValueError, KeyError, TypeError):
            raise DsfsError(f"what answers on {self.path} is not dsfs") from None
        raise protocol.error_of(message, kind)

    def _received_line(self, connection: socket.socket, deadline_s: float | None) -> bytes:
        """Everything up to the first newline, or up to where the other end closed.

        TimeoutError; DaemonUnreachableError if the daemon stands still.
        """
        received = bytearray()
        while not received.endswith(b"\n"):
            connection.settimeout(PING_S if deadline_s is None else max(0.001, deadline_s - time.monotonic()))
            try:
                more = connection.recv(1 << 20)
            except TimeoutError:
                if deadline_s is not None:
                    raise
                self._ping()
                continue
            if not more:
                break
            received += more
        return bytes(received)

    def _ping(self) -> None:
        """DaemonUnreachableError if the daemon stands still.

        Any answer will do: that it is too busy, or that it is an older one, and knows no such verb.
        """
        try:
            self.call("ping", timeout_s=ANSWER_S)
        except DaemonUnreachableError:
            raise
        except DsfsError as exc:
            log.debug("%s is alive: %s", self.path, exc)

    def daemon_pid(self) -> int | None:
        """The process that listens; None where this side cannot see it (another PID namespace)."""
        with self._connection() as connection:
            packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", packed)[0]
        return pid or None

    def _connection(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(ANSWER_S)
        try:
            with protocol.directory_of(self.path) as (_, address):
                connection.connect(f"{address}/{self.path.name}")
        except PermissionError:
            connection.close()
            raise DsfsError(f"{self.path}: permission denied") from None
        except OSError as exc:
            connection.close()
            raise DaemonUnreachableError(
                f"no daemon answers on {self.path} ({os.strerror(exc.errno) if exc.errno else exc});"
                " `dsfs mount` starts one"
            ) from None
        return connection
