"""When a failed attempt is repeated, and how long a sick medium is left alone: pure functions of their inputs."""

from dataclasses import dataclass

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 5.0


def retry_delay_s(attempt: int, jitter: float) -> float:
    """Seconds to wait after the failure of attempt number `attempt` (1 is the first).

    Doubles from FIRST_DELAY_S to MAX_DELAY_S; `jitter` in [0, 1) takes up to half of it off, so that many
    readers that failed together do not come back together.
    """
    doublings = min(attempt - 1, 1000)  # beyond that a float overflows
    return min(FIRST_DELAY_S * 2.0**doublings, MAX_DELAY_S) * (1 - jitter / 2)


@dataclass
class Pause:
    """Leaves a medium alone after a fault: `first_s`, doubled by each further fault up to `max_s`.

    INVARIANT: `reason` is empty exactly while the last thing heard of the medium was a success.
    """

    first_s: float = 10.0
    max_s: float = 600.0
    reason: str = ""
    until_s: float = 0.0
    _next_s: float = 0.0

    def is_over(self, now_s: float) -> bool:
        """May the medium be tried at `now_s`?"""
        return not self.reason or now_s >= self.until_s

    def fail(self, reason: str, now_s: float) -> None:
        """The medium failed; a fault reported while the pause lasts does not lengthen it."""
        if self.reason and now_s < self.until_s:
            return
        self._next_s = min(max(self._next_s * 2, self.first_s), self.max_s)
        self.reason, self.until_s = reason, now_s + self._next_s

    def succeed(self) -> None:
        """The medium works."""
        self.reason, self.until_s, self._next_s = "", 0.0, 0.0
