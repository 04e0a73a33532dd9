"""No more of something than so many a second, but for a burst after a pause."""

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """In any stretch of time there are no more than `burst`, and `per_s` for each second of it."""

    per_s: float
    burst: int
    _due_s: float = 0.0  # when the next one would be due if all had been evenly spread

    def wait_s(self, now_s: float) -> float:
        """One more is to begin: for how long it has to wait, at `now_s` of a clock that is never set."""
        self._due_s = max(self._due_s, now_s)
        wait_s = self._due_s - (self.burst - 1) / self.per_s - now_s
        self._due_s += 1 / self.per_s
        return max(0.0, wait_s)
