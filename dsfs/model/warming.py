"""Warming: in which order, how much at once, when to pause, when it is done, and how fast it goes.

Pure: the caller says what it saw, and when, and does what it is told.
"""

from array import array
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from random import Random

from dsfs.model.retry import Pause

FIRST_PAUSE_S, MOST_PAUSE_S = 1.0, 60.0
FIRST_LOOK_S, MOST_LOOK_S = 1.0, 30.0  # until what others are at is looked at again
RATE_WINDOW_S, RATE_STEP_S = 30.0, 1.0


def order(count: int, seed: int | None) -> "array[int]":
    """The places 0..count-1 in the order they are visited.

    Without a seed that of the catalog, in which a job reads, too.  With a seed that is different on each node all of
    them begin elsewhere and seldom meet.
    """
    places = array("Q", range(count))
    if seed is not None:
        Random(seed).shuffle(places)
    return places


class Move(Enum):
    """What to do about the next run."""

    START = "start"
    WAIT = "wait"  # until a run of a warm has come to its end
    PAUSE = "pause"  # until `pause_until_s`


class Verdict(Enum):
    """What a pass over all segments has shown."""

    COMPLETE = "complete"
    AGAIN = "again"
    INCOMPLETE = "incomplete"


@dataclass
class Tally:
    """Bytes of one pass.

    `found`: missing when the segment was looked at; `left`: still missing when it was left; `lasting`: of those, what
    no further attempt would bring, for example of the object `example`.
    """

    found: int = 0
    left: int = 0
    lasting: int = 0
    example: str = ""


@dataclass
class Course:
    """What one warm does next, by what became of what it did.

    It ends by itself only when nothing more can come: a full directory and a silent origin pause it.  `progress_s`:
    when more was seen to be resident the last time, or when it began.
    """

    progress_s: float
    _pause: Pause = field(default_factory=lambda: Pause(FIRST_PAUSE_S, MOST_PAUSE_S))
    _look_s: float = 0.0
    _met_trouble: bool = False

    @property
    def trouble(self) -> str:
        """Why it pauses, or tries one run at a time; "" while all is well."""
        return self._pause.reason

    @property
    def pause_until_s(self) -> float:
        return self._pause.until_s

    def failed(self, reason: str, now_s: float) -> None:
        """The origin or the backing directory did not do what was asked of it."""
        self._met_trouble = True
        self._pause.fail(reason, now_s)

    def filled(self) -> None:
        """A run has been filled."""
        self._pause.succeed()

    def begin_pass(self) -> None:
        """All segments are about to be visited."""
        self._met_trouble = False

    def progressed(self, now_s: float) -> None:
        """More is resident than before, by whomever."""
        self.progress_s, self._look_s = now_s, 0.0

    def next_move(self, now_s: float, length: int, under_way: int, window: int, *, is_contended: bool) -> Move:
        """Whether a run of `length` bytes may start while runs of so many bytes are `under_way`.

        After trouble, and while readers or readahead ask the same origin (`is_contended`), one at a time.
        """
        if not self._pause.is_over(now_s):
            return Move.PAUSE
        most = 0 if self.trouble or is_contended else window
        return Move.START if not under_way or under_way + length <= most else Move.WAIT

    def after_pass(self, tally: Tally) -> tuple[Verdict, float]:
        """What follows a pass, and in how many seconds.

        Complete is only what a whole pass has found without having had to fetch anything.  A pass that met no trouble
        ends the one before, also when it had nothing to fill because others are at it.
        """
        if not self._met_trouble:
            self._pause.succeed()
        if not tally.found:
            return Verdict.COMPLETE, 0.0
        if not tally.left:
            return Verdict.AGAIN, 0.0
        if tally.left <= tally.lasting:
            return Verdict.INCOMPLETE, 0.0
        self._look_s = min(max(self._look_s * 2, FIRST_LOOK_S), MOST_LOOK_S)
        return Verdict.AGAIN, self._look_s


@dataclass
class Pace:
    """How fast a number of bytes grows: over the last RATE_WINDOW_S, so that a stop shows soon."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _last: int = 0

    def note(self, now_s: float, done: int) -> None:
        """There are `done` bytes now."""
        self._last = done
        if not self._samples or now_s - self._samples[-1][0] >= RATE_STEP_S:
            self._samples.append((now_s, done))

    def rate(self, now_s: float) -> float:
        """Bytes a second; 0 until it can be told."""
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= RATE_WINDOW_S:
            self._samples.popleft()
        if not self._samples or now_s - self._samples[0][0] < RATE_STEP_S:
            return 0.0
        began_s, began = self._samples[0]
        return max(0, self._last - began) / (now_s - began_s)

    def left_s(self, now_s: float, left: int) -> float | None:
        """In how many seconds `left` more bytes will be there at this rate; None if that cannot be told."""
        rate = self.rate(now_s)
        return left / rate if rate else None
