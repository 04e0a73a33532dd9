"""The standard streams of a command: the one place that writes to standard output, and complaints."""

import os
import sys
from collections.abc import Generator
from contextlib import suppress

from dsfs.model.errors import DsfsError

Parts = Generator[str, None, int]  # what to print, as it comes, and the exit code at the end


def open_missing() -> None:
    """Make /dev/null of those that are closed: the next file opened would take their number and get what is printed."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is fd, if it is closed
            setattr(sys, name, open(fd if null == fd else null, mode))  # noqa: SIM115


def write(text: str) -> None:
    """Write to standard output.  DsfsError if that takes no more.

    A reader who left (`dsfs status | head -1`) has seen enough, which is no error.  Coreutils die of SIGPIPE then; a
    command that has dropped a version or mounted must not look as if it had not, so this one ends with 0.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        # Python flushes stdout once more at its end, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(exc, BrokenPipeError):
            raise DsfsError(f"standard output: {exc.strerror}") from None


def write_parts(parts: Parts) -> int:
    """Write what a command that takes a while has to say, as it comes; its exit code."""
    while True:
        try:
            write(next(parts))
        except StopIteration as end:
            return int(end.value)


def complain(line: str) -> None:
    """The line on standard error; where that takes nothing either, the exit code has to do."""
    with suppress(OSError):
        print(line, file=sys.stderr)
