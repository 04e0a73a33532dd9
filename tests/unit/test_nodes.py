"""Who is alive, and who has what in use: judged by the server's clock, also when that is set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.nodes import (
    BEAT_S,
    FORGOTTEN_AFTER_S,
    LEASE_S,
    SILENT_AFTER_S,
    TOLERANCE_S,
    Life,
    Look,
    ServerClock,
    Sighting,
)
from dsfs.model.usage import Usage
from tests.rig.usages import told_at, usage_of, used

NOW_S = 1_800_000_000.0
HOUR_S = 3600.0
V1 = ("photos", "v1", "0123456789abcdef")


def ns(moment_s: float) -> int:
    return round(moment_s * 1e9)


def seen(node: str, ago_s: float, usage: Usage | None = None) -> Sighting:
    """A node that beat so long ago, and told its usage then."""
    beat_ns = ns(NOW_S - ago_s)
    return Sighting(node, beat_ns, told_at(usage or usage_of(node), beat_ns))


def look_at(*sightings: Sighting, step_s: float = 0) -> Look:
    return Look(ns(NOW_S), ns(step_s), sightings)


@pytest.mark.parametrize(
    ("ago_s", "step_s", "life"),
    [
        (0, 0, Life.ALIVE),
        (SILENT_AFTER_S, 0, Life.ALIVE),
        (SILENT_AFTER_S + 1, 0, Life.SILENT),
        (-TOLERANCE_S, 0, Life.ALIVE),  # the other controller's clock is ahead
        (-HOUR_S, 0, Life.SILENT),  # of before the clock was set back
        (HOUR_S + 1, HOUR_S, Life.ALIVE),  # of before it was set forward, a moment ago
        (1, HOUR_S, Life.ALIVE),  # and of after it
        (-HOUR_S + 1, -HOUR_S, Life.ALIVE),
        (HOUR_S + SILENT_AFTER_S + 1, HOUR_S, Life.SILENT),
        (2 * HOUR_S, HOUR_S, Life.SILENT),
    ],
)
def test_node_is_alive_while_its_heartbeat_is_recent(ago_s: float, step_s: float, life: Life) -> None:
    look = look_at(seen("a", ago_s), step_s=step_s)
    assert look.life(look.sightings[0]) is life
    assert look.alive == (life is Life.ALIVE)


def test_node_that_said_so_is_stopped() -> None:
    for ago_s in (0, HOUR_S):
        look = look_at(seen("a", ago_s, usage_of(is_stopped=True)))
        assert look.life(look.sightings[0]) is Life.STOPPED
        assert look.uses().versions == {}


def test_age_is_what_the_server_says_and_never_negative() -> None:
    look = look_at(seen("a", 7), seen("b", -3), seen("c", -HOUR_S), Sighting("d", None, None, "EACCES"))
    assert [look.age_s(sighting) for sighting in look.sightings] == [7, 0, None, None]


def test_versions_and_segments_are_in_use_by_those_who_have_them_open() -> None:
    look = look_at(
        seen("a", 1, usage_of("a", files=2, segments=("s1", "s2"))),
        seen("b", SILENT_AFTER_S + 1, usage_of("b", files=1, segments=("s2",))),  # it may still be reading
        seen("c", LEASE_S + 1, usage_of("c", segments=("s3",))),
        seen("d", 1, usage_of("d", files=0)),
    )
    uses = look.uses()
    assert uses.versions == {V1: {"a": used(2), "b": used(1)}}
    assert uses.speeds() == {V1: 2_000_000}
    assert uses.segments == {"s1": {"a"}, "s2": {"a", "b"}}
    assert uses.whole == set()
    assert uses.unknown == set()


def test_node_that_does_not_tell_may_have_anything_in_use() -> None:
    beat_ns = ns(NOW_S - 1)
    stale = told_at(usage_of("c", segments=("s3",)), ns(NOW_S - LEASE_S - 2))
    look = look_at(
        Sighting("a", None, None, "Permission denied"),
        Sighting("b", beat_ns, None, "no JSON object"),
        Sighting("c", beat_ns, stale),  # it beats, and cannot write
        seen("d", 1, usage_of("d", versions_left_out=1)),
        Sighting("e", ns(NOW_S - LEASE_S - 1), None, "no JSON object"),
    )
    uses = look.uses()
    assert uses.unknown == {"a", "b", "c", "d"}
    assert uses.segments.keys() == {"s3"}


def test_node_with_more_segments_open_than_it_tells_may_have_any_of_its_versions_open() -> None:
    uses = look_at(
        seen("a", 1, usage_of("a", segments=("s1",), segments_left_out=7)),
        seen("b", 1, usage_of("b", segments=("s2",))),
    ).uses()
    assert uses.unknown == set()
    other = ("photos", "v2", "0123456789abcdef")
    assert uses.is_open("s2", [other])
    assert uses.is_open("s3", [other, V1])
    assert not uses.is_open("s3", [other])


def test_nodes_are_forgotten_after_days_whether_they_said_so_or_not() -> None:
    look = look_at(
        seen("a", FORGOTTEN_AFTER_S - 1),
        seen("b", FORGOTTEN_AFTER_S + 1),
        seen("c", FORGOTTEN_AFTER_S + 1, usage_of(is_stopped=True)),
        seen("d", -2 * FORGOTTEN_AFTER_S),
        Sighting("e", None, None, "Permission denied"),
    )
    assert look.forgotten() == ["b", "c"]
    assert look_at(seen("b", FORGOTTEN_AFTER_S + 1), step_s=FORGOTTEN_AFTER_S).forgotten() == []


# -- the server's clock --------------------------------------------------------------------------------------


def test_clock_that_runs_is_no_step_however_long_an_answer_takes() -> None:
    clock = ServerClock()
    clock.note(0, 0.1, ns(NOW_S))
    clock.note(3, 63, ns(NOW_S + 60))  # answered at the end of a takeover
    clock.note(66, 66.1, ns(NOW_S + 66))
    clock.note(69, 69.1, ns(NOW_S + 69 + TOLERANCE_S / 2))  # the other controller
    assert clock.step_ns == 0


@pytest.mark.parametrize("step_s", [-HOUR_S, -2 * TOLERANCE_S, 2 * TOLERANCE_S, HOUR_S])
def test_step_is_known_until_all_who_live_have_beaten_since(step_s: float) -> None:
    clock = ServerClock()
    clock.note(0, 0, ns(NOW_S))
    clock.note(3, 3, ns(NOW_S + 3 + step_s))
    assert clock.step_ns == ns(step_s)
    clock.note(3 + LEASE_S, 3 + LEASE_S, ns(NOW_S + 3 + LEASE_S + step_s))
    assert clock.step_ns == ns(step_s)
    clock.note(6 + LEASE_S, 6 + LEASE_S, ns(NOW_S + 6 + LEASE_S + step_s))
    assert clock.step_ns == 0


@given(
    steps=st.lists(st.tuples(st.floats(10, 200), st.floats(-1e6, 1e6)), max_size=4),
    phase_s=st.floats(0, BEAT_S),
    died_after_s=st.floats(0, 900),
    looks=st.integers(1, 400),
)
def test_nobody_who_beats_is_silent_and_who_does_not_is_in_the_end(
    steps: list[tuple[float, float]], phase_s: float, died_after_s: float, looks: int
) -> None:
    """This node beats every BEAT_S and looks at its last beat; the other beats in between, until it dies.

    The server's clock is set now and then, at least three beats apart.
    """
    moments: list[tuple[float, float]] = []
    at_s = 0.0
    for pause_s, step_s in steps:
        at_s += pause_s
        moments.append((at_s, step_s))

    def server_ns(true_s: float) -> int:
        return ns(NOW_S + 2e7 + true_s + sum(step_s for moment_s, step_s in moments if moment_s <= true_s))

    clock = ServerClock()
    for number in range(looks):
        clock.note(number * BEAT_S, number * BEAT_S, server_ns(number * BEAT_S))
    now_s = (looks - 1) * BEAT_S
    beats = [phase_s + number * BEAT_S for number in range(looks) if phase_s + number * BEAT_S <= now_s]
    heard = [beat_s for beat_s in beats if beat_s <= died_after_s]
    if not heard:
        return
    sighting = Sighting("other", server_ns(heard[-1]), None)
    look = Look(server_ns(now_s), clock.step_ns, (sighting,))
    if heard == beats:
        assert look.life(sighting) is Life.ALIVE
    elif now_s - max([heard[-1], *(moment_s for moment_s, _ in moments)]) > LEASE_S + 2 * BEAT_S:
        beat_age_s = (server_ns(now_s) - server_ns(heard[-1])) / 1e9
        if abs(beat_age_s) > SILENT_AFTER_S:  # else it is as if the clock had been set back to when it was alive
            assert look.life(sighting) is Life.SILENT
