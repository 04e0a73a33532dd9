"""A question to another process of the same machine, and its answer: bytes over a Unix socket."""

import socket
from collections.abc import Callable


def serve(address: str, answer: Callable[[bytes], bytes], ready: Callable[[], None]) -> None:
    """Answer one question after the other, for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        ready()
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(answer(_read_all(connection)))


def exchange(address: str, question: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(question)
        connection.shutdown(socket.SHUT_WR)
        return _read_all(connection)


def _read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))
