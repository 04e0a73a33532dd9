"""How much each version may hold: what nodes are told, and what one of them may fill of it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.nodes import Uses
from dsfs.model.share import (
    BELIEVED_S,
    MOST_VERSIONS,
    Fillings,
    Share,
    Shares,
    content_of,
    shares_in,
    shares_of,
)
from tests.rig.cached import key, version
from tests.rig.usages import used

A, B = key("a"), key("b")
NOBODY = Uses({}, {}, frozenset(), frozenset())


def share(allotted: int, held: int = 0, *, nodes: int = 1) -> Share:
    return Share(*A, allotted, held, nodes)


def test_versions_in_use_have_shares_for_as_many_nodes_as_use_them() -> None:
    uses = replace(NOBODY, versions={A: {"n1": used(), "n2": used()}})
    found = [replace(version(name, held), size_bytes=11) for name, held in (("a", 7), ("b", 3), ("c", 9), ("d", 8))]
    shares = shares_of(found, {A: 10, B: 5, key("d"): 11}, uses, 42)  # what may be there wholly needs none
    assert shares == Shares(42, (Share(*B, 5, 3, 1), Share(*A, 10, 7, 2)))
    assert shares_in(content_of(shares)) == shares


def test_of_too_many_those_with_the_least_left_are_told_and_can_be_read() -> None:
    names = [f"{number:04}" + "\udcff" * 250 for number in range(MOST_VERSIONS + 10)]
    versions = [replace(version(name, 1, number="\udcff" * 255), size_bytes=2**61) for name in names]
    allotted = {found.key: 2**60 - place for place, found in enumerate(versions)}
    shares = shares_of(versions, allotted, NOBODY, 1)
    assert {found.key for found in shares.versions} == {found.key for found in versions[10:]}
    assert shares_in(content_of(shares)) == shares


def test_shares_are_over_when_nobody_counts_anew() -> None:
    shares = Shares(10**18, ())
    assert not shares.are_over(10**18 + round(BELIEVED_S * 1e9))
    assert shares.are_over(10**18 + round(BELIEVED_S * 1e9) + 1)
    assert not shares.are_over(0)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", content_of(Shares(1, (share(1),)))[:50]])
def test_what_is_damaged_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever of it is wrong
        shares_in(content)


def test_version_without_a_share_has_no_limit() -> None:
    fillings = Fillings()
    assert fillings.has_room(A, 2**60)
    fillings.learn([share(0)], 0.0, 0.0)
    assert not fillings.has_room(A, 1)
    assert fillings.has_room(B, 2**60)
    fillings.learn([], 1.0, 1.0)
    assert fillings.has_room(A, 2**60)


def test_what_was_filled_since_it_was_counted_is_held() -> None:
    fillings = Fillings()
    fillings.note(A, 10)
    fillings.learn([], 0.0, 0.0)
    fillings.note(A, 20)
    fillings.learn([], 10.0, 10.0)
    fillings.note(A, 5)
    fillings.learn([share(100, held=50)], 12.0, 20.0)  # counted behind the look at 10 s: 5 of it are perhaps not in it
    assert fillings.share(A) == share(100, held=55)
    assert fillings.has_room(A, 45)
    assert not fillings.has_room(A, 46)
    fillings.note(A, 45)
    assert not fillings.has_room(A, 1)
    fillings.learn([share(100, held=50)], 12.0, 30.0)  # the same shares, at the next look
    assert fillings.share(A) == share(100, held=100)
    fillings.learn([share(100, held=90)], 31.0, 40.0)
    assert fillings.share(A) == share(100, held=90)


def test_count_from_before_this_node_began_has_nothing_of_it() -> None:
    fillings = Fillings()
    fillings.note(A, 30)
    fillings.learn([share(100, held=50)], -5.0, 1.0)
    assert fillings.share(A) == share(100, held=80)


@given(
    left=st.integers(-100, 10_000),
    nodes=st.integers(1, 9),
    runs=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 500)), max_size=200),
)
def test_nodes_that_fill_at_once_never_fill_more_than_is_left(
    left: int, nodes: int, runs: list[tuple[int, int]]
) -> None:
    told = [share(1000, held=1000 - left, nodes=nodes)]
    fillings = [Fillings() for _ in range(nodes)]
    for each in fillings:
        each.learn(told, 0.0, 0.0)
    filled = 0
    for node, size_bytes in runs:
        if node < nodes and fillings[node].has_room(A, size_bytes):
            fillings[node].note(A, size_bytes)
            filled += size_bytes
    assert filled <= max(0, left)
