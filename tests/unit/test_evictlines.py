"""What `dsfs evict` shows, of answers as a daemon gives them."""

from typing import Any

import pytest

from dsfs.admin.render import Page
from dsfs.model.eviction import Rule

GIB = 2**30
NOW_S = 1_800_000_000.0


def verdict(rule: Rule, size_bytes: int, version: str = "v1", **more: Any) -> dict[str, Any]:
    return {
        "dataset": "speech", "version": version, "generation": "0123456789abcdef", "rule": rule.name.lower(),
        "why": rule.value, "bytes": size_bytes, "inodes": 4, "last_used_ago_s": 9 * 86_400.0,
        "is_current": rule is not Rule.SUPERSEDED, **more,
    }  # fmt: skip


def leaving(rule: Rule, size_bytes: int, version: str = "v1") -> dict[str, Any]:
    return verdict(rule, size_bytes, version, segments=1200)


def staying(rule: Rule, size_bytes: int, version: str = "v1", **more: Any) -> dict[str, Any]:
    return verdict(rule, size_bytes, version, **{"nodes": [], "in_use_for_s": None, "pinned_until_s": None, **more})


def answer_of(**more: Any) -> dict[str, Any]:
    return {
        "limit_bytes": 100 * GIB, "high_bytes": 90 * GIB, "low_bytes": 80 * GIB, "used_bytes": 95 * GIB,
        "granted_bytes": 0, "leaving_bytes": 0, "wanted_bytes": 0, "missing_bytes": 0, "missing_inodes": 0,
        "grace_s": 600.0, "leaves": [], "stays": [], **more,
    }  # fmt: skip


def page_of(answer: dict[str, Any], *, is_done: bool = False) -> list[str]:
    return Page(NOW_S).eviction(answer, is_done=is_done).splitlines()


def test_what_would_leave_comes_first_in_its_order() -> None:
    lines = page_of(
        answer_of(
            wanted_bytes=5 * GIB,
            leaving_bytes=2 * GIB,
            leaves=[leaving(Rule.STALE, 3 * GIB), leaving(Rule.SUPERSEDED, GIB, "v2")],
            stays=[staying(Rule.PINNED, 9 * GIB, "v3")],
        )
    )
    assert lines[:3] == [
        "used        95.0 GiB of 100 GiB (95.0 %), 2.00 GiB of that leaving",
        "watermarks  90.0 GiB and 80.0 GiB",
        "wanted      5.00 GiB more",
    ]
    assert lines[5].split() == ["1", "speech/v1", "3.00", "GiB", "1,200", "9d", "ago", "stale"]
    assert "speech/v2 (generation 0123456789ab)" in lines[6]
    assert lines[-3].split() == ["speech/v3", "9.00", "GiB", "9d", "ago", "pinned"]
    assert lines[-1] == "4.00 GiB would leave: hidden at once, deleted after 10m at the earliest."


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        (staying(Rule.IN_USE, GIB, nodes=["gpu1", "gpu2"], in_use_for_s=7200.0), "in use by gpu1, gpu2 since 2h"),
        (staying(Rule.IN_USE, GIB), "in use"),
        (staying(Rule.PINNED, GIB, pinned_until_s=NOW_S), "pinned until 2027-01-15"),
        (staying(Rule.PINNED, GIB), "pinned"),
        (staying(Rule.UNKNOWN_NODES, GIB, nodes=["gpu3"]), "nodes of which it is unknown may use it (gpu3)"),
        (staying(Rule.NEWEST, GIB), "the newest of its dataset"),
    ],
)
def test_why_something_stays(found: dict[str, Any], shown: str) -> None:
    row = page_of(answer_of(stays=[found]))[4]
    assert row.partition("ago  ")[2].startswith(shown)


def test_generation_that_is_not_the_current_one_is_told_from_that() -> None:
    lines = page_of(answer_of(stays=[staying(Rule.IN_USE, GIB), staying(Rule.IN_USE, GIB, is_current=False)]))
    assert [line.split("  ")[0] for line in lines[4:6]] == ["speech/v1", "speech/v1 (generation 0123456789ab)"]


def test_what_was_done_and_what_cannot_be_had_is_said() -> None:
    answer = answer_of(
        wanted_bytes=3 * GIB, leaves=[leaving(Rule.LEAST_USED, GIB)], missing_bytes=2 * GIB, missing_inodes=7,
        stays=[staying(Rule.PINNED, GIB)],
    )  # fmt: skip
    assert page_of(answer, is_done=True)[-3:] == [
        "1.00 GiB are hidden, and will be deleted once 10m are over and nobody has them open.",
        "2.00 GiB of what is wanted cannot be had: the rest stays for the reasons above.",
        "7 inodes are wanted and cannot be had.",
    ]


def test_no_more_is_said_to_be_missing_of_what_is_wanted_than_that() -> None:
    """Above the high watermark more than that is missing."""
    lines = page_of(answer_of(wanted_bytes=3 * GIB, missing_bytes=5 * GIB, stays=[staying(Rule.PINNED, GIB)]))
    assert lines[-1] == "3.00 GiB of what is wanted cannot be had: the rest stays for the reasons above."


def test_what_nodes_were_granted_is_told_beside_what_is_used() -> None:
    lines = page_of(answer_of(used_bytes=50 * GIB, granted_bytes=GIB))
    assert lines[:2] == [
        "used        50.0 GiB of 100 GiB (50.0 %)",
        "granted     1.00 GiB to nodes that fill, which counts as used",
    ]


def test_where_nothing_was_asked_for_there_may_be_too_much_all_the_same() -> None:
    answer = answer_of(used_bytes=250 * GIB, missing_bytes=160 * GIB)
    lines = page_of(answer)
    assert lines[0] == "used        250 GiB of 100 GiB (above the limit)"
    assert lines[-1] == "160 GiB too much stays, and belongs to no version (catalogs, what nodes tell)."
    lines = page_of({**answer, "stays": [staying(Rule.PINNED, GIB)]})
    assert lines[-1] == "160 GiB too much stays, for the reasons above."


@pytest.mark.parametrize(("is_done", "said"), [(True, "Nothing leaves."), (False, "Nothing would leave.")])
def test_nothing_leaves(is_done: bool, said: str) -> None:
    assert page_of(answer_of(), is_done=is_done)[-1] == said
