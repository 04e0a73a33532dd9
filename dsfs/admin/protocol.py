"""What the daemon and its clients say to each other: one JSON object a line over a Unix stream socket.

A request is {"verb": ..., "args": {...}}; the answer is {"ok": true, "result": ...} or
{"ok": false, "error": <message>, "kind": <name of the error class>}.  Requests are answered in their order.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsfs.model import errors
from dsfs.model.errors import DsfsError

MAX_REQUEST_BYTES = 64 * 1024
_MAX_ADDRESS_BYTES = 107  # sun_path, less its closing NUL


def line_of(document: object) -> bytes:
    """The document as one line; ASCII, so that any name survives, also one that is not UTF-8."""
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def request_of(line: bytes) -> tuple[str, dict[str, Any]]:
    """Verb and arguments of a request; ValueError if it is none."""
    try:
        document = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    verb = document.get("verb") if isinstance(document, dict) else None
    args = document.get("args", {}) if isinstance(document, dict) else None
    if not isinstance(verb, str) or not isinstance(args, dict):
        raise ValueError('expected {"verb": "...", "args": {...}}')
    return verb, args


def refusal(message: str, kind: str) -> bytes:
    """The answer that says no."""
    return line_of({"ok": False, "error": message, "kind": kind})


def error_of(message: str, kind: str) -> DsfsError:
    """The error a refusal stands for: of the class the daemon raised, where this side knows it."""
    found = getattr(errors, kind, DsfsError)
    known = isinstance(found, type) and issubclass(found, DsfsError)
    return found(message) if known else DsfsError(message)


@contextmanager
def directory_of(path: Path) -> Iterator[tuple[int, str]]:
    """The open directory of a socket, and an address prefix below it that fits whatever its length.

    A socket's address holds 107 bytes; a longer path is reached through the descriptor of its directory.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        is_short = len(os.fsencode(path)) + 16 <= _MAX_ADDRESS_BYTES  # 16: a suffix the caller may add
        yield directory, str(path.parent) if is_short else f"/proc/self/fd/{directory}"
    finally:
        os.close(directory)
