"""A pace that is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.pace import Pace


def begun_s(pace: Pace, pauses_s: list[float]) -> list[float]:
    """When each one begins that wants to so long after the one before."""
    now_s, found = 1000.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        now_s += pace.wait_s(now_s)
        found.append(now_s)
    return found


def test_a_burst_goes_at_once_and_the_rest_one_after_the_other() -> None:
    assert begun_s(Pace(10.0, 3), [0.0] * 6) == pytest.approx([1000, 1000, 1000, 1000.1, 1000.2, 1000.3])


def test_what_is_slower_than_the_pace_never_waits() -> None:
    pace = Pace(10.0, 1)
    assert [pace.wait_s(1000 + number / 5) for number in range(20)] == [0.0] * 20


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.floats(0.5, 1000), st.integers(1, 50))
def test_in_no_stretch_of_time_there_are_more(pauses_s: list[float], per_s: float, burst: int) -> None:
    begun = begun_s(Pace(per_s, burst), pauses_s)
    for first, first_s in enumerate(begun):
        for last in range(first + burst, len(begun)):
            assert last - first + 1 <= burst + (begun[last] - first_s) * per_s + 1e-6
