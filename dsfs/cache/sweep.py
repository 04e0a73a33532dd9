"""Sweep: what was hidden is deleted when its time has come, and what is there is counted, for the account of room.

A count takes several rounds: it begins, all nodes move on with their next exchange (who is dead is buried), and the
first whole scan after that says what is there (model/account.py).

Concurrency: blocking calls, of one thread at a time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import PurePath

from dsfs.cache.survey import Survey, Surveyor
from dsfs.metrics import Metrics
from dsfs.model.ledger import Ledger
from dsfs.model.quantity import format_size
from dsfs.model.retention import NOTHING
from dsfs.model.told import Told
from dsfs.storage.census import TrashedFile
from dsfs.storage.room import Room
from dsfs.storage.trash import Trash

log = logging.getLogger(__name__)

# In one round, so that the server has other work, too: as many removals as it does in some ten seconds.
DELETED_AT_ONCE = 10_000
COUNT_EVERY_S = 600.0
ROUGH_PART = 256  # of the limit: a count that may be off by more is repeated at once
# Owed for so long, what was deleted is not just late.
LATE_S = 300.0


@dataclass(frozen=True, slots=True)
class _Count:
    """One that is under way.  `has_moved`: all nodes have moved into its epoch.  `is_scanning`: its scan has begun,
    and `scan_ns` is not later than that (0: not known yet).
    """

    epoch: int
    has_moved: bool = False
    is_scanning: bool = False
    scan_ns: int = 0


class Sweeper:
    """`trouble`: why nothing more is deleted, in words; "" while all is well."""

    def __init__(
        self,
        surveyor: Surveyor,
        trash: Trash,
        room: Room,
        metrics: Metrics,
        grace_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.grace_s = grace_s
        self._census = surveyor.census
        self._trash = trash
        self._room = room
        self._metrics = metrics
        self._limit_bytes = surveyor.limits.limit_bytes
        self._clock = clock
        self._told = Told()
        self._ledger = Ledger()
        self._deleted_bytes = 0
        self._owed_s: float | None = None  # since when nothing could be deleted
        self._met: dict[str, tuple[int, float]] = {}  # when each was first seen here, by the server's clock and by ours
        self._count: _Count | None = None
        self._counted_s: float | None = None

    def begin(self) -> None:
        """To be done right before the survey of a round: what is filled in between is counted twice."""
        if self._count is not None and self._count.has_moved and not self._count.is_scanning:
            self._room.tell()
            self._room.account.begin_scan(self._count.epoch)
            self._count = replace(self._count, is_scanning=True)

    def sweep(self, survey: Survey) -> None:
        """One round.  OSError, NoRoomError; what was done is done."""
        self._told.note(survey.look)
        self._ledger.note(survey.room.free.size_bytes, survey.used.size_bytes, self._deleted_bytes)
        self._deleted_bytes = 0
        self._recount(survey)
        self._delete(survey)

    @property
    def trouble(self) -> str:
        if self._owed_s is None or self._clock() - self._owed_s < LATE_S:
            return ""
        owed = format_size(self._ledger.owed_bytes)
        return f"{owed} that were deleted are not free, so nothing more is: does a snapshot hold them?"

    # ---------------------------------------------------------------- deleting

    def _delete(self, survey: Survey) -> None:
        present = self._census.trash()
        now = survey.now_ns, self._clock()
        met = ((trashed.name, self._met.get(trashed.name, now)) for trashed in present)
        # By a clock that was set back since, it would be met in the future.
        self._met = {name: (min(met_ns, survey.now_ns), met_s) for name, (met_ns, met_s) in met}
        budget = self._ledger.may_delete(self._limit_bytes)
        freed, count, is_short = NOTHING, 0, False
        try:
            for trashed in present:
                if count == DELETED_AT_ONCE:
                    break
                if not self._is_due(trashed, survey):
                    continue
                # One that is larger than all that may be owed goes alone.
                is_alone = freed == NOTHING and self._ledger.is_nearly_paid(self._limit_bytes)
                if freed.size_bytes + trashed.taken.size_bytes > budget and not is_alone:
                    is_short = True
                    break
                freed += self._trash.delete(trashed.name)
                count += 1
        finally:
            self._deleted_bytes = freed.size_bytes
            self._room.freed(freed)
            self._metrics.evict_deleted_bytes.add(freed.size_bytes)
        if freed != NOTHING:
            self._room.tell()  # or others would find no room for half a minute yet
        if not is_short or freed != NOTHING:
            self._owed_s = None
        elif self._owed_s is None:
            self._owed_s = self._clock()

    def _is_due(self, trashed: TrashedFile, survey: Survey) -> bool:
        """Whether the grace is over, and nobody has it open."""
        met_ns, met_s = self._met[trashed.name]
        # The server's clock may have been set since.
        age_s = max((survey.now_ns - trashed.stamp_ns) / 1e9, self._clock() - met_s)
        if age_s < self.grace_s or not self._told.is_complete(survey.look, met_ns):
            return False
        identity = PurePath(trashed.name).name.partition(".")[0]
        return not survey.uses.is_open(identity, self._census.owners_of(identity))

    # ---------------------------------------------------------------- counting

    def _recount(self, survey: Survey) -> None:
        account = self._room.account
        if self._count is None:
            if self._counted_s is None or self._clock() - self._counted_s >= COUNT_EVERY_S:
                self._count = _Count(account.begin_count())
                self._room.tell()  # moves this node
            return
        if not self._count.has_moved:
            living = frozenset(seen.node for seen in survey.look.sightings if survey.look.has_lease(seen))
            known = account.look()
            if known is not None and (dead := known.nodes - living):
                account.bury(dead)
            self._count = replace(self._count, has_moved=account.has_moved(living))
            return
        if not self._count.is_scanning:
            return
        if not self._count.scan_ns:
            self._count = replace(self._count, scan_ns=survey.now_ns)
        if survey.seen_since_ns is not None and survey.seen_since_ns >= self._count.scan_ns:
            known = account.look()
            counted = account.end_count(self._count.epoch, self._census.total())
            if known is not None:
                self._ledger.correct((counted.used - known.used).size_bytes)
            self._room.tell()  # what is freed by who has not seen that it was counted anew is not taken off
            # What was told meanwhile may have been found, too; and another node may have begun anew, and have died.
            is_rough = counted.counted != self._count.epoch or counted.since.size_bytes * ROUGH_PART > self._limit_bytes
            self._count, self._counted_s = None, None if is_rough else self._clock()
