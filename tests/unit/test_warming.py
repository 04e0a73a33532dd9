"""What a warm does next, and what it says of its speed."""

import pytest

from dsfs.model import warming
from dsfs.model.request import MAX_BYTES, WarmRequest, decode
from dsfs.model.warming import Course, Move, Pace, Tally, Verdict, order

MIB = 1024 * 1024
WINDOW = 64 * MIB


def move(course: Course, now_s: float, under_way: int, *, is_contended: bool = False) -> Move:
    return course.next_move(now_s, 4 * MIB, under_way, WINDOW, is_contended=is_contended)


# -- order ---------------------------------------------------------------------------------------------------


def test_one_node_goes_in_the_order_of_the_catalog() -> None:
    assert list(order(5, None)) == [0, 1, 2, 3, 4]


def test_nodes_go_each_in_an_order_of_its_own_and_miss_nothing() -> None:
    orders = [list(order(1000, seed)) for seed in range(3)]
    assert all(sorted(places) == list(range(1000)) for places in orders)
    assert len({tuple(places) for places in orders}) == 3
    assert orders[0] == list(order(1000, 0))
    # Two that go at the same speed meet where one has been: half of all is done twice as fast.
    first, second = (set(places[:500]) for places in orders[:2])
    assert 200 < len(first & second) < 300


# -- how much at once, and when not --------------------------------------------------------------------------


def test_runs_start_as_long_as_the_window_has_room() -> None:
    course = Course(0)
    assert move(course, 0, 0) is Move.START
    assert move(course, 0, WINDOW - 4 * MIB) is Move.START
    assert move(course, 0, WINDOW - 4 * MIB + 1) is Move.WAIT


def test_run_that_is_larger_than_the_window_may_start_alone() -> None:
    assert Course(0).next_move(0, 4 * MIB, 0, MIB, is_contended=False) is Move.START


def test_one_run_at_a_time_while_readers_ask_the_origin() -> None:
    course = Course(0)
    assert move(course, 0, 0, is_contended=True) is Move.START
    assert move(course, 0, 1, is_contended=True) is Move.WAIT


def test_trouble_pauses_ever_longer_and_then_one_run_tries() -> None:
    course = Course(0)
    now_s, pauses = 0.0, []
    for _ in range(9):
        course.failed("no room", now_s)
        assert course.trouble == "no room"
        assert move(course, now_s, 0) is Move.PAUSE
        pauses.append(course.pause_until_s - now_s)
        now_s = course.pause_until_s
        assert move(course, now_s, 0) is Move.START
        assert move(course, now_s, 1) is Move.WAIT
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (1.0, warming.MOST_PAUSE_S)
    course.filled()
    assert not course.trouble
    assert move(course, now_s, 1) is Move.START


def test_trouble_ends_with_a_pass_that_met_none_though_nothing_was_filled() -> None:
    course = Course(0)
    for _ in range(2):
        course.begin_pass()
        course.failed("no room", course.pause_until_s)
        course.after_pass(Tally(found=1, left=1))
        assert course.trouble == "no room"
    course.begin_pass()
    course.after_pass(Tally(found=1, left=1))
    assert not course.trouble
    assert move(course, 0, 1) is Move.START


# -- after a pass --------------------------------------------------------------------------------------------


def test_complete_is_only_what_a_pass_found_without_fetching() -> None:
    course = Course(0)
    assert course.after_pass(Tally(found=10)) == (Verdict.AGAIN, 0.0)  # all was brought: the next pass checks it
    assert course.after_pass(Tally()) == (Verdict.COMPLETE, 0.0)


def test_what_has_drifted_ends_a_warm_when_nothing_else_is_missing() -> None:
    course = Course(0)
    assert course.after_pass(Tally(found=10, left=4, lasting=3))[0] is Verdict.AGAIN
    assert course.after_pass(Tally(found=4, left=3, lasting=3))[0] is Verdict.INCOMPLETE


def test_what_others_are_at_is_looked_at_again_ever_later_until_more_has_come() -> None:
    course = Course(0)
    delays = [course.after_pass(Tally(found=1, left=1))[1] for _ in range(8)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (1.0, warming.MOST_LOOK_S)
    course.progressed(5.0)
    assert course.after_pass(Tally(found=1, left=1)) == (Verdict.AGAIN, 1.0)
    assert course.progress_s == 5.0


# -- speed ---------------------------------------------------------------------------------------------------


def test_rate_and_time_left_of_a_steady_growth() -> None:
    pace = Pace()
    for tenth in range(101):
        pace.note(tenth / 10, tenth * MIB)
    assert pace.rate(10.0) == pytest.approx(10 * MIB)
    assert pace.left_s(10.0, 100 * MIB) == pytest.approx(10.0)


def test_rate_is_not_told_too_early_and_nothing_is_said_of_the_time_left_of_what_stands_still() -> None:
    pace = Pace()
    assert pace.rate(0.0) == 0
    pace.note(0.0, 0)
    pace.note(0.5, MIB)
    assert pace.left_s(0.5, MIB) is None
    pace.note(1.0, 2 * MIB)
    assert pace.left_s(1.0, 2 * MIB) == pytest.approx(1.0)
    pace.note(1.0 + warming.RATE_WINDOW_S, 2 * MIB)
    assert pace.rate(1.0 + 2 * warming.RATE_WINDOW_S) == 0
    assert pace.left_s(1.0 + 2 * warming.RATE_WINDOW_S, 1) is None


def test_samples_are_bounded() -> None:
    pace = Pace()
    for tick in range(100_000):
        pace.note(tick / 100, tick)
        pace.rate(tick / 100)
    assert len(pace._samples) <= warming.RATE_WINDOW_S + 2


# -- requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "train/**/*.jpg", "ä/*"])
def test_request_is_what_was_written(path: str | None) -> None:
    request = WarmRequest("photos", "v1", path)
    assert decode(request.encode()) == request


def test_requests_have_different_ids_exactly_if_they_are_for_different_files() -> None:
    requests = [WarmRequest("a", "b"), WarmRequest("a", "b", "c"), WarmRequest("ab", "c"), WarmRequest("a", "bc")]
    assert len({request.id for request in requests}) == 4
    assert WarmRequest("a", "b").id == requests[0].id


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"nonsense", b'"text"',
        b'{"format": 2, "do": "warm", "dataset": "a", "version": "b", "path": null}',
        b'{"format": 1, "do": "evict", "dataset": "a", "version": "b", "path": null}',
        b'{"format": 1, "do": "warm", "dataset": "a", "path": null}',
        b'{"format": 1, "do": "warm", "dataset": "a", "version": "b", "path": "../x"}',
        b'{"format": 1, "do": "warm", "dataset": "a", "version": "b", "path": 7}',
        WarmRequest("a", "b").encode() + b" " * MAX_BYTES,
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"request|names no version|no pattern|Expecting value"):
        decode(content)
