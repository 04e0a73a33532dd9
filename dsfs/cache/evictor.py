"""Evictor: what is stale leaves, and what is used least where room is wanted, one round after the other.

Every node can do it, and the one that has the turn does.  The turn saves work, and nothing rests on it: two evictors at
once find the same, and what one has hidden is gone for the other.

A segment leaves in two steps.  It is hidden: nobody opens it any more, and who has it open goes on reading it.  It is
deleted when the grace is over, every node has told what it has open since then, and none has this.  Only then is there
room, and only if the file system gives it back (model/ledger.py).

Concurrency: one thread at a time is in a round, a plan, or an eviction that somebody asked for; the trio thread tells
what came of it.  While the backing directory is silent that thread hangs, and so does everything here, alone.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import trio

from dsfs.cache.events import Events
from dsfs.cache.fill import Filler
from dsfs.cache.health import BackingHealth
from dsfs.cache.segments import SegmentTable
from dsfs.cache.survey import Survey, Surveyor
from dsfs.cache.sweep import Sweeper
from dsfs.cache.tolerance import Tolerance
from dsfs.metrics import Metrics
from dsfs.model.errors import BackingError
from dsfs.model.event import Kind
from dsfs.model.eviction import Rule, Verdict
from dsfs.model.nodes import LEASE_S, VersionKey
from dsfs.model.retention import NOTHING, Amount, CachedVersion
from dsfs.model.share import Shares, shares_of
from dsfs.model.standing import Standing, held_versions
from dsfs.model.trashname import TrashedFile
from dsfs.storage.bulletin import Bulletin
from dsfs.storage.censusnotes import Notes
from dsfs.storage.rangelock import CANNOT_LOCK
from dsfs.storage.trash import Trash
from dsfs.storage.turn import Turn

log = logging.getLogger(__name__)
T = TypeVar("T")

ROUND_S = 30.0
LEARN_S = 5.0  # the same as long as not everything was seen: until then nothing leaves
# In one round, so that the server has other work, too: as many renames as it does in some ten seconds.
HIDDEN_AT_ONCE = 10_000
TOLD_AT_ONCE = 1_000  # segments: requests wait for one or two ms
MOST_FAULTS = 10  # segments of a version that cannot be hidden, one after the other: then the medium is at fault
WHOLE = 0.99
PATIENCE_S = LEASE_S  # with a node that has the turn and shows no life
END_S = 2.0  # what giving up the turn may take


@dataclass(frozen=True, slots=True)
class Plan:
    """What leaves, in this order, and what stays.

    `wanted`: room that was asked for; `missing`: what is wanting of that afterwards.
    """

    survey: Survey
    leaves: tuple[Verdict, ...]
    stays: tuple[Verdict, ...]
    wanted: Amount
    grace_s: float

    @property
    def missing(self) -> Amount:
        leaving = sum((verdict.amount for verdict in self.leaves), NOTHING)
        return self.survey.room.missing(self.wanted, leaving)


class Evictor:
    """`turn`: the file that the one has locked who does it.  `is_ours`: this node did the last round."""

    def __init__(
        self,
        surveyor: Surveyor,
        sweeper: Sweeper,
        trash: Trash,
        shares: Bulletin[Shares],
        standing: Bulletin[Standing],
        turn: Path,
        segments: SegmentTable,
        filler: Filler,
        health: BackingHealth,
        events: Events,
        metrics: Metrics,
    ) -> None:
        self.is_ours = False
        self._surveyor = surveyor
        self._sweeper = sweeper
        self._trash = trash
        self._shares = shares
        self._standing = standing
        self._turn_path = turn
        self._turn = Turn(turn)
        self._segments = segments
        self._filler = filler
        self._health = health
        self._events = events
        self._metrics = metrics
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._tolerance = Tolerance(log, "nothing can be evicted")
        self._whole: frozenset[VersionKey] | None = None  # versions of which all was there in the last round
        self._is_learning = False  # what lies in the backing directory
        self._fault = ""  # why something cannot be hidden
        self._standing_ns = 0  # of the standing that was placed here last, or gone on from
        self._sign: tuple[int, float] | None = None  # of life of who has the turn, and since when it is that
        # Noted by the thread, told by the trio thread.
        self._left: deque[Verdict] = deque()
        self._become_whole: deque[CachedVersion] = deque()

    @property
    def high_bytes(self) -> int:
        """The high watermark: so much room there can be, and no more."""
        return self._surveyor.limits.high_bytes

    async def serve(self) -> None:
        """Service: a round every ROUND_S, for as long as the daemon runs."""
        while True:
            await trio.sleep(min(LEARN_S, ROUND_S) if self._is_learning else ROUND_S)
            with self._tolerance:
                async with self._lock:
                    try:
                        await self._in_thread(self._round)
                    finally:
                        await self._tell()

    async def end(self) -> None:
        """No more rounds here; the next one is another node's at once."""
        with trio.move_on_after(END_S), self._tolerance:
            async with self._lock:
                await self._in_thread(self._turn.end)

    def close(self) -> None:
        """Behind everything else.  Where a thread is inside, the end of the process closes what it works with."""
        if not self._limiter.borrowed_tokens:
            self._surveyor.census.close()

    async def plan(self, need_bytes: int) -> Plan:
        """What would leave so that there is room for so much; BackingError if that cannot be known now."""
        return await self._asked(partial(self._planned, Amount(need_bytes)))

    async def evict(self, need_bytes: int) -> Plan:
        """The same, and it has left; also without the turn.  BackingError."""
        return await self._asked(partial(self._evicted, Amount(need_bytes)))

    async def _asked(self, work: Callable[[], T]) -> T:
        try:
            with self._health.patience(is_long=True):
                async with self._lock:
                    return await self._in_thread(work)
        except OSError as exc:
            raise BackingError(f"the backing directory cannot be looked through: {exc}") from exc
        finally:
            await self._tell()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._limiter)

    async def _tell(self) -> None:
        """What has left and become whole, also in a round that ended with an error, or was not waited for."""
        with trio.CancelScope(shield=True):  # to the last one: what leaves is told here only
            while self._left:
                verdict = self._left.popleft()
                for place, identity in enumerate(verdict.segments):
                    if not place % TOLD_AT_ONCE:
                        await trio.lowlevel.checkpoint()
                    if self._segments.find(identity) is None:  # else it says itself what becomes of it
                        self._filler.removed(identity)
                dataset, version, _ = verdict.key
                self._metrics.evict_bytes.add(verdict.amount.size_bytes, label=verdict.rule.name.lower())
                self._events.tell(Kind.EVICTED, dataset, version, verdict.rule.value, verdict.amount.size_bytes)
            while self._become_whole:
                found = self._become_whole.popleft()
                self._events.tell(Kind.CACHED, *found.key[:2], "", found.held.size_bytes)

    # ---------------------------------------------------------------- by its thread

    def _round(self) -> None:
        self._is_learning = False
        self.is_ours = self._has_turn()
        if not self.is_ours:
            self._whole = None  # what becomes so from now on is told by the one whose turn it is
            return
        try:
            survey = self._surveyor.take(is_whole=False)
            left: list[Verdict] = []
            try:
                if survey.seen_since_ns is not None:
                    self._hide_all(survey, left)
            finally:  # what cannot be hidden keeps nothing from being deleted
                self._note_whole(survey)
                self._finish(survey, left)
            self._is_learning = survey.seen_since_ns is None
        except BaseException:
            self._give_up_turn()  # what is wrong may be so here only: a local disk that is full
            raise

    def _hide_all(self, survey: Survey, left: list[Verdict]) -> None:
        """Hide what has to leave; what has `left` is in there also after an OSError."""
        is_all = not self._surveyor.stuck
        try:
            left.extend(self._hidden(survey, NOTHING, HIDDEN_AT_ONCE))
            if not survey.unknown:  # whose catalogs may lie nowhere else
                self._hide_waste(survey)
        except OSError as exc:
            self._fault = f"not all that has to leave can be taken away: {exc}"
            raise
        if is_all:
            self._fault = ""
        if not left:
            self._surveyor.stuck.clear()  # to be tried again

    def _note_whole(self, survey: Survey) -> None:
        """Versions of which all is there since the last round of this node.  Small files take less on some servers."""
        if survey.seen_since_ns is None:
            return  # what is seen only now may have been there for long
        whole = [v for v in survey.versions if v.size_bytes and v.held.size_bytes >= v.size_bytes * WHOLE]
        before, self._whole = self._whole, frozenset(version.key for version in whole)
        if before is not None:
            self._become_whole.extend(version for version in whole if version.key not in before)

    def _planned(self, need: Amount) -> Plan:
        survey = self._surveyor.take(is_whole=True)
        verdicts = list(self._surveyor.judge(survey, need))
        leaves = tuple(verdict for verdict in verdicts if verdict.segments)
        stays = tuple(verdict for verdict in verdicts if not verdict.segments)
        return Plan(survey, leaves, stays, need, self._sweeper.grace_s)

    def _evicted(self, need: Amount) -> Plan:
        plan = self._planned(need)
        left = tuple(self._hidden(plan.survey, need, sum(len(verdict.segments) for verdict in plan.leaves)))
        self._finish(plan.survey, left)
        kept = (replace(verdict, rule=Rule.OVERTAKEN, segments=()) for verdict in plan.leaves[len(left) :])
        return replace(plan, leaves=left, stays=(*plan.stays, *kept))

    def _finish(self, survey: Survey, left: Iterable[Verdict]) -> None:
        """Delete what was hidden before, and tell all nodes what is there now that this has `left`."""
        try:
            standing = self._standing.look()
            if standing is not None and standing.counted_ns != self._standing_ns:
                self._sweeper.take_over(standing.owed_bytes)
                self._standing_ns = standing.counted_ns
            self._shares.place(shares_of(survey.versions, survey.allotted, survey.uses, survey.now_ns))
        finally:  # a medium that is full takes nothing, until something is deleted
            try:
                self._sweeper.sweep(survey)
            finally:  # also what could not be deleted has left
                self._place_standing(survey, left)

    def _place_standing(self, survey: Survey, left: Iterable[Verdict]) -> None:
        gone: Counter[VersionKey] = Counter()
        for verdict in left:
            gone[verdict.key] += verdict.amount.size_bytes
        node = self._surveyor.nodes.node
        self._standing.place(
            Standing(
                survey.now_ns,
                node,
                survey.host(node),
                survey.room.leaving.size_bytes + gone.total(),
                self._sweeper.owed_bytes,
                self._fault or self._sweeper.trouble or _of_unknown(survey) or survey.unseen,
                survey.seen_since_ns is not None,
                held_versions(survey.versions, gone),
            )
        )
        self._standing_ns = survey.now_ns

    def _hidden(self, survey: Survey, need: Amount, left: int) -> Iterator[Verdict]:
        """Hide what has to leave, one version after the other, and no more than `left` segments."""
        with self._surveyor.census.noting(survey.now_ns) as notes:
            for verdict in self._surveyor.judge(survey, need):
                # The policy goes on as if it had left: so where it does not, one has to look anew.
                if not verdict.segments or left <= 0 or not self._surveyor.may_leave(survey, verdict):
                    return
                hid = self._hide(verdict, left, survey.now_ns, notes)
                left -= len(hid.segments)
                yield hid

    def _hide(self, verdict: Verdict, left: int, now_ns: int, notes: Notes) -> Verdict:
        """No more than `left` segments of a version; what has left then."""
        found: list[tuple[str, TrashedFile | None]] = []
        try:
            found.extend(self._hide_each(verdict.segments[:left], now_ns, notes))
        finally:
            hidden = [trashed.taken for _, trashed in found if trashed is not None]
            # With what lies beside the data, as the survey counts it, if it is all of it and was there yet.
            amount = verdict.amount if len(hidden) == len(verdict.segments) else sum(hidden, NOTHING)
            hid = replace(verdict, segments=tuple(identity for identity, _ in found), amount=amount)
            self._left.append(hid)
        log.info(
            "%s/%s: %d segments with %d bytes are evicted: %s",
            *verdict.key[:2], len(hidden), amount.size_bytes, verdict.rule.value,
        )  # fmt: skip
        return hid

    def _hide_each(
        self, segments: Iterable[str], now_ns: int, notes: Notes
    ) -> Iterator[tuple[str, TrashedFile | None]]:
        """Those that are hidden, and what they leave.

        OSError, behind all others, if one cannot be: that is left alone until nothing else leaves.
        """
        faults: list[OSError] = []
        for identity in segments:
            try:
                trashed = self._trash.hide(identity, now_ns)
            except OSError as exc:
                self._surveyor.stuck.add(identity)
                faults.append(exc)
                if len(faults) == MOST_FAULTS:
                    break
            else:
                notes.hidden(identity, trashed)
                yield identity, trashed
        if faults:
            raise faults[0]

    def _hide_waste(self, survey: Survey) -> None:
        """What belongs to nobody any more: segments of no generation, old generations without any of their own."""
        count = 0
        with self._surveyor.census.noting(survey.now_ns) as notes:
            found = (orphan.identity for orphan in self._surveyor.census.orphans())
            kept = self._surveyor.stuck | survey.uses.segments.keys()  # open: of a catalog that only its node has yet
            orphans = islice((identity for identity in found if identity not in kept), HIDDEN_AT_ONCE)
            for _, trashed in self._hide_each(orphans, survey.now_ns, notes):
                count += trashed is not None
        if count:
            log.info("%d segments are taken away that belong to no version", count)
        faults: list[OSError] = []
        for version in survey.versions:
            if version.is_current or version.is_active(survey.now_ns):
                continue
            if all(segment.others for segment in self._surveyor.census.segments_of(version.key)):
                try:
                    self._trash.hide_generation(version.key, survey.now_ns)
                except OSError as exc:
                    faults.append(exc)  # the others need not wait for it
        if faults:
            raise faults[0]

    def _has_turn(self) -> bool:
        """Whether it is this node's turn, or that of one that has shown no sign of life for a lease."""
        try:
            if self._turn.try_take():
                self._turn.show_life()
                self._sign = None
                return True
            return self._takes_over()
        except OSError as exc:
            self._give_up_turn()  # a lock that was lost is lost with its file
            if exc.errno in CANNOT_LOCK:
                return True  # all nodes do the same then
            raise

    def _takes_over(self) -> bool:
        """Whether who has the lock is dead, and no other node shows life in its place.

        With NFSv3 the lock of a dead node stays for ever: this one goes on without.
        """
        sign, now_s = self._turn.sign_of_life(), time.monotonic()
        if self._sign is None or self._sign[0] != sign:
            self._sign = sign, now_s
        if now_s - self._sign[1] <= PATIENCE_S:
            return False
        self._turn.show_life()
        self._sign = self._turn.sign_of_life(), self._sign[1]
        return True

    def _give_up_turn(self) -> None:
        self._turn.end()
        self._turn = Turn(self._turn_path)


def _of_unknown(survey: Survey) -> str:
    """Why nothing leaves, in words."""
    names = sorted(map(survey.host, survey.unknown))
    return f"nothing leaves: what {', '.join(names[:3])} may use is not known" if names else ""
