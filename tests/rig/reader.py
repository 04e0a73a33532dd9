"""A reader in a process of its own: what a test asks of a mount without being in its way.

A page fault of a mapping holds Python's lock: a test that ran into one, with the fault proxy in the same process,
would wait for itself.  Run as a program (`python -m tests.rig.reader`) this module is the process: a line of JSON
for each request and each answer.
"""

import base64
import json
import mmap
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ANSWER_S = 30.0
ROOT = Path(__file__).parents[2]


class ReaderProcess:
    """Answers one request after the other; an OSError of the process is raised here."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.rig.reader"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, verb: str, *args: object, timeout_s: float = ANSWER_S) -> bytes:
        """The answer to one request; TimeoutError if it does not come."""
        self.begin(verb, *args)
        return self.answer(timeout_s)

    def begin(self, verb: str, *args: object) -> None:
        """Send a request whose answer is taken later."""
        assert self._process.stdin is not None
        request = [verb, *(str(arg) if isinstance(arg, Path) else arg for arg in args)]
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, timeout_s: float = ANSWER_S) -> bytes:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise TimeoutError(f"the reader process has not answered for {timeout_s:g} s")
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return base64.b64decode(answer["bytes"])


def _read(path: str, offset: int, size: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _read_without_cache(path: str, offset: int, size: int) -> bytes:
    """As `_read`, after the kernel was asked to forget its pages, and without its readahead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def _map(path: str, offset: int, size: int, flags: int) -> bytes:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as mapping:
        return mapping[offset : offset + size]


def _map_shared(path: str, offset: int, size: int) -> bytes:
    return _map(path, offset, size, mmap.MAP_SHARED)


def _map_private(path: str, offset: int, size: int) -> bytes:
    return _map(path, offset, size, mmap.MAP_PRIVATE)


_held: list[int] = []


def _hold(path: str) -> bytes:
    """Open a file and keep it open."""
    _held.append(os.open(path, os.O_RDONLY))
    return b""


def _read_held(offset: int, size: int) -> bytes:
    """Read from the file that was opened last."""
    return os.pread(_held[-1], size, offset)


VERBS: dict[str, Callable[..., bytes]] = {
    "read": _read,
    "read without cache": _read_without_cache,
    "map shared": _map_shared,
    "map private": _map_private,
    "hold": _hold,
    "read held": _read_held,
}


def main() -> None:
    for line in sys.stdin:
        request: Sequence[Any] = json.loads(line)
        try:
            answer: dict[str, object] = {"bytes": base64.b64encode(VERBS[request[0]](*request[1:])).decode()}
        except OSError as error:
            answer = {"errno": error.errno}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
