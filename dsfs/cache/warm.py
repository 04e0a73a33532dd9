"""One warm: a version, or the files of it that a pattern selects, is made resident, pass after pass.

A pass visits every segment of the catalog: it looks what is resident, brings what is missing, and goes on.  The warm is
complete when a whole pass has found nothing missing: so a second pass checks what the first one did, and what another
node has filled, or dropped, is seen.  There is nothing to remember: what is resident is the progress.

Concurrency: the trio thread; a plan is made in a worker thread.
"""

import logging
import time
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

import trio

from dsfs.cache.events import Events
from dsfs.cache.library import Library
from dsfs.cache.open import Opener
from dsfs.cache.versions import Generation
from dsfs.cache.warmfill import Visit, WarmFiller
from dsfs.cache.warmplan import Plan, make_plan
from dsfs.model.errors import DsfsError, NotFoundError
from dsfs.model.event import Kind
from dsfs.model.pathglob import PathGlob
from dsfs.model.request import WarmRequest
from dsfs.model.warming import Course, Pace, Tally, Verdict, order
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.segment import State

log = logging.getLogger(__name__)

VISITS = 32  # segments a warm is at, at once; how much of them is under way is bounded in bytes
LOOKS = 4  # those among them that wait for the backing directory to tell what is there: readers need its threads
ALL, THIS = "all", "this"  # nodes
NOT_YET = "not filled yet, by this node or another"


class Phase(StrEnum):
    """What a warm is doing, or how it has ended."""

    QUEUED = "queued"
    LISTING = "listing"
    FILLING = "filling"
    WAITING = "waiting"  # for what others are at
    PAUSED = "paused"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    STOPPED = "stopped"
    EXPIRED = "expired"


@dataclass
class Missing:
    """So many bytes are missing for one reason; `example` names an object."""

    bytes: int = 0
    example: str = ""


@dataclass
class Services:
    """What warms are made with.  `seed`: this node's, so that nodes begin at different places."""

    library: Library
    opener: Opener
    index: ResidencyIndex
    filler: WarmFiller
    events: Events
    seed: int


