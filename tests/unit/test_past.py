"""How old something is, whatever became of the server's clock and of mtimes."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.nodes import BEAT_S, MOST_STEPS, TOLERANCE_S, Look, ServerClock
from dsfs.model.past import Past

DAY_S = 86_400.0
NOW_NS = 1_764_156_000 * 10**9


class Server:
    """A file server whose clock is set now and then, and a node that asks it every BEAT_S and looks; `true_s` goes on
    as it should."""

    def __init__(self, true_s: float = 0.0) -> None:
        self.true_s = true_s
        self.ahead_ns = 0
        self.clock = ServerClock()
        self.past = Past(Look(0, 0, ()))
        self.ask()

    @property
    def now_ns(self) -> int:
        return NOW_NS + round(self.true_s * 1e9) + self.ahead_ns

    def ask(self) -> None:
        self.clock.note(self.true_s, self.true_s, self.now_ns)

    def wait(self, seconds: float) -> None:
        self.true_s += seconds
        self.ask()

    def set_clock(self, seconds: float) -> None:
        self.ahead_ns += round(seconds * 1e9)

    def ages_s(self, mtimes_ns: Iterable[int]) -> list[float]:
        self.past.note(Look(self.now_ns, self.clock.step_ns, (), self.clock.steps))
        return [(self.now_ns - self.past.time_ns("it", mtime_ns)) / 1e9 for mtime_ns in mtimes_ns]

    def age_s(self, mtime_ns: int) -> float:
        (age_s,) = self.ages_s([mtime_ns])
        return age_s


@pytest.mark.parametrize("days", [30, -30])
def test_nothing_is_older_or_younger_at_once_when_the_clock_is_set(days: int) -> None:
    server = Server()
    weeks = server.now_ns - round(50 * DAY_S * 1e9)
    server.set_clock(days * DAY_S)
    server.wait(BEAT_S)
    assert server.age_s(weeks) == pytest.approx(50 * DAY_S + BEAT_S)
    server.wait(DAY_S)
    assert server.age_s(weeks) == pytest.approx(51 * DAY_S + BEAT_S)
    server.set_clock(-days * DAY_S)  # as it was
    server.wait(BEAT_S)
    assert server.age_s(weeks) == pytest.approx(51 * DAY_S + 2 * BEAT_S)


def test_what_was_done_since_the_clock_was_set_is_as_old_as_it_says() -> None:
    server = Server()
    server.set_clock(-30 * DAY_S)
    mtime_ns = server.now_ns  # a moment before that was noticed
    server.wait(BEAT_S)
    assert server.age_s(mtime_ns) == pytest.approx(BEAT_S)
    server.set_clock(60 * DAY_S)
    mtime_ns = server.now_ns
    server.wait(BEAT_S)
    assert 0 <= server.age_s(mtime_ns) <= BEAT_S
    server.wait(DAY_S)
    assert server.age_s(mtime_ns) >= DAY_S


def test_what_lies_ahead_is_of_when_it_was_first_seen() -> None:
    server = Server()
    mtime_ns = server.now_ns + round(1000 * DAY_S * 1e9)
    for days in range(3):
        assert server.age_s(mtime_ns) == pytest.approx(days * DAY_S)
        server.wait(DAY_S)
    assert server.age_s(mtime_ns + 1) == 0  # it was done again
    server.set_clock(30 * DAY_S)
    server.wait(BEAT_S)
    assert server.age_s(mtime_ns + 1) == pytest.approx(BEAT_S)


def test_steps_of_long_ago_are_forgotten() -> None:
    server = Server()
    for _ in range(2 * MOST_STEPS):
        server.set_clock(DAY_S)
        server.wait(BEAT_S)
    assert len(server.clock.steps) == MOST_STEPS


@given(
    steps=st.lists(st.tuples(st.integers(0, 200), st.floats(-1e6, 1e6)), max_size=MOST_STEPS),
    after=st.integers(0, 200),
)
def test_nothing_is_ever_older_than_it_is_and_of_a_clock_that_goes_ahead_nothing_is_younger(
    steps: list[tuple[int, float]], after: int
) -> None:
    """Something is done all the time; a few seconds of each step may go unnoticed, and what is done before a step was
    noticed may be younger."""
    server = Server()
    done: list[tuple[float, int, bool]] = []

    def go_on(beats: int) -> None:
        for _ in range(beats):
            server.wait(BEAT_S)
            done.append((server.true_s, server.now_ns, True))

    for beats, step_s in steps:
        go_on(beats)
        server.set_clock(step_s)
        done.append((server.true_s, server.now_ns, False))
    go_on(after + 1)
    slack_s = (TOLERANCE_S + BEAT_S) * (len(steps) + 1)
    is_ahead = all(step_s > 0 for _, step_s in steps)
    ages_s = server.ages_s(mtime_ns for _, mtime_ns, _ in done)
    for (true_s, _, is_noticed), age_s in zip(done, ages_s, strict=True):
        assert 0 <= age_s <= server.true_s - true_s + slack_s
        if is_ahead and is_noticed:
            assert age_s >= server.true_s - true_s - slack_s
