"""Whether the room of what was deleted comes back.

Snapshots keep the blocks of deleted files, and a file system may give them back minutes later: who deletes on because
there is still no room would delete everything for nothing.  So what was deleted and did not show as free is owed, and
beyond a part of the limit nothing more is deleted until it shows.

What others write to the same file system looks the same.  So now and then it is tried: a little more is deleted, and if
most of that shows, nothing is owed.  A snapshot gets less and less in this way: a try waits twice as long as the one
before.
"""

from dataclasses import dataclass

# Of the limit: so much may be owed.  A deletion of that size is late often (ONTAP frees in the background), and losing
# it to a snapshot is bearable.
MOST_OWED = 0.05
TRIED = 1 / 8  # of that: so much is deleted to see whether it comes back
FIRST_WAIT_S = 900.0
MOST_WAIT_S = 86_400.0


@dataclass(slots=True)
class Ledger:
    """Bytes that are `owed` by the file system; kept by who deletes, from one look at its free space to the next.

    `is_trying`: a little may be deleted although too much is owed.
    """

    owed_bytes: int = 0
    is_trying: bool = False
    _free_bytes: int = 0
    _used_bytes: int | None = None  # None: nothing was noted yet
    _wait_s: float = FIRST_WAIT_S
    # When it was last looked what came back; what was owed then, and what was deleted since.
    _looked_s: float = 0.0
    _looked_bytes: int = 0
    _deleted_bytes: int = 0

    def note(self, now_s: float, free_bytes: int, used_bytes: int, deleted_bytes: int) -> None:
        """At `now_s` of a clock that is never set, so much is free, and used by dsfs on all nodes; so much was deleted
        since the last time.

        What others take of the file system looks like room that did not come back, so no more is owed than was deleted;
        what they give up pays for what is owed.
        """
        if self._used_bytes is None:
            self._looked_s = now_s
        else:
            filled_bytes = used_bytes - self._used_bytes + deleted_bytes
            missing_bytes = self._free_bytes - filled_bytes + deleted_bytes - free_bytes
            self.owed_bytes = max(0, self.owed_bytes + min(missing_bytes, deleted_bytes))
            self._deleted_bytes += deleted_bytes
            if now_s - self._looked_s >= self._wait_s or not self.owed_bytes:
                self._look(now_s)
        self._free_bytes, self._used_bytes = free_bytes, used_bytes

    def _look(self, now_s: float) -> None:
        """Whether most of what was deleted since the last look came back."""
        is_kept = 2 * (self.owed_bytes - self._looked_bytes) > self._deleted_bytes
        if is_kept:
            self._wait_s = min(2 * self._wait_s, MOST_WAIT_S)
        elif self._deleted_bytes or not self.owed_bytes:
            self.owed_bytes, self._wait_s = 0, FIRST_WAIT_S
        self.is_trying = self.owed_bytes > 0
        self._looked_s, self._looked_bytes, self._deleted_bytes = now_s, self.owed_bytes, 0

    def take_over(self, owed_bytes: int) -> None:
        """So much is owed to who has deleted until now."""
        self._looked_bytes += owed_bytes - self.owed_bytes  # what was tried here stays tried
        self.owed_bytes = owed_bytes

    def correct(self, difference_bytes: int) -> None:
        """So much more is used than was known, as a new count says: nobody has filled it since."""
        if self._used_bytes is not None:
            self._used_bytes += difference_bytes

    def may_delete(self, limit_bytes: int) -> int:
        """So many bytes more may be deleted before some have to come back."""
        most_bytes = int(limit_bytes * MOST_OWED)
        tried_bytes = int(most_bytes * TRIED) - self._deleted_bytes if self.is_trying else 0
        return max(0, most_bytes - self.owed_bytes, tried_bytes)

    def may_exceed(self, limit_bytes: int) -> bool:
        """Whether a file larger than all that can go: a few blocks are always late, or taken by others."""
        is_nearly_paid = 2 * self.owed_bytes <= int(limit_bytes * MOST_OWED)
        return is_nearly_paid or (self.is_trying and not self._deleted_bytes)
