"""Who may have how much of the cache, and what may be filled."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.allotment import PROBATION, allotments, foreseen
from dsfs.model.retention import Amount, CachedVersion, Retention
from tests.rig.cached import DAY_S, FOR_EVER_NS, NOW_NS, WEEK, room, version


def shares(versions: Sequence[CachedVersion], limit: int = 1000, retention: Retention = WEEK) -> dict[str, int]:
    found = allotments(versions, room(limit, 0), lambda _: retention, NOW_NS)
    return {f"{dataset}/{number}": size_bytes for (dataset, number, _), size_bytes in found.items()}


def test_version_alone_in_use_may_have_all_of_the_limit() -> None:
    assert shares([version("a", 0, size=5000, users=["n"])]) == {"a/v1": 1000}
    assert shares([version("a", 0, size=500, users=["n"])]) == {"a/v1": 500}


def test_what_one_does_not_need_the_others_have() -> None:
    versions = [
        version("a", 0, size=5000, users=["n"], is_reused=True),
        version("b", 0, size=100, users=["n"], is_reused=True),
        version("c", 0, size=5000, users=["m"], is_reused=True),
    ]
    assert shares(versions) == {"a/v1": 450, "b/v1": 100, "c/v1": 450}


def test_new_version_has_a_probation_beside_one_whose_bytes_were_read_again() -> None:
    versions = [
        version("job", 0, size=5000, users=["n"], is_reused=True),
        version("scan", 0, size=5000, users=["n"]),
        version("small scan", 0, size=10, users=["n"]),
    ]
    assert PROBATION == 0.03
    assert shares(versions) == {"job/v1": 970, "scan/v1": 20, "small scan/v1": 10}


def test_version_that_was_used_before_comes_before_a_new_one() -> None:
    versions = [
        version("job", 0, size=500, users=["n"], is_reused=True),
        version("known", 0, size=400, users=["n"], uses=1.5),
        version("new", 0, size=400, users=["n"]),
    ]
    assert shares(versions) == {"job/v1": 500, "known/v1": 400, "new/v1": 100}
    assert shares([versions[0], replace(versions[1], size_bytes=5000), versions[2]]) == {
        "job/v1": 500,
        "known/v1": 500,
        "new/v1": 0,
    }


def test_new_version_leaves_alone_what_was_worked_with_lately() -> None:
    worked = version("worked", 600, idle_s=0.9 * DAY_S, uses=1.5)
    new = version("new", 0, size=5000, users=["n"])
    assert shares([worked, new]) == {"new/v1": 200}  # up to the low watermark
    assert shares([replace(worked, held=Amount(900)), new]) == {"new/v1": 30}
    assert shares([replace(worked, uses=1), new]) == {"new/v1": 1000}
    assert shares([version("worked", 600, idle_s=1.1 * DAY_S, uses=1.5), new]) == {"new/v1": 1000}
    assert shares([worked, replace(new, is_reused=True)]) == {"new/v1": 1000}


def test_pinned_versions_have_room_before_all_others() -> None:
    versions = [
        version("pinned", 300, idle_s=30 * DAY_S, pinned_until_ns=FOR_EVER_NS),
        version("pinned too", 0, size=400, users=["n"], pinned_until_ns=FOR_EVER_NS),
        version("job", 0, size=5000, users=["n"], is_reused=True),
    ]
    assert shares(versions) == {"pinned too/v1": 400, "job/v1": 300}


def test_versions_of_one_dataset_share_what_it_may_hold() -> None:
    versions = [
        version("a", 100, number="v0", idle_s=DAY_S, pinned_until_ns=FOR_EVER_NS),
        version("a", 0, number="v1", size=5000, users=["n"]),
        version("a", 0, number="v2", size=50, users=["n"]),
    ]
    assert shares(versions, retention=replace(WEEK, most_bytes=400)) == {"a/v1": 250, "a/v2": 50}


@given(
    st.lists(
        st.builds(
            version,
            st.sampled_from("abcdefgh"),
            st.integers(0, 300),
            size=st.integers(0, 2000),
            idle_s=st.sampled_from((0, 900, DAY_S / 2, 3 * DAY_S)),
            uses=st.sampled_from((1, 2)),
            is_reused=st.booleans(),
            newer=st.integers(0, 1),
            pinned_until_ns=st.sampled_from((0, 0, FOR_EVER_NS)),
        ),
        unique_by=lambda found: found.key,
    ),
    st.integers(1, 1000),
    st.integers(0, 1000),
)
def test_shares_never_exceed_the_limit_nor_what_a_dataset_may_hold_nor_what_a_version_needs(
    versions: list[CachedVersion], limit: int, most: int
) -> None:
    found = allotments(versions, room(limit, 0), lambda _: replace(WEEK, most_bytes=most), NOW_NS)
    fixed = sum(v.held.size_bytes for v in versions if v.is_pinned(NOW_NS) and v.key not in found)
    assert sum(found.values()) <= max(0, limit - fixed)
    for v in versions:
        if v.key in found:
            assert 0 <= found[v.key] <= min(v.size_bytes, most)


def test_room_is_foreseen_for_what_is_read_but_not_beyond_a_share() -> None:
    job, nearly = version("a", 10, size=500, users=["n"]), version("b", 95, size=100, users=["n"])
    over, idle = version("c", 300, size=300, users=["n"]), version("d", 50, idle_s=DAY_S)
    allotted = {job.key: 450, nearly.key: 100, over.key: 200}
    rates = {found.key: 2.0 for found in (job, nearly, over, idle)}
    assert foreseen([job, nearly, over, idle], allotted, rates, horizon_s=60) == 120 + 5
    assert foreseen([job], allotted, {}, horizon_s=60) == 0
