"""Until when it is known what nodes have open."""

from dsfs.model.nodes import BEAT_S, LEASE_S, Look, Sighting
from dsfs.model.told import Told
from tests.rig.usages import usage_of

SECOND_NS = 10**9
BEAT_NS = round(BEAT_S * 1e9)
START_NS = 1000 * SECOND_NS


def look_at(now_ns: int, *beats_ns: int | None, is_stopped: bool = False) -> Look:
    return Look(
        now_ns, 0, tuple(Sighting(str(i), beat, usage_of(is_stopped=is_stopped)) for i, beat in enumerate(beats_ns))
    )


def test_a_beat_tells_of_the_one_before() -> None:
    told = Told()
    for beats in range(4):
        look = look_at(START_NS + beats * BEAT_NS, START_NS + beats * BEAT_NS)
        told.note(look)
        assert told.is_complete(look, START_NS) == (beats >= 2)
    assert not told.is_complete(look, START_NS + BEAT_NS + 1)


def test_a_node_that_does_not_beat_is_waited_for_until_its_lease_is_over() -> None:
    told = Told()
    for beats in range(3):
        told.note(look_at(START_NS + beats * BEAT_NS, START_NS + beats * BEAT_NS, START_NS))
    beat_ns = START_NS + 2 * BEAT_NS
    assert not told.is_complete(look_at(beat_ns, beat_ns, START_NS), START_NS)
    late_ns = START_NS + round(LEASE_S * 1e9) + 1
    told.note(look_at(late_ns, late_ns, START_NS))
    assert told.is_complete(look_at(late_ns, late_ns, START_NS), START_NS)


def test_a_node_that_cannot_be_seen_may_have_anything_open_and_one_that_has_stopped_nothing() -> None:
    told = Told()
    assert not told.is_complete(look_at(START_NS, None), START_NS - 10 * BEAT_NS)
    assert told.is_complete(look_at(START_NS, START_NS, is_stopped=True), START_NS)
    assert told.is_complete(look_at(START_NS), START_NS)


def test_what_was_told_by_a_clock_that_was_set_back_since_is_not_known() -> None:
    told = Told()
    hour_ns = 3600 * SECOND_NS
    for beats in range(3):
        told.note(look_at(START_NS + hour_ns + beats * BEAT_NS, START_NS + hour_ns + beats * BEAT_NS))
    for beats in range(4):
        look = look_at(START_NS + beats * BEAT_NS, START_NS + beats * BEAT_NS)
        told.note(look)
        assert told.is_complete(look, START_NS) == (beats >= 2)
