"""The standard streams of a command: the one place that writes to standard output, and complaints."""

import os
import select
import sys
from collections.abc import Generator
from contextlib import suppress

from dsfs.model.errors import DsfsError

# What to print, as it comes, and the exit code at the end; each part is answered with whether somebody still reads.
Parts = Generator[str, bool, int]


def open_missing() -> None:
    """Make /dev/null of those that are closed: the next file opened would take their number and get what is printed."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is fd, if it is closed
            setattr(sys, name, open(fd if null == fd else null, mode))  # noqa: SIM115


def write(text: str) -> bool:
    """Write to standard output; whether somebody still reads it.  DsfsError if that takes no more.

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
        return False
    return not _is_left()


def _is_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more: it says so before anything is written."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except OSError:  # it is no file
        return False
    return any(found & select.POLLERR for _, found in poll.poll(0))


def write_parts(parts: Parts) -> int:
    """Write what a command that takes a while has to say, as it comes; its exit code."""
    try:
        part = next(parts)
        while True:
            part = parts.send(write(part))
    except StopIteration as end:
        return int(end.value)


def complain(line: str) -> None:
    """The line on standard error; where that takes nothing either, the exit code has to do."""
    with suppress(OSError):
        print(line, file=sys.stderr)
