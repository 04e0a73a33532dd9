"""When a failed attempt is repeated, and how long a sick medium is left alone."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dsfs.model.retry import FIRST_DELAY_S, MAX_DELAY_S, Pause, retry_delay_s

jitters = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 10**9), jitters)
def test_delay_stays_within_its_bounds_whatever_the_attempt(attempt: int, jitter: float) -> None:
    assert FIRST_DELAY_S / 2 <= retry_delay_s(attempt, jitter) <= MAX_DELAY_S


@given(st.integers(1, 2_000), jitters)
def test_delay_never_shrinks_from_attempt_to_attempt(attempt: int, jitter: float) -> None:
    assert retry_delay_s(attempt, jitter) <= retry_delay_s(attempt + 1, jitter)


def test_delay_doubles_from_the_first_to_the_longest() -> None:
    delays = [retry_delay_s(attempt, 0) for attempt in range(1, 9)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])


@given(st.integers(1, 50), jitters)
def test_jitter_takes_off_up_to_half(attempt: int, jitter: float) -> None:
    whole = retry_delay_s(attempt, 0)
    assert whole / 2 <= retry_delay_s(attempt, jitter) <= whole


def test_pause_doubles_with_each_fault_after_it_up_to_its_longest() -> None:
    pause = Pause(first_s=10, max_s=60)
    now_s, lengths = 0.0, []
    for _ in range(5):
        pause.fail("no room", now_s)
        lengths.append(pause.until_s - now_s)
        now_s = pause.until_s
    assert lengths == [10, 20, 40, 60, 60]


def test_faults_of_the_same_moment_count_once() -> None:
    pause = Pause(first_s=10)
    for _ in range(8):  # as many fills as were under way
        pause.fail("no room", 100)
    assert pause.until_s == 110


def test_success_ends_the_pause_and_forgets_the_faults() -> None:
    pause = Pause(first_s=10)
    pause.fail("no room", 0)
    pause.fail("no room", 10)
    pause.succeed()
    assert pause.is_over(10)
    assert pause.reason == ""
    pause.fail("no room", 20)
    assert pause.until_s == 30


class PauseMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pause = Pause(first_s=10, max_s=100)
        self.now_s = 0.0
        self.last = ""

    @rule(seconds=st.floats(0, 500))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(reason=st.sampled_from(["no room", "not usable"]))
    def fail(self, reason: str) -> None:
        if self.pause.is_over(self.now_s):
            self.last = reason
        self.pause.fail(reason, self.now_s)
        assert not self.pause.is_over(self.now_s)

    @rule()
    def succeed(self) -> None:
        self.pause.succeed()
        self.last = ""

    @invariant()
    def reason_is_that_of_the_last_fault_that_counted(self) -> None:
        assert self.pause.reason == self.last
        assert self.pause.until_s <= self.now_s + 100
        assert self.pause.is_over(self.pause.until_s)


TestPause = PauseMachine.TestCase
TestPause.settings = settings(max_examples=30)
