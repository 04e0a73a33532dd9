"""Work of a test that may have to wait for a mount: in a thread whose end is waited for with a deadline."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def in_background(work: Callable[[], T], name: str = "reader of a test") -> "Future[T]":
    """Start `work` in a thread of its own; `result(timeout)` of what is returned gives or raises its outcome."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
