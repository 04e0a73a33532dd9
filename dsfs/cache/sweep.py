"""Sweep: what was hidden is deleted when its time has come, and what is there is counted, for the account of room.

A count takes several rounds: it begins, all nodes move on with their next exchange (who is dead is buried), and a scan
that begins then says what is there (model/account.py): at once or, where there is much to look at, in a later round.

Concurrency: blocking calls, of one thread at a time.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import PurePath

from dsfs.cache.survey import Survey, Surveyor
from dsfs.metrics import Metrics
from dsfs.model.ledger import Ledger
from dsfs.model.pace import Pace
from dsfs.model.quantity import format_size
from dsfs.model.retention import NOTHING, Amount
from dsfs.model.told import Told
from dsfs.model.trashname import TrashedFile
from dsfs.storage.censusscan import is_of_segments
from dsfs.storage.room import Room
from dsfs.storage.trash import Trash

log = logging.getLogger(__name__)

# Readers wait behind what a server deletes, and one that looks for ransomware counts it: so not as fast as it goes.
DELETED_PER_S, BURST = 200.0, 500
DELETED_AT_ONCE = 5_000  # in one round, which takes less than half a minute then
COUNT_EVERY_S = 600.0
ROUGH_PART = 256  # of the limit: where the account is off by more, it is counted at once
# Owed for so long, what was deleted is not just late.
LATE_S = 300.0
ANY = Amount(1, 1)


@dataclass(frozen=True, slots=True)
class _Count:
    """One that is under way.  `scan_ns`: when its scan began, None until all nodes have moved into its epoch."""

    epoch: int
    scan_ns: int | None = None


class Sweeper:
    """`trouble`: why nothing more is deleted, or not all, in words; "" while all is well."""

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
        self._nodes = surveyor.nodes
        self._trash = trash
        self._room = room
        self._metrics = metrics
        self._limit_bytes = surveyor.limits.limit_bytes
        self._clock = clock
        self._told = Told()
        self._ledger = Ledger()
        self._pace = Pace(DELETED_PER_S, BURST)
        self._deleted_bytes = 0
        self._owed_s: float | None = None  # since when nothing could be deleted
        self._met: dict[str, tuple[int, float]] = {}  # when each was first seen here, by the server's clock and by ours
        self._refused: dict[str, float] = {}  # what could not be deleted, and when that was tried last
        self._fault = ""  # why
        self._count: _Count | None = None
        self._counted_s: float | None = None

    def sweep(self, survey: Survey) -> None:
        """One round.  OSError, NoRoomError; what was done is done."""
        self._told.note(survey.look)
        free, used = survey.room.free, survey.account.used
        self._ledger.note(self._clock(), free.size_bytes, used.size_bytes, self._deleted_bytes)
        self._deleted_bytes = 0
        try:
            self._recount(survey)
        finally:  # a medium that is full, or a node that stands still with the account, is no reason to delete nothing
            self._delete(survey)

    def take_over(self, owed_bytes: int) -> None:
        """Another node, or this one before it was started anew, has deleted until now, and so much is owed."""
        self._ledger.take_over(owed_bytes)

    @property
    def owed_bytes(self) -> int:
        """What was deleted and is not free yet."""
        return self._ledger.owed_bytes

    @property
    def trouble(self) -> str:
        if self._refused:
            return f"not all that was taken away can be deleted: {self._fault}"
        if self._owed_s is None or self._clock() - self._owed_s < LATE_S:
            return ""
        owed = format_size(self._ledger.owed_bytes)
        return f"{owed} that were deleted are not free, so nothing more is: does a snapshot hold them?"

    # ---------------------------------------------------------------- deleting

    def _delete(self, survey: Survey) -> None:
        present = self._census.trash()
        # Not when the survey began: another evictor may have hidden some of it since.
        now = self._nodes.time_at(time.monotonic()), self._clock()
        met = ((trashed.name, self._met.get(trashed.name, now)) for trashed in present)
        # By a clock that was set back since, it would be met in the future.
        self._met = {name: (min(met_ns, now[0]), met_s) for name, (met_ns, met_s) in met}
        self._refused = {name: tried_s for name, tried_s in self._refused.items() if name in self._met}
        # What was refused last of all: nothing else is to wait for it.
        present.sort(key=lambda trashed: self._refused.get(trashed.name, -inf))
        # Where there is room enough, what is owed does no harm: it is the limit that makes versions leave.
        room = survey.room
        budget = max(self._ledger.may_delete(self._limit_bytes), (room.free - room.floor).size_bytes)
        freed, count, is_short = NOTHING, 0, False
        try:
            with self._census.noting(survey.now_ns) as notes:
                for trashed in present:
                    if count == DELETED_AT_ONCE:
                        break
                    if not self._is_due(trashed, survey):
                        continue
                    # One that is larger than all that may be owed goes alone.
                    is_alone = freed == NOTHING and self._ledger.may_exceed(self._limit_bytes)
                    if freed.size_bytes + trashed.taken.size_bytes > budget and not is_alone:
                        is_short = True
                        break
                    time.sleep(self._pace.wait_s(time.monotonic()))
                    self._refused[trashed.name] = self._clock()
                    freed += self._trash.delete(trashed.name)
                    notes.deleted(trashed.name)
                    del self._refused[trashed.name]
                    count += 1
        except OSError as exc:
            self._fault = str(exc)
            raise
        finally:
            self._deleted_bytes = freed.size_bytes
            self._room.freed(freed)
            self._metrics.evict_deleted_bytes.add(freed.size_bytes)
        if freed != NOTHING:
            self._room.tell()  # or others would find no room for half a minute yet
        if not is_short or (freed != NOTHING and not self._ledger.is_trying):
            self._owed_s = None
        elif self._owed_s is None:
            self._owed_s = self._clock()

    def _is_due(self, trashed: TrashedFile, survey: Survey) -> bool:
        """Whether the grace is over, and all nodes have told that they do not have it open."""
        met_ns, met_s = self._met[trashed.name]
        # The server's clock may have been set since, also before this node was there to notice.
        hidden_ns = survey.look.by_clock_of_now(trashed.stamp_ns)
        age_s = max((survey.now_ns - hidden_ns) / 1e9, self._clock() - met_s)
        if age_s < self.grace_s or not self._told.is_complete(survey.look, met_ns):
            return False
        if not is_of_segments(trashed.name):
            return True  # a generation: who has it open has a copy of his own
        if survey.unknown and (survey.room.free - survey.room.floor).covers(ANY):
            return False  # where nothing is free a node may be unable to tell until something is deleted
        identity = PurePath(trashed.name).name.partition(".")[0]
        # One that was filled anew is what nodes have open; who has the old one open yet looks for that after a miss.
        return self._census.has(identity) or not survey.uses.is_open(identity, self._census.owners_of(identity))

    # ---------------------------------------------------------------- counting

    def _recount(self, survey: Survey) -> None:
        account = self._room.account
        if self._count is None:
            if self._is_time_to_count(survey):
                self._count = _Count(account.begin_count())
                self._room.tell()  # this node moves at once
            return
        epoch, scan_ns, seen_ns = self._count.epoch, self._count.scan_ns, survey.seen_since_ns
        if scan_ns is None:
            known = account.look()
            look = self._nodes.look()  # behind it: who has a grant by then, and has just come, is no dead one
            living = frozenset(seen.node for seen in look.sightings if look.has_lease(seen))
            if known is not None and (dead := known.nodes - living):
                account.bury(dead)
            if not account.has_moved(living):
                return
            self._room.tell()
            account.begin_scan(epoch)
            # At once: what is filled and told while it lasts is counted twice, and evicted for, until the next count.
            scan_ns = self._nodes.now_ns()
            self._count = _Count(epoch, scan_ns)
            seen_ns = self._census.scan(scan_ns).since_ns
        if seen_ns is not None and seen_ns >= scan_ns:
            known = account.look()
            counted = account.end_count(epoch, self._census.total())
            if known is not None:
                self._ledger.correct((counted.used - known.used).size_bytes)
            self._room.tell()  # what is freed by who has not seen that it was counted anew is not taken off
            # Another node may have begun anew, and have died.
            self._count, self._counted_s = None, self._clock() if counted.counted == epoch else None

    def _is_time_to_count(self, survey: Survey) -> bool:
        """Now and then, and at once when the account is far from what was seen just now.

        It is too high when a fill was met by a count and told after that, or its file was taken away in the middle.
        """
        if self._counted_s is None or self._clock() - self._counted_s >= COUNT_EVERY_S:
            return True
        if survey.seen_since_ns is None:
            return False
        account, there = survey.account, self._census.total()
        off_bytes = max((account.used - there).size_bytes, (there - account.total).size_bytes)
        return off_bytes * ROUGH_PART > self._limit_bytes
