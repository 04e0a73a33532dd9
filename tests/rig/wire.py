"""HTTP/1.1 as bytes on sockets: heads are kept as they were sent, bodies are streamed.

The library's http.server and http.client would tidy up what a fault proxy must pass on untouched (double
slashes, the case and order of fields), and cannot break off in the middle of a body.
"""

import contextlib
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

PIECE_BYTES = 256 * 1024
HEAD_MAX_BYTES = 256 * 1024


class WireError(Exception):
    """The other side went away, or does not speak HTTP."""


@dataclass(frozen=True)
class Head:
    """The start line and the fields of a request or a response."""

    start: str
    fields: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        start, *lines = raw.decode("latin-1").split("\r\n")
        parted = (line.partition(":") for line in lines)
        return cls(start, tuple((name, value.strip()) for name, _, value in parted))

    def get(self, name: str) -> str | None:
        return next((value for field, value in self.fields if field.lower() == name.lower()), None)

    def without(self, *names: str) -> Self:
        dropped = {name.lower() for name in names}
        return replace(self, fields=tuple(pair for pair in self.fields if pair[0].lower() not in dropped))

    def having(self, name: str, value: str) -> Self:
        """This head with one field of that name, in the place of any it has."""
        return replace(self, fields=(*self.without(name).fields, (name, value)))

    def encode(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Connection:
    """A TCP connection that reads heads and bodies; closing it twice is fine."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._ahead = b""  # read from the socket, not yet taken
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise WireError(f"cannot send: {error}") from error

    def read_head(self) -> Head | None:
        """The next head, or None when the other side closed the connection where one could have begun."""
        while (end := self._ahead.find(b"\r\n\r\n")) < 0:
            if len(self._ahead) > HEAD_MAX_BYTES:
                raise WireError("a head without an end")
            received = self._receive(PIECE_BYTES)
            if not received:
                if self._ahead:
                    raise WireError("closed within a head")
                return None
            self._ahead += received
        head, self._ahead = self._ahead[:end], self._ahead[end + 4 :]
        return Head.parse(head)

    def read_body(self, head: Head, *, until_closed: bool) -> Iterator[bytes]:
        """The body behind `head` as it is on the wire, so with the framing of a chunked one.

        `until_closed`: what has no length ends with the connection (a response), not at once (a request).
        """
        length = head.get("Content-Length")
        if (head.get("Transfer-Encoding") or "").lower() == "chunked":
            yield from self._read_chunks()
        elif length is not None:
            yield from self._read_exactly(int(length))
        elif until_closed:
            while piece := self._take(PIECE_BYTES):
                yield piece

    def is_stale(self) -> bool:
        """Whether the other side closed this idle connection (nothing can be readable on it otherwise)."""
        return bool(self._ahead or select.select([self._socket], [], [], 0)[0])

    def reset(self) -> None:
        """Close with a TCP RST instead of a FIN."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def wake(self) -> None:
        """End what another thread does on this connection; that thread closes it."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def _receive(self, limit: int) -> bytes:
        try:
            return self._socket.recv(limit)
        except OSError as error:
            raise WireError(f"cannot receive: {error}") from error

    def _take(self, limit: int) -> bytes:
        if self._ahead:
            taken, self._ahead = self._ahead[:limit], self._ahead[limit:]
            return taken
        return self._receive(limit)

    def _read_exactly(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._take(min(length, PIECE_BYTES))
            if not piece:
                raise WireError("closed within a body")
            length -= len(piece)
            yield piece

    def _read_line(self) -> bytes:
        while (end := self._ahead.find(b"\r\n")) < 0:
            received = self._receive(PIECE_BYTES)
            if not received:
                raise WireError("closed within a chunked body")
            self._ahead += received
        line, self._ahead = self._ahead[: end + 2], self._ahead[end + 2 :]
        return line

    def _read_chunks(self) -> Iterator[bytes]:
        while True:
            line = self._read_line()
            yield line
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            yield from self._read_exactly(size + 2)
        while True:  # trailing fields, if any, and the empty line
            line = self._read_line()
            yield line
            if line == b"\r\n":
                break
