"""Work in a process of its own, which can be given up.

No option of a mount bounds the time of a call to an NFS server, and a thread that is stuck in one cannot be ended.  A
process can: it goes at once with a SIGKILL, unless it has dirty pages for a hard mount, and then nobody waits for it.
"""

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any

_PR_SET_PDEATHSIG = 1
_END_S = 1.0
_END_POLL_S = 0.01

Send = Callable[[object], None]


class ChildError(Exception):
    """The work ended with an exception nobody expected, or without a word; the message holds its traceback."""


class Child:
    """`work` begins at once; what it sends is received in that order.  For a parent with one thread: it forks."""

    def __init__(self, work: Callable[[Send], None]) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # what is buffered would be written twice
        self._received, sent = Pipe(duplex=False)
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _live(work, sent, parent)
        sent.close()

    def receive(self, timeout_s: float) -> object:
        """The next thing sent.  TimeoutError if it takes longer, ChildError if the work failed."""
        if not self._received.poll(timeout_s):
            raise TimeoutError
        try:
            kind, value = self._received.recv()
        except EOFError:
            raise ChildError("the process ended without an answer") from None
        if kind == "failed":
            raise ChildError(value)
        return value

    def end(self) -> None:
        """Kill it if it still runs.  One that cannot be killed now goes when its server is back."""
        self._received.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        give_up_at = time.monotonic() + _END_S
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0 and time.monotonic() < give_up_at:
            time.sleep(_END_POLL_S)


def _live(work: Callable[[Send], None], sent: Any, parent: int) -> None:
    """All of the child's life."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; the parent ends this one
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            work(lambda value: sent.send(("sent", value)))
            code = 0
    except BaseException:
        with suppress(OSError):
            sent.send(("failed", traceback.format_exc()))
    finally:
        os._exit(code)
