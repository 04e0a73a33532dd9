"""Whether the room of what was deleted comes back.

Snapshots keep the blocks of deleted files, and a file system may give them back minutes later: who deletes on because
there is still no room would delete everything for nothing.  So what was deleted and did not show as free is owed, and
beyond a part of the limit nothing more is deleted until it shows.
"""

from dataclasses import dataclass

# Of the limit: so much may be owed.  A deletion of that size is late often (ONTAP frees in the background), and losing
# it to a snapshot is bearable.
MOST_OWED = 0.05


@dataclass(slots=True)
class Ledger:
    """Bytes that are `owed` by the file system; kept by who deletes, from one look at its free space to the next."""

    owed_bytes: int = 0
    _free_bytes: int = 0
    _used_bytes: int | None = None  # None: nothing was noted yet

    def note(self, free_bytes: int, used_bytes: int, deleted_bytes: int) -> None:
        """So much is free now, and used by dsfs on all nodes; so much was deleted since the last time.

        Others may use the file system, too: what they take looks like room that did not come back, so no more is owed
        than was deleted; what they give up pays for what is owed.
        """
        if self._used_bytes is not None:
            filled_bytes = used_bytes - self._used_bytes + deleted_bytes
            missing_bytes = self._free_bytes - filled_bytes + deleted_bytes - free_bytes
            self.owed_bytes = max(0, self.owed_bytes + min(missing_bytes, deleted_bytes))
        self._free_bytes, self._used_bytes = free_bytes, used_bytes

    def correct(self, difference_bytes: int) -> None:
        """So much more is used than was known, as a new count says: nobody has filled it since."""
        if self._used_bytes is not None:
            self._used_bytes += difference_bytes

    def may_delete(self, limit_bytes: int) -> int:
        """So many bytes more may be deleted before some have to come back."""
        return max(0, int(limit_bytes * MOST_OWED) - self.owed_bytes)

    def is_nearly_paid(self, limit_bytes: int) -> bool:
        """Whether a file larger than all that may be owed can go: a few blocks are always late, or taken by others."""
        return 2 * self.owed_bytes <= int(limit_bytes * MOST_OWED)
