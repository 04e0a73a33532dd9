"""Cuts of key ranges: always inside the range, whatever the keys; good where names count up."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dsfs.model.keyrange import KEY_MAX, cuts_ahead, cuts_towards, pages_left

keys = st.text(st.sampled_from("0159AZaz/-_.~é漢\U0001f600\ud7ff"), min_size=1, max_size=8)
counts = st.integers(0, 20)


def assert_cuts(cuts, last, end, count):
    assert len(cuts) <= count
    assert cuts == sorted(set(cuts))
    assert all(last < cut and (end is None or cut < end) for cut in cuts)
    assert all(len(cut.encode()) <= KEY_MAX for cut in cuts)  # and they are valid Unicode


@given(st.lists(keys, min_size=3, max_size=3, unique=True), st.booleans(), counts, st.sampled_from(["", "p/"]))
def test_cuts_ahead_lie_behind_the_page_within_the_range(drawn, is_open, count, prefix):
    first, last, end = (prefix + key for key in sorted(drawn))
    cuts = cuts_ahead(first, last, end=None if is_open else end, fixed=len(prefix), count=count)
    assert_cuts(cuts, last, None if is_open else end, count)
    assert all(cut.startswith(prefix) for cut in cuts)


@given(st.lists(keys, min_size=3, max_size=3, unique=True), counts)
def test_cuts_towards_a_known_key_lie_behind_the_page_within_the_range(drawn, count):
    last, end, beyond = sorted(drawn)
    assert_cuts(cuts_towards(last, end=end, beyond=beyond, count=count), last, end, count)


@given(st.lists(keys, min_size=3, max_size=3, unique=True))
def test_estimate_of_pages_left_is_never_negative(drawn):
    assert pages_left(*sorted(drawn)) >= 0


@settings(max_examples=30)
@given(keys, keys, counts)
def test_keys_of_the_greatest_length_are_cut_by_keys_no_longer(one, other, count):
    assume(one != other)
    stem = "x" * (KEY_MAX - 100)
    first, last = sorted(stem + "y" * (100 - len(key.encode())) + key for key in (one, other))
    assert_cuts(cuts_ahead(first, last, end=None, fixed=0, count=count), last, None, count)


def test_counter_between_known_keys_is_cut_into_like_parts():
    cuts = cuts_towards("v/img_000999", end="v/img_08", beyond="v/img_080000", count=3)
    places = [int(cut.removeprefix("v/img_").ljust(6, "0")) for cut in cuts]
    assert places == [20_000, 40_000, 60_000]


def test_counter_of_unknown_end_is_cut_near_and_far():
    cuts = cuts_ahead("v/img_000000", "v/img_000999", end=None, fixed=2, count=50)
    assert {"v/img_002", "v/img_01", "v/img_09", "v/img_5", "v/j"} <= set(cuts)


def test_directories_of_other_names_are_found_behind_the_present_one():
    cuts = cuts_ahead("v/alpha/0001", "v/alpha/0999", end=None, fixed=2, count=50)
    assert "v/alpha0" in cuts  # "0" follows "/": behind all that lies below v/alpha/
    assert any("v/b" <= cut < "v/z" for cut in cuts)


def test_pages_left_follow_from_how_far_the_newest_page_went():
    assert 6.5 < pages_left("v/img_002000", "v/img_003000", "v/img_010000") < 7.5
    assert pages_left("v/a/001", "v/a/002", "v/z/001") == float("inf")  # the page is too small a step to tell
