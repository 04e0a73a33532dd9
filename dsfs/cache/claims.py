"""Claims: before a run is fetched, the other nodes are told, so that they wait for it and do not fetch it too.

A run is asked for in a thread; those of one segment one after the other, what readers wait for first.  Before each
question the segment's claims that have ended are given up: a lock is the open file's, so that the end of a claim would
end a newer one of the same blocks.  The threads have a pool of their own: a question is small and is not to wait behind
the fills of whole runs.  The answer holds for the first block of the run, and for as many behind it as it says
(storage/claim.py):

granted     they are this node's to fetch
resident    another node has filled them meanwhile: whoever wants them looks again
held        another node is at them: what nobody waits for is let go; with readers it is asked for again, soon at first
            and less often later

Patience with a holder ends when nothing of the segment has come from another node for a few times as long as it
normally takes from a claim to the end of its fill, and in any case after `most_patience_s`: then the origin is asked
without a claim, at once from there on, until there is news from the others.

Claims save work, and no byte rests on them: where they cannot be had (no locks, no room to fill, a backing directory
that is silent) everything goes on without.  What was fetched so is asked for once more before it is filled: else two
nodes could write the same, and one of them after the other's seal, which would have to be checked again.

Concurrency: the trio thread; an answer that comes after it was given up releases its claim.
"""

import errno
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from dsfs.cache.health import BackingHealth
from dsfs.cache.pool import Bridge, Pool, Priority, Ticket
from dsfs.cache.runs import ActiveSegment, Run
from dsfs.metrics import Metrics
from dsfs.model.blocks import extent, pages
from dsfs.model.errors import BlockLostError, NoRoomError
from dsfs.model.retention import Amount
from dsfs.storage.claim import Answer, Claim, claim, release, see
from dsfs.storage.rangelock import CANNOT_LOCK
from dsfs.storage.room import Room
from dsfs.storage.segment import SegmentFile

log = logging.getLogger(__name__)

FIRST_DELAY_S, MOST_DELAY_S = 0.01, 0.25  # between two questions for a claim that another node holds
LEAST_PATIENCE_S = 4.0  # a node under load may stand still for a second or two
ATTEMPTS = 3  # at asking, when the segment's files become others meanwhile
NORMAL_CLAIMS = 4  # patience with a holder, in claims of this node as long as they usually last
NO_LOCKS_S = 60.0  # a server that could not lock is asked again so much later
DISTRUST_S = 30.0  # a node whose claims led nowhere is not waited for so long

Answered = Callable[[Run, Claim | None], None]


@dataclass(frozen=True, slots=True)
class _Question:
    """Whom to tell the answer, and when it was asked (None: it waits to be asked again)."""

    answered: Answered
    began_s: float | None


