"""Health of a medium: what makes it unstable, down, and ok again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.health import DOWN_S, Condition, Health

LATE_S = 5.0


@pytest.fixture
def health() -> Health:
    return Health(LATE_S)


def test_medium_is_ok_until_something_is_late(health: Health) -> None:
    assert health.condition(1_000.0) is Condition.OK
    assert not health.is_late(10.0, 10.0 + LATE_S)
    assert health.is_late(10.0, 10.1 + LATE_S)


def test_medium_is_unstable_from_when_the_late_operation_began_and_down_after_a_while(health: Health) -> None:
    assert health.late(10.0)
    assert health.condition(10.0 + LATE_S) is Condition.UNSTABLE
    assert health.condition(9.9 + DOWN_S) is Condition.UNSTABLE
    assert health.condition(10.0 + DOWN_S) is Condition.DOWN


def test_only_the_first_late_operation_is_news(health: Health) -> None:
    assert health.late(10.0)
    assert not health.late(12.0)
    assert health.since_s == 10.0


def test_silence_began_with_the_earliest_late_operation(health: Health) -> None:
    health.late(10.0)
    health.late(7.0)
    assert health.since_s == 7.0


def test_probe_that_is_answered_soon_makes_it_ok(health: Health) -> None:
    health.late(10.0)
    assert health.probed(20.0, 20.0 + LATE_S)
    assert health.condition(30.0) is Condition.OK


def test_probe_that_was_late_itself_proves_nothing(health: Health) -> None:
    health.late(10.0)
    assert not health.probed(10.0, 60.0)
    assert health.condition(60.0) is Condition.UNSTABLE


def test_probe_of_a_medium_that_is_ok_is_no_news(health: Health) -> None:
    assert not health.probed(1.0, 1.1)
    assert health.condition(2.0) is Condition.OK


times = st.floats(0, 1_000, allow_nan=False)


@given(steps=st.lists(st.tuples(st.booleans(), times, times)))
def test_condition_follows_from_what_was_seen_last(steps: list[tuple[bool, float, float]]) -> None:
    """Whatever is seen, in whatever order: not ok exactly from a late operation to a probe that was answered soon."""
    health, late_since = Health(LATE_S), list[float]()
    for is_probe, began_s, took_s in steps:
        if is_probe and took_s <= LATE_S:
            assert health.probed(began_s, began_s + took_s) == bool(late_since)
            late_since.clear()
        elif is_probe:
            assert not health.probed(began_s, began_s + took_s)
        else:
            assert health.late(began_s) == (not late_since)
            late_since.append(began_s)
        assert health.since_s == min(late_since, default=None)
