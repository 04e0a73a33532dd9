"""A real HTTP proxy in front of a real S3 server: counts requests, breaks those it was told to.

Signatures stay valid because nothing of a request is changed, the Host field the client signed included; the
server verifies against that field and not against its own address.

Of the answers one thing is changed without being told to: a 200 with a Content-Range becomes the 206 that it
should have been (the rig's own server has this fault; `mends_status=False` leaves it).

One thread per client connection, each with its own connection to the server.  A body is passed on piece by
piece.  The record of a request is there before its answer: who has read an answer to its end finds all of it
counted.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.rig.fault import Fault, load_faults
from tests.rig.wire import PIECE_BYTES, Connection, Head, WireError

CONNECT_TIMEOUT_S = 5
JOIN_TIMEOUT_S = 5
BODILESS_STATUS = (204, 304)


class _BrokenOffError(Exception):
    """A fault ended the connection, or the proxy is closing."""


@dataclass
class Request:
    """One request as the proxy saw it; `method` is LIST for any GET of a bucket itself.

    `status` is 0 until one was sent; `body_bytes` counts the body of the answer, chunk framing included.
    """

    method: str
    path: str
    query: str
    range: str | None
    key: str
    status: int = 0
    body_bytes: int = 0
    fault: str | None = None


class FaultProxy:
    """Listens at `address` from the start of the `with` statement to its end.

    `root` is the directory the server serves as `root/<bucket>/<key>`; only the fault "whole" needs it,
    because a signed Range cannot be taken out of a request on its way.
    """

    def __init__(
        self,
        upstream_url: str,
        faults: Iterable[Fault] = (),
        *,
        root: Path | None = None,
        mends_status: bool = True,
        address: str = "127.0.0.1",
    ) -> None:
        upstream = urlsplit(upstream_url)
        if upstream.scheme != "http" or upstream.hostname is None:
            raise ValueError(f"{upstream_url}: only http is spoken here")
        self._upstream = (upstream.hostname, upstream.port or 80)
        self._root = root
        self._mends_status = mends_status
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._matched: list[int] = []  # requests so far that match, by rule
        self._requests: list[Request] = []
        self._released = threading.Event()
        self._stalled = 0
        self._closing = False
        self._clients: set[Connection] = set()
        self._threads: list[threading.Thread] = []
        self.add(*faults)
        self._listener = socket.create_server((address, 0), backlog=256)

    @property
    def endpoint_url(self) -> str:
        address, port = self._listener.getsockname()
        return f"http://{address}:{port}"

    # what tests say

    def add(self, *faults: Fault) -> None:
        if self._root is None and any(fault.action == "whole" for fault in faults):
            raise ValueError('the fault "whole" needs to know the root of the server')
        with self._lock:
            self._rules += faults
            self._matched += [0] * len(faults)

    def load(self, name: str) -> None:
        """Add the rules of a named script."""
        self.add(*load_faults(name))

    def clear(self) -> None:
        """Forget all faults; requests now stalled stay so until `release`."""
        with self._lock:
            self._rules, self._matched = [], []

    def reset(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests = []

    def release(self) -> None:
        """Let every request that is stalled now go on."""
        with self._lock:
            released, self._released = self._released, threading.Event()
        released.set()

    # what tests ask

    @property
    def requests(self) -> list[Request]:
        """A copy of the log, in the order of arrival."""
        with self._lock:
            return [replace(request) for request in self._requests]

    def count(self, method: str = "*", key: str = "*") -> int:
        """How many requests of that method (GET, HEAD, LIST, ...) there were for keys the glob matches."""
        return sum(method in ("*", r.method) and fnmatchcase(r.key, key) for r in self.requests)

    @property
    def data_bytes(self) -> int:
        """Bytes of objects sent to clients."""
        return sum(r.body_bytes for r in self.requests if r.method == "GET" and r.status in (200, 206))

    @property
    def connections(self) -> int:
        """Connections that clients keep open now."""
        with self._lock:
            return len(self._clients)

    @property
    def stalled(self) -> int:
        """Requests that stand still now."""
        with self._lock:
            return self._stalled

    # life

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            clients = list(self._clients)
        self.release()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for client in clients:
            client.wake()
        deadline = time.monotonic() + JOIN_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0, deadline - time.monotonic()))

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, name="fault proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            client = Connection(sock)
            with self._lock:
                closing = self._closing
                self._clients.add(client)
            if closing:
                client.close()
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._spawn(self._serve, client)

    # one client connection

    def _serve(self, client: Connection) -> None:
        upstream: Connection | None = None
        try:
            while (head := client.read_head()) is not None:
                if upstream is None or upstream.is_stale():
                    if upstream is not None:
                        upstream.close()
                    upstream = self._connect()
                if not self._exchange(client, upstream, head):
                    break
        except (WireError, _BrokenOffError):
            pass  # the client went away, or was meant to see exactly this: a connection that ends
        finally:
            client.close()
            if upstream is not None:
                upstream.close()
            with self._lock:
                self._clients.discard(client)

    def _connect(self) -> Connection:
        try:
            return Connection(socket.create_connection(self._upstream, CONNECT_TIMEOUT_S))
        except OSError as error:
            raise WireError(f"cannot reach the server: {error}") from error

    def _exchange(self, client: Connection, upstream: Connection, head: Head) -> bool:
        """One request and its answer; False when the connections cannot carry another."""
        request, fault = self._record(head)
        if fault is not None:
            self._before_answer(client, fault)
            if fault.action == "status":
                for _ in client.read_body(head, until_closed=False):
                    pass
                self._answer(client, request, *_error_answer(fault, request))
                return True
        if (head.get("Expect") or "").lower() == "100-continue":  # it is never signed
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = head.without("Expect")
        upstream.send(head.encode())
        for piece in client.read_body(head, until_closed=False):
            upstream.send(piece)
        response = upstream.read_head()
        if response is None:
            raise WireError("the server closed the connection instead of answering")
        self._relay(client, upstream, request, response, fault)
        return "close" not in (response.get("Connection") or "", head.get("Connection") or "")

    def _record(self, head: Head) -> tuple[Request, Fault | None]:
        method, target, _ = head.start.split(" ", 2)
        path, _, query = target.partition("?")
        key = unquote(path.lstrip("/").partition("/")[2])
        if method == "GET" and not key:
            method = "LIST"
        request = Request(method, path, query, head.get("Range"), key)
        chosen: Fault | None = None
        with self._lock:
            self._requests.append(request)
            for index, fault in enumerate(self._rules):
                if fault.matches(request.method, key, request.range, query):
                    self._matched[index] += 1
                    if chosen is None and fault.strikes(self._matched[index]):
                        chosen = fault
                        request.fault = fault.action
        return request, chosen

    def _relay(
        self, client: Connection, upstream: Connection, request: Request, response: Head, fault: Fault | None
    ) -> None:
        status = int(response.start.split(" ")[1])
        if status == 200 and self._mends_status and response.get("Content-Range") is not None:
            status = 206
            response = replace(response, start="HTTP/1.1 206 Partial Content")
        bodiless = request.method == "HEAD" or status in BODILESS_STATUS
        body = iter(()) if bodiless else upstream.read_body(response, until_closed=True)
        if fault is not None and fault.action == "whole" and status == 206:
            for _ in body:
                pass
            self._answer_whole(client, request, response)
            return
        if fault is not None:
            response = _altered(response, fault)
        self._send_head(client, request, response, status)
        strike_at = None if fault is None else fault.after_bytes
        for piece in body:
            if fault is not None and strike_at is not None and request.body_bytes + len(piece) > strike_at:
                kept = strike_at - request.body_bytes
                self._send_body(client, request, piece[:kept])
                self._within_answer(client, fault)
                strike_at, piece = None, piece[kept:]  # a stall is over: go on
            self._send_body(client, request, piece)

    def _answer_whole(self, client: Connection, request: Request, response: Head) -> None:
        assert self._root is not None, "add() saw to it"
        path = self._root / unquote(request.path).lstrip("/")
        with path.open("rb") as file:
            length = str(path.stat().st_size)
            head = replace(response, start="HTTP/1.1 200 OK").without("Content-Range")
            self._send_head(client, request, head.having("Content-Length", length), 200)
            while piece := file.read(PIECE_BYTES):
                self._send_body(client, request, piece)

    def _answer(self, client: Connection, request: Request, head: Head, status: int, body: bytes) -> None:
        self._send_head(client, request, head, status)
        if request.method != "HEAD":
            self._send_body(client, request, body)

    def _send_head(self, client: Connection, request: Request, head: Head, status: int) -> None:
        with self._lock:
            request.status = status
        client.send(head.encode())

    def _send_body(self, client: Connection, request: Request, piece: bytes) -> None:
        if not piece:
            return
        with self._lock:
            request.body_bytes += len(piece)
        client.send(piece)

    # faults that take or end time

    def _before_answer(self, client: Connection, fault: Fault) -> None:
        if fault.action == "delay":
            self._stand_still(fault.seconds)
        elif fault.after_bytes is None:
            self._strike(client, fault)

    def _within_answer(self, client: Connection, fault: Fault) -> None:
        if fault.action == "cut":
            raise _BrokenOffError("cut")
        self._strike(client, fault)

    def _strike(self, client: Connection, fault: Fault) -> None:
        if fault.action == "reset":
            client.reset()
            raise _BrokenOffError("reset")
        if fault.action == "stall":
            self._stand_still(fault.seconds)

    def _stand_still(self, seconds: float | None) -> None:
        with self._lock:
            released = self._released
            if self._closing:
                raise _BrokenOffError("the proxy is closing")
            self._stalled += 1
        try:
            released.wait(seconds)
        finally:
            with self._lock:
                self._stalled -= 1
                closing = self._closing
        if closing:
            raise _BrokenOffError("the proxy is closing")


def _altered(response: Head, fault: Fault) -> Head:
    if fault.action == "headers":
        response = response.without(*fault.drop)
        for name, value in fault.headers.items():
            response = response.having(name, value)
    content_range = response.get("Content-Range")
    if fault.action == "content_range" and content_range is not None:
        span, _, total = content_range.removeprefix("bytes ").partition("/")
        first, _, last = span.partition("-")
        moved = f"bytes {int(first) + fault.shift}-{int(last) + fault.shift}/{int(total) + fault.grow}"
        response = response.having("Content-Range", moved)
    return response


def _error_answer(fault: Fault, request: Request) -> tuple[Head, int, bytes]:
    text = fault.body
    if text is None:
        text = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{fault.code}</Code><Message>a fault of the test rig</Message></Error>"
        )
    body = text.encode()
    kind = "application/xml" if fault.body is None else "text/html"
    fields = (("Content-Type", kind), ("Content-Length", str(len(body))), *fault.headers.items())
    return Head(f"HTTP/1.1 {fault.status} {fault.code}", fields), fault.status, body