@dataclass
class Claims:
    """`most_patience_s`: the longest that a reader waits for another node; `can_lock`: whether the server could."""

    pool: Pool
    bridge: Bridge
    room: Room
    health: BackingHealth
    nursery: trio.Nursery
    metrics: Metrics
    most_patience_s: float
    jitter: random.Random
    can_lock: bool = True
    _asked: dict[Run, _Question] = field(default_factory=dict)
    _hanging: set[Run] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._no_locks_until_s = 0.0
        self._normal_claim_s = 0.0
        self.health.on_silent.append(self._give_up_all)
        self.health.on_look.append(self._give_up_late)

    @property
    def patience_s(self) -> float:
        return min(max(LEAST_PATIENCE_S, NORMAL_CLAIMS * self._normal_claim_s), self.most_patience_s)

    def ask(self, run: Run, answered: Answered) -> None:
        """Ask for the run.  `answered` is called once, perhaps at once; None = there are no claims now."""
        if not self.health.is_ok or self._hanging:
            answered(run, None)
            return
        if not self.can_lock and trio.current_time() >= self._no_locks_until_s:
            self.can_lock = True
        self._asked[run] = _Question(answered, trio.current_time())
        self._queue(run, run.priority)

    def promote(self, run: Run, priority: Priority) -> None:
        """The run, which may still be asked for, is wanted, perhaps more urgently than before."""
        if priority >= run.priority:
            return
        try:
            run.segment.others.unclaimed.remove(run)
        except ValueError:
            return  # it has been asked for
        self._queue(run, priority)

    def _queue(self, run: Run, priority: Priority) -> None:
        others = run.segment.others
        if priority is Priority.READER:
            others.unclaimed.appendleft(run)
        else:
            others.unclaimed.append(run)
        self._have_served(run.segment, priority)

    def _have_served(self, segment: ActiveSegment, priority: Priority) -> None:
        """Send a thread to what is to be asked and given up of the segment, unless one is there."""
        if segment.others.ticket is None:
            segment.users += 1  # by the thread
            segment.others.ticket = Ticket(partial(self._serve, segment))
        if segment.others.ticket.is_queued:
            self.pool.submit(segment.others.ticket, priority)

    # ---------------------------------------------------------------- in a worker thread

    def _serve(self, segment: ActiveSegment) -> None:
        """Give up what has ended, and ask for the run that is next."""
        others = segment.others
        run: Run | None = None
        try:
            with suppress(IndexError):  # there is none, or it was given up
                run = others.unclaimed.popleft()
            _release_ended(segment)  # after that: what ended before the run was queued is there now
            if run is not None:
                self.bridge.post(partial(self._came, run, self._answer(run)))
        finally:
            self.bridge.post(partial(self._served, segment))

    def _answer(self, run: Run) -> Claim | OSError | None:
        try:
            return self._claimed_or_seen(run.segment.file, run.first, run.end, can_lock=self.can_lock)
        except OSError as exc:
            return exc
        except Exception:
            log.exception("unexpected error while asking for segment %s", run.segment.identity)
        return None

    def answer_to_fill(self, run: Run, first: int, end: int) -> Claim | None:
        """Ask for blocks that were fetched without a claim, in the thread that is about to write them.

        None = there are no claims now.  What is granted is that thread's to give up.
        """
        _release_ended(run.segment)
        try:
            # Where one question hangs this one would, and a thread that fills with it.
            return self._claimed_or_seen(run.segment.file, first, end, can_lock=self.can_lock and not self._hanging)
        except OSError:
            return None  # the write will tell

    def _claimed_or_seen(self, file: SegmentFile, first: int, end: int, *, can_lock: bool) -> Claim | None:
        for _ in range(ATTEMPTS):
            with suppress(BlockLostError):  # sealed or dropped at this moment
                with suppress(NoRoomError):
                    self.room.check(Amount(pages(extent(file.blocks, first, end)[1])))
                    if can_lock:
                        with self.room.beginning(file):
                            return claim(file, first, end)
                return see(file, first, end)  # nobody is to wait for what will not be filled
        return None

    # ---------------------------------------------------------------- on the trio thread again

    def _served(self, segment: ActiveSegment) -> None:
        others = segment.others
        others.ticket = None
        if others.released:
            self._have_served(segment, Priority.READER)
        elif others.unclaimed:
            self._have_served(segment, others.unclaimed[0].priority)
        segment.release()

    def _came(self, run: Run, answer: Claim | OSError | None) -> None:
        if isinstance(answer, OSError):
            self._failed(answer)
            answer = None
        question = self._asked.pop(run, None)
        if question is None:  # given up: the run has gone on without
            if answer is not None and answer.answer is Answer.GRANTED:
                self._release(run.segment, run.first, answer.end)
            self._hanging.discard(run)
            return
        if answer is not None and answer.answer is Answer.GRANTED:
            run.claimed_s = trio.current_time()
        others, learned_blocks = run.segment.others, run.segment.file.learned_blocks
        if learned_blocks != others.learned_blocks:
            others.learned_blocks = learned_blocks
            others.news_s, others.distrusted_until_s = trio.current_time(), 0.0
        self.metrics.claims_asked.add(label=answer.answer.value if answer else "none")
        question.answered(run, answer)

    def _failed(self, exc: OSError) -> None:
        if exc.errno in CANNOT_LOCK:
            log.warning("the backing directory has no locks (%s): nodes that want the same bytes fetch them each", exc)
            self.can_lock, self._no_locks_until_s = False, trio.current_time() + NO_LOCKS_S
            return
        log.warning("backing directory: a claim failed, nothing is filled for a while: %s", exc)
        self.metrics.backing_errors.add(label=errno.errorcode.get(exc.errno or 0, "unknown"))
        self.room.failed(exc)

    # ---------------------------------------------------------------- while another node has it

    def wait(self, run: Run, answered: Answered) -> bool:
        """Ask for a run that is held once more, in a moment; False if patience with its holder is over."""
        others, now_s = run.segment.others, trio.current_time()
        if run.held_since_s is None:
            run.held_since_s = now_s
        quiet_s, held_s = now_s - max(run.held_since_s, others.news_s), now_s - run.held_since_s
        is_distrusted = now_s < others.distrusted_until_s
        if is_distrusted or quiet_s >= self.patience_s or held_s >= self.most_patience_s:
            if not is_distrusted:
                log.info("segment %s: another node has claimed blocks and does not fill them", run.segment.identity)
            others.distrusted_until_s = now_s + DISTRUST_S
            self.metrics.claims_ignored.add()
            return False
        self._asked[run] = _Question(answered, None)  # so that a silent directory ends this wait as well
        self.nursery.start_soon(self._ask_again, run)
        return True

    async def _ask_again(self, run: Run) -> None:
        delay_s = min(FIRST_DELAY_S * 1.5**run.refusals, MOST_DELAY_S)
        run.refusals += 1
        await trio.sleep(delay_s * (1 - self.jitter.random() / 2))
        question = self._asked.pop(run, None)
        if question is not None:
            self.ask(run, question.answered)

    def _give_up_all(self) -> None:
        """The backing directory has become silent."""
        self._give_up(list(self._asked))

    def _give_up_late(self) -> None:
        """Questions that are not answered in time: a server that has just started may hold one for a minute.

        Until it lets that go no other is asked: each reader would wait in vain for as long.
        """
        health, now_s = self.health.health, trio.current_time()
        began = [(run, question.began_s) for run, question in self._asked.items()]
        self._give_up([run for run, began_s in began if began_s is not None and health.is_late(began_s, now_s)])

    def _give_up(self, runs: list[Run]) -> None:
        for run in runs:
            question = self._asked.pop(run)
            try:
                run.segment.others.unclaimed.remove(run)
            except ValueError:  # a thread has it: the answer will come too late
                if question.began_s is not None:
                    self._hanging.add(run)
            question.answered(run, None)

    # ---------------------------------------------------------------- the end of a claim

    def release(self, run: Run) -> None:
        """Give up the claim of a run, but for those of its blocks that are another run's by now."""
        if run.claimed_s is None:
            return
        if run.filled:  # what is normal follows slowly
            self._normal_claim_s += (trio.current_time() - run.claimed_s - self._normal_claim_s) / 8
        run.claimed_s = None
        runs, first = run.segment.runs, run.first
        while first < run.end:
            end = first
            while end < run.end and runs.get(end, run) is run:
                end += 1
            if end > first:
                self._release(run.segment, first, end)
            first = end + 1

    def _release(self, segment: ActiveSegment, first: int, end: int) -> None:
        segment.others.released.append((first, end))
        self._have_served(segment, Priority.READER)


def _release_ended(segment: ActiveSegment) -> None:
    """Give up the claims that have ended; behind that none of them is given up late, by whoever was at it."""
    others = segment.others
    with others.releasing:
        while others.released:
            release_quietly(segment, *others.released.popleft())


def release_quietly(segment: ActiveSegment, first: int, end: int) -> None:
    """A claim that cannot be given up ends with its file."""
    try:
        release(segment.file, first, end)
    except (OSError, BlockLostError) as exc:
        log.info("segment %s: a claim cannot be given up: %s", segment.identity, exc)
