"""Whether a medium answers, judged by how soon its operations end: ok, unstable, down.

Pure: the caller says what it saw, and when.  Only a probe that was answered soon makes a medium ok again: the end of
any other operation proves nothing, an NFS client answers many out of its own caches while the server is gone.
"""

from dataclasses import dataclass
from enum import Enum

DOWN_S = 120.0  # a takeover of a filer may take a minute, and two may follow each other: that is not yet "down"


class Condition(Enum):
    OK = "ok"
    UNSTABLE = "unstable"
    DOWN = "down"


@dataclass
class Health:
    """`late_s`: an operation under way for longer makes the medium unstable; after DOWN_S of that it is down.

    INVARIANT: `since_s` is None exactly while the medium is ok.
    """

    late_s: float
    since_s: float | None = None

    def condition(self, now_s: float) -> Condition:
        if self.since_s is None:
            return Condition.OK
        return Condition.DOWN if now_s - self.since_s >= DOWN_S else Condition.UNSTABLE

    def is_late(self, began_s: float, now_s: float) -> bool:
        """Whether an operation that began then is late now."""
        return now_s - began_s > self.late_s

    def late(self, began_s: float) -> bool:
        """An operation that began then is late.  True if the medium was ok until now."""
        was_ok = self.since_s is None
        if self.since_s is None or began_s < self.since_s:
            self.since_s = began_s
        return was_ok

    def probed(self, began_s: float, now_s: float) -> bool:
        """A probe ended.  True if the medium is ok from now on and was not before."""
        if self.since_s is None or self.is_late(began_s, now_s):
            return False
        self.since_s = None
        return True
