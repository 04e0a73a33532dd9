"""What leaves the cache: each rule of the README, in the order in which they count."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from dsfs.model.allotment import allotments
from dsfs.model.eviction import Rule, Verdict, judge
from dsfs.model.retention import ACTIVE_S, NOTHING, Amount, CachedSegment, CachedVersion, Capacity, Retention
from tests.rig.cached import DAY_S, FOR_EVER_NS, HOUR_S, NOW_NS, WEEK, Segments, ago, key, room, single_bytes, version


def judged(
    versions: Sequence[CachedVersion],
    there: Capacity,
    *,
    segments: Segments | None = None,
    retention: Retention = WEEK,
    need: Amount = NOTHING,
    unknown: frozenset[str] = frozenset(),
) -> list[Verdict]:
    of = segments or single_bytes(versions)
    allotted = allotments(versions, there, lambda _: retention, NOW_NS)
    return list(judge(versions, of, there, lambda _: retention, allotted, NOW_NS, need=need, unknown=unknown))


def leaving(verdicts: list[Verdict]) -> list[tuple[str, str, Rule, int]]:
    return [(v.key[0], v.key[1], v.rule, v.amount.size_bytes) for v in verdicts if v.segments]


def staying(verdicts: list[Verdict]) -> dict[str, Rule]:
    return {v.key[0]: v.rule for v in verdicts if not v.segments}


def test_stale_versions_leave_also_where_there_is_room_and_the_newest_stays() -> None:
    versions = [
        version("a", 5, number="v1", idle_s=20 * DAY_S, newer=1),
        version("a", 5, number="v2", idle_s=30 * DAY_S),
        version("b", 5, number="v1", idle_s=30 * DAY_S, uses=9, newer=1),
        version("b", 5, number="v2", idle_s=DAY_S),
        version("c", 5, number="v1", idle_s=6 * DAY_S, newer=1),
    ]
    verdicts = judged(versions, room(1000, 25))
    assert leaving(verdicts) == [("b", "v1", Rule.STALE, 5), ("a", "v1", Rule.STALE, 5)]
    assert staying(verdicts) == {"a": Rule.NEWEST, "b": Rule.ROOM, "c": Rule.ROOM}


def test_older_generation_leaves_once_nobody_uses_it() -> None:
    versions = [
        version("a", 5, is_current=False),
        version("b", 5, is_current=False, users=["n1"]),
        version("c", 5, is_current=False, idle_s=ACTIVE_S - 1),
    ]
    verdicts = judged(versions, room(1000, 15))
    assert leaving(verdicts) == [("a", "v1", Rule.SUPERSEDED, 5)]
    assert staying(verdicts) == {"b": Rule.IN_USE, "c": Rule.IN_USE}


def test_above_the_high_watermark_what_is_used_least_leaves_down_to_the_low_one() -> None:
    versions = [
        version("a", 30, idle_s=2 * HOUR_S, newer=1),
        version("b", 30, idle_s=4 * HOUR_S, newer=1),
        version("c", 31, idle_s=3 * HOUR_S, newer=1),
    ]
    assert leaving(judged(versions, room(100, 90))) == []
    assert leaving(judged(versions, room(100, 91))) == [("b", "v1", Rule.LEAST_USED, 11)]
    assert leaving(judged(versions, room(50, 91))) == [
        ("b", "v1", Rule.LEAST_USED, 30),
        ("c", "v1", Rule.LEAST_USED, 21),
    ]


def test_version_that_was_used_often_stays_longer() -> None:
    versions = [
        version("often", 50, idle_s=5 * DAY_S, uses=2, newer=1),
        version("once", 50, idle_s=3 * DAY_S, newer=1),
    ]
    assert leaving(judged(versions, room(100, 100))) == [("once", "v1", Rule.LEAST_USED, 20)]


def test_newest_and_what_is_worked_with_leave_last_and_only_down_to_the_high_watermark() -> None:
    versions = [
        version("newest", 40, idle_s=6 * DAY_S),
        version("worked", 40, idle_s=HOUR_S, uses=2, newer=1),
        version("other", 20, idle_s=HOUR_S, newer=1),
    ]
    assert leaving(judged(versions, room(100, 100))) == [("other", "v1", Rule.LEAST_USED, 20)]
    assert leaving(judged(versions[:2], room(80, 80))) == [("newest", "v1", Rule.LEAST_USED, 8)]
    assert leaving(judged(versions[:2], room(40, 80))) == [
        ("newest", "v1", Rule.LEAST_USED, 40),
        ("worked", "v1", Rule.LEAST_USED, 4),
    ]


def test_stale_newest_leaves_before_others_where_there_is_no_room() -> None:
    versions = [version("stale", 50, idle_s=8 * DAY_S), version("other", 50, newer=1)]
    assert leaving(judged(versions, room(100, 100))) == [("stale", "v1", Rule.LEAST_USED, 20)]


def test_version_alone_in_use_is_never_evicted_for_its_own_sake() -> None:
    versions = [version("job", 100, size=125, users=["n1"], is_reused=True)]
    verdicts = judged(versions, room(100, 100))
    assert leaving(verdicts) == []
    assert verdicts == [Verdict(key("job"), Rule.IN_USE, Amount(100, 200), nodes=("n1",), since_ns=ago(HOUR_S))]


def test_version_in_use_gives_up_what_it_holds_beyond_its_share() -> None:
    versions = [
        version("first", 100, size=125, users=["n1"], is_reused=True),
        version("second", 0, size=125, users=["n2"], is_reused=True),
    ]
    assert leaving(judged(versions, room(100, 100))) == [("first", "v1", Rule.FAIR_SHARE, 10)]
    wanted = judged(versions, room(100, 100), need=Amount(1000))
    assert leaving(wanted) == [("first", "v1", Rule.FAIR_SHARE, 50)]


def test_scan_costs_a_job_its_probation_only() -> None:
    versions = [
        version("job", 100, size=125, users=["n1"], is_reused=True),
        version("scan", 0, size=1000, users=["n2"]),
    ]
    assert leaving(judged(versions, room(100, 100), need=Amount(1000))) == [("job", "v1", Rule.FAIR_SHARE, 3)]


def test_dataset_beyond_its_share_makes_room_by_itself() -> None:
    retention = replace(WEEK, most_bytes=40)
    versions = [
        version("a", 30, number="v1", idle_s=HOUR_S, newer=1),
        version("a", 30, number="v2", idle_s=2 * HOUR_S),
        version("b", 20, idle_s=3 * HOUR_S),
    ]
    verdicts = judged(versions, room(1000, 80), retention=retention)
    assert leaving(verdicts) == [("a", "v1", Rule.MAX_SHARE, 20)]
    verdicts = judged([*versions[1:], version("a", 30, number="v1", users=["n1"])], room(1000, 80), retention=retention)
    assert leaving(verdicts) == [("a", "v2", Rule.MAX_SHARE, 20)]


def test_what_generations_share_counts_once_in_what_a_dataset_holds() -> None:
    current = version("a", 30)
    old = replace(version("a", 30, users=["n1"], is_current=False), key=("a", "v1", "before"))
    older = replace(old, key=("a", "v1", "early"))
    keys = {current.key, old.key, older.key}

    def held(key: tuple[str, str, str]) -> list[CachedSegment]:
        others = tuple(sorted(keys - {key}))
        shared = [CachedSegment(f"{place:02}", 1, 2, ago(0), is_open=False, others=others) for place in range(25)]
        return [*shared, *(CachedSegment(f"{key[2]}{place}", 1, 2, ago(0), is_open=False) for place in range(5))]

    segments = Segments({key: held(key) for key in keys})
    versions = [current, old, older]  # 40 bytes
    retention = replace(WEEK, most_bytes=40)
    assert leaving(judged(versions, room(1000, 40), segments=segments, retention=retention)) == []
    retention = replace(WEEK, most_bytes=38)
    verdicts = judged(versions, room(1000, 40), segments=segments, retention=retention)
    assert leaving(verdicts) == [("a", "v1", Rule.MAX_SHARE, 2)]


def test_pinned_version_stays_until_its_time_is_over() -> None:
    pinned = version("a", 100, idle_s=30 * DAY_S, newer=1, pinned_until_ns=NOW_NS + 1)
    verdicts = judged([pinned], room(100, 100), need=Amount(100))
    assert [(v.rule, v.until_ns) for v in verdicts] == [(Rule.PINNED, NOW_NS + 1)]
    assert leaving(judged([replace(pinned, pinned_until_ns=NOW_NS)], room(1000, 100))) == [("a", "v1", Rule.STALE, 100)]
    assert staying(judged([replace(pinned, pinned_until_ns=FOR_EVER_NS)], room(100, 100))) == {"a": Rule.PINNED}


def test_nothing_leaves_while_nodes_may_use_anything() -> None:
    versions = [
        version("a", 100, idle_s=30 * DAY_S, newer=1),
        version("b", 1, pinned_until_ns=FOR_EVER_NS),
    ]
    verdicts = judged(versions, room(100, 101), unknown=frozenset({"n2", "n1"}))
    assert staying(verdicts) == {"a": Rule.UNKNOWN_NODES, "b": Rule.PINNED}
    assert verdicts[0].nodes == ("n1", "n2")


def test_what_is_needed_gets_room_below_the_high_watermark() -> None:
    versions = [version("a", 50, newer=1)]
    assert leaving(judged(versions, room(100, 50), need=Amount(40))) == []
    assert leaving(judged(versions, room(100, 50), need=Amount(45))) == [("a", "v1", Rule.LEAST_USED, 5)]


def test_what_was_taken_away_before_counts_as_gone() -> None:
    assert leaving(judged([version("a", 85, newer=1)], room(100, 105, leaving=20))) == []
    low = room(100, 50, leaving=20, free=Amount(10, 100), floor=Amount(30, 100))
    assert leaving(judged([version("a", 30, newer=1)], low)) == []


@pytest.mark.parametrize(
    ("free", "floor", "gone"),
    [
        (Amount(10, 100), Amount(10, 100), 0),
        (Amount(10, 100), Amount(14, 100), 4),
        (Amount(10, 100), Amount(10, 107), 4),  # two inodes each
    ],
)
def test_free_space_and_inodes_are_brought_back_to_the_floor(free: Amount, floor: Amount, gone: int) -> None:
    verdicts = judged([version("a", 20)], room(100, 20, free=free, floor=floor))
    assert [size for *_, size in leaving(verdicts)] == [gone] * bool(gone)


def test_segments_that_are_open_or_belong_to_others_that_stay_are_left() -> None:
    stale = version("stale", 3, idle_s=30 * DAY_S, newer=1)
    fresh = version("fresh", 1)
    shared = CachedSegment("shared", 1, 2, ago(0), is_open=False, others=(fresh.key,))
    segments = Segments(
        {
            stale.key: [
                shared,
                CachedSegment("open", 1, 2, ago(0), is_open=True),
                CachedSegment("own", 1, 2, ago(0), is_open=False),
            ],
            fresh.key: [shared._replace(others=(stale.key,))],
        }
    )
    verdicts = judged([stale, fresh], room(1000, 3), segments=segments)
    assert [v.segments for v in verdicts] == [("own",), (), ()]
    assert staying(verdicts) == {"stale": Rule.SHARED, "fresh": Rule.ROOM}


def test_shared_segment_leaves_with_the_last_of_its_versions() -> None:
    first, last = version("a", 1, idle_s=40 * DAY_S, newer=1), version("b", 1, idle_s=30 * DAY_S, newer=1)
    segment = CachedSegment("shared", 1, 2, ago(0), is_open=False, others=(last.key,))
    segments = Segments({first.key: [segment], last.key: [segment._replace(others=(first.key,))]})
    verdicts = judged([first, last], room(1000, 1), segments=segments)
    assert leaving(verdicts) == [("b", "v1", Rule.STALE, 1)]


def test_of_one_version_old_segments_leave_first_and_else_any_order_that_is_always_the_same() -> None:
    only = version("a", 3, newer=1)
    ages = {"zz": 3 * DAY_S, "b": 60.0, "a": 30.0}
    found = [CachedSegment(name, 1, 2, ago(idle_s), is_open=False) for name, idle_s in ages.items()]
    verdicts = judged([only], room(3, 3), segments=Segments({only.key: found}), need=Amount(1))
    assert verdicts[0].segments == ("zz", "a")


def test_segments_are_looked_at_for_versions_that_are_chosen_only() -> None:
    versions = [version(f"d{i:05}", 1, idle_s=HOUR_S + i, newer=1) for i in range(10_000)]
    segments = single_bytes(versions)
    verdicts = judged(versions, room(10_500, 10_000), segments=segments)
    assert segments.asked == [key(f"d{i:05}") for i in range(9_999, 8_399, -1)]
    assert len(verdicts) == 10_000
