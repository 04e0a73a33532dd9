"""How much counters have grown of late."""

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.recent import Recent


def test_first_look_sees_no_growth() -> None:
    assert Recent(60).note(5, (7, 9)) == (0, (0, 0))


def test_growth_is_that_since_the_newest_sample_that_is_old_enough() -> None:
    recent = Recent(10)
    for now_s in range(0, 30, 4):
        seconds, growth = recent.note(now_s, (now_s, 2 * now_s))
    assert (seconds, growth) == (12, (12, 24))


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=50))
def test_a_pause_is_looked_back_over_as_a_whole(pauses: list[float]) -> None:
    recent = Recent(10)
    now_s = 0.0
    recent.note(now_s, (0,))
    for pause_s in pauses:
        now_s += pause_s
        seconds, (growth,) = recent.note(now_s, (round(now_s * 1000),))
        assert seconds <= 10 + max(pauses) + 1e-6
        assert abs(growth - seconds * 1000) <= 1
    assert seconds >= min(10, now_s)