@dataclass(eq=False)
class Warm:
    """The warm of a request; `asked_ns` tells it from a later one for the same.  `nodes`: who is at it, ALL or THIS.

    `is_withdrawn`: the request is gone, so another node has found all of it resident, or somebody has stopped it;
    `is_final`: how it has ended is true for every node.
    """

    services: Services
    request: WarmRequest
    asked_ns: int
    nodes: str
    reason: str = ""
    missing: dict[str, Missing] = field(default_factory=dict)
    is_withdrawn: bool = False
    is_over: bool = False
    is_final: bool = False

    def __post_init__(self) -> None:
        self.started_s, self.ended_s = time.time(), 0.0
        self.plan: Plan | None = None
        self.course = Course(trio.current_time())
        self.pace = Pace()
        self._phase = Phase.QUEUED
        self._glob = None if self.request.path is None else PathGlob(self.request.path)
        self._generation: Generation | None = None
        self._step = trio.CancelScope()
        self._visits, self._looks = trio.CapacityLimiter(VISITS), trio.CapacityLimiter(LOOKS)

    @property
    def phase(self) -> Phase:
        is_at_it = self._phase in (Phase.FILLING, Phase.WAITING)
        return Phase.PAUSED if is_at_it and self.course.trouble else self._phase

    def end(self, how: Phase, reason: str = "", *, is_final: bool = False) -> None:
        """It is over; what was started comes to its end all the same."""
        self._phase, self.reason, self.ended_s = how, reason, time.time()
        self.is_over, self.is_final = True, is_final
        self._step.cancel()
        log.info("warm of %s: %s%s", self.request.target, how.value, f", {reason}" if reason else "")

    def withdraw(self) -> None:
        """The request is gone: nothing more is started, but it is looked whether all is resident."""
        self.is_withdrawn = True
        self._step.cancel()

    # ---------------------------------------------------------------- the way of a warm

    async def run(self) -> None:
        """Until the warm is over."""
        while not self.is_over:
            with trio.CancelScope() as self._step:
                try:
                    await self._advance()
                except NotFoundError as exc:
                    self.end(Phase.INCOMPLETE, str(exc))
                except DsfsError as exc:  # it cannot be listed now
                    self._phase = Phase.FILLING
                    self.course.failed(str(exc), trio.current_time())
                    await trio.sleep_until(self.course.pause_until_s)
                except Exception as exc:  # of this warm, and not of the mount
                    log.exception("unexpected error while warming %s", self.request.target)
                    self.end(Phase.INCOMPLETE, f"unexpected {type(exc).__name__}: {exc}")

    async def _advance(self) -> None:
        """Make sure of what is to be done, and do a pass over it."""
        plan, generation = await self._planned()
        if not plan.total:
            path = "it" if self.request.path is None else f"--path {self.request.path}"
            self.end(Phase.INCOMPLETE, f"{path} has no file with content", is_final=True)
            return
        with generation.being_warmed():
            await self._pass(plan, generation)

    async def _pass(self, plan: Plan, generation: Generation) -> None:
        """Go over all of it once, and wait until the next time is worth it."""
        self._phase = Phase.FILLING
        is_last, tally = self.is_withdrawn, Tally()
        self.course.begin_pass()
        await self._visit_all(plan, generation, tally)
        verdict, delay_s = self.course.after_pass(tally)
        self.missing = self._missing(tally)
        if is_last and tally.found:
            self.end(Phase.STOPPED, "the request was withdrawn")
            return
        match verdict:
            case Verdict.COMPLETE:
                self._tell_complete(plan.total)
                self.end(Phase.COMPLETE, is_final=True)
            case Verdict.INCOMPLETE:
                self.end(Phase.INCOMPLETE, "; ".join(self.missing), is_final=True)
            case Verdict.AGAIN:
                if delay_s:
                    self._phase = Phase.WAITING
                await trio.sleep(delay_s)

    def _tell_complete(self, total: int) -> None:
        """All of it is resident; where another node has found so before, that has told it."""
        if not self.is_withdrawn:
            what = "all of it" if self.request.path is None else f"--path {self.request.path}"
            self.services.events.tell(Kind.WARMED, self.request.dataset, self.request.version, what, total)

    async def _planned(self) -> tuple[Plan, Generation]:
        """The plan for what is the current generation now."""
        library = self.services.library
        version = await library.version(await library.dataset(self.request.dataset), self.request.version)
        if version.current is None or version.current is not self._generation:
            self._phase = Phase.LISTING
        generation = await library.generation(version)
        version.was_used = True  # it soon will be
        if self.plan is None or generation is not self._generation:
            # Cancelled, it is waited for, so that no catalog is closed under it: it looks itself whether to go on.
            check, index = trio.from_thread.check_cancelled, self.services.index
            make = partial(make_plan, generation.catalog, index, self._glob, check)
            self.plan, self._generation, self.pace = await trio.to_thread.run_sync(make), generation, Pace()
        return self.plan, generation

    async def _visit_all(self, plan: Plan, generation: Generation, tally: Tally) -> None:
        """Several segments at once, but their runs start in order: what a job reads first comes first."""
        turn = trio.Event()
        turn.set()
        async with trio.open_nursery() as visits:
            for place in order(len(plan), self.services.seed if self.nodes == ALL else None):
                if self.course.trouble:
                    await trio.sleep_until(self.course.pause_until_s)
                following = trio.Event()
                await self._visits.acquire_on_behalf_of(following)
                visits.start_soon(self._visit, plan, generation, place, tally, turn, following)
                turn = following

    async def _visit(
        self, plan: Plan, generation: Generation, place: int, tally: Tally, turn: trio.Event, following: trio.Event
    ) -> None:
        try:
            await self._see_to(plan, generation, place, tally, turn, following)
        except Exception as exc:
            log.exception("unexpected error while warming %s", self.request.target)
            self.course.failed(f"unexpected {type(exc).__name__}: {exc}", trio.current_time())
            tally.found += plan.sizes[place]
            tally.left += plan.sizes[place]
        finally:
            following.set()
            self._visits.release_on_behalf_of(following)

    async def _see_to(
        self, plan: Plan, generation: Generation, place: int, tally: Tally, turn: trio.Event, following: trio.Event
    ) -> None:
        """Look at one segment, and bring what is missing of it, when the one before it has been begun."""
        entry = plan.entry(place)
        opener, filler = self.services.opener, self.services.filler
        known = opener.segments.find(generation.identity_of(entry))
        is_new = known is None or known.file.state is State.CLOSED
        async with self._looks:
            segment = await opener.segment(generation, entry)
        try:
            stretches = plan.stretches(entry, len(segment.file.blocks))
            visit = Visit(segment, stretches, self.course, partial(self._note, plan, place))
            if not is_new:
                async with self._looks:
                    await filler.look(visit)
            found = visit.missing_bytes()
            visit.note(found)
            await turn.wait()
            if segment.file.state is State.CLOSED:
                reason = filler.health.reason or "it is not usable"
                self.course.failed(f"backing directory: {reason}", trio.current_time())
            elif found and not self.is_withdrawn:
                started = await filler.start(visit)
                following.set()
                await filler.wait(visit, started)
            left, lasting = visit.missing_bytes(), visit.lasting_bytes()
            tally.found += found
            tally.left += left
            tally.lasting += lasting
            tally.example = tally.example or visit.example
        finally:
            segment.release()

    def _missing(self, tally: Tally) -> dict[str, Missing]:
        """What a pass has left, by the reason."""
        missing = {}
        if tally.left > tally.lasting:
            missing[self.course.trouble or NOT_YET] = Missing(tally.left - tally.lasting)
        if tally.lasting:
            drift = f"the origin has other objects than were listed: dsfs refresh {self.request.target}"
            missing[drift] = Missing(tally.lasting, tally.example)
        return missing

    def _note(self, plan: Plan, place: int, missing: int) -> None:
        before = plan.done
        plan.note(place, missing)
        if plan.done > before:
            self.course.progressed(trio.current_time())
        self.pace.note(trio.current_time(), plan.done)
