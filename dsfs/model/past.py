"""When something was done, from the mtime that it has, whatever became of the server's clock since.

An mtime is believed, unless that cannot be.  One of before the server's clock was set is as old as it was then, so that
nothing is old at once when the clock is set to days ahead.  One that lies ahead of it, as of a clock that was set back
before anybody of today was there to notice, is of when it was first seen: so nothing is young until then.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

from dsfs.model.nodes import Look


@dataclass(slots=True)
class Past:
    """Kept by who looks, from one look to the next; what is not asked for between two is forgotten."""

    look: Look
    _ahead: dict[tuple[Hashable, int], int] = field(default_factory=dict)  # when each was first seen
    _before: dict[tuple[Hashable, int], int] = field(default_factory=dict)

    def note(self, look: Look) -> None:
        """Another look."""
        self.look = look
        self._ahead, self._before = {}, self._ahead

    def time_ns(self, what: Hashable, mtime_ns: int) -> int:
        """When that was done to it, by the clock that goes now, in ns; never later than now."""
        found_ns = self.look.by_clock_of_now(mtime_ns)
        if found_ns <= self.look.now_ns:
            return found_ns
        key = what, mtime_ns
        self._ahead[key] = self._before.get(key, self._ahead.get(key, self.look.now_ns))
        return min(self.look.by_clock_of_now(self._ahead[key]), self.look.now_ns)
