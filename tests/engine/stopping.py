"""Stopping storage code at its n-th step: a system call, or a point that it names itself."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from dsfs.storage import faultpoint

CALLS = (
    "open", "pread", "preadv", "pwrite", "write", "fsync", "fdatasync", "ftruncate", "rename", "replace", "link",
    "unlink", "mkdir", "stat", "lstat", "fstat", "statvfs", "listdir", "scandir",
)  # fmt: skip


class DiedError(BaseException):
    """The process ended here: nothing that handles errors runs any more."""


fault_or_death = pytest.mark.parametrize("error", [OSError(errno.EIO, "sick"), DiedError()], ids=repr)


class Stop:
    """`was_reached`: whether there were so many steps."""

    def __init__(self, step: int, error: BaseException, *, torn: bool) -> None:
        self.was_reached = False
        self._left = step
        self._error = error
        self._torn = torn

    def step(self, what: str) -> None:
        if self.was_reached and isinstance(self._error, DiedError):
            raise self._error  # a dead process does nothing, also not in a `finally`
        self._left -= 1
        if self._left == 0:
            self.was_reached = True
            self._error.add_note(f"at {what}")
            raise self._error

    def wrap(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def stopping(*args: object, **kwargs: object) -> object:
            before = self.was_reached
            try:
                self.step(f"os.{name}")
            except BaseException:
                if self._torn and not before and name == "pwrite":  # half of it came to the medium
                    fd, buffer, offset = args
                    half = memoryview(buffer)[: len(buffer) // 8192 * 4096 or len(buffer) // 2]  # type: ignore[arg-type]
                    call(fd, half, offset)
                raise
            return call(*args, **kwargs)

        return stopping


@contextmanager
def stopping_at(step: int, error: BaseException, *, torn: bool = False) -> Iterator[Stop]:
    """Raise `error` at the n-th step (1 is the first); of a torn write, half was done before."""
    stop = Stop(step, error, torn=torn)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, stop.wrap(name, getattr(os, name)))
        patch.setattr(faultpoint, "hook", stop.step)
        with suppress(DiedError):
            yield stop
