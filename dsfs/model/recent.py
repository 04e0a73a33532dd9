"""How much counters have grown of late."""

from collections import deque
from dataclasses import dataclass, field

Totals = tuple[int, ...]


@dataclass(slots=True)
class Recent:
    """Looks back over `span_s`, or a little more: from the newest sample that is so old to the last one."""

    span_s: float
    _samples: deque[tuple[float, Totals]] = field(default_factory=deque)

    def note(self, now_s: float, totals: Totals) -> tuple[float, Totals]:
        """The totals are so high now; returns (seconds looked back over, growth of each in them)."""
        self._samples.append((now_s, totals))
        while now_s - self._samples[0][0] > self.span_s and now_s - self._samples[1][0] >= self.span_s:
            self._samples.popleft()
        began_s, before = self._samples[0]
        return now_s - began_s, tuple(total - old for total, old in zip(totals, before, strict=True))
