"""Waiting for something that another thread or process does: poll with a deadline, never sleep and hope."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_INTERVAL_S = 0.005


def wait_until(condition: Callable[[], T], timeout_s: float = 10, what: str = "the condition") -> T:
    """Call `condition` until its answer is true and return that answer.

    Raises TimeoutError, naming `what`, when `timeout_s` has passed; the condition is looked at once more
    after the deadline, so that a machine that stood still does not fail the test.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() >= deadline
        answer = condition()
        if answer:
            return answer
        if late:
            raise TimeoutError(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(POLL_INTERVAL_S)
