"""What the policy reaches on traces of reads, in small; bench/simulate has them in large."""

from itertools import pairwise
from random import Random

import pytest

from bench.simulate import scale
from bench.simulate.cache import Cache
from bench.simulate.cases import CASES, HITS, LOST, Case, hit_ratio
from bench.simulate.peers import belady, lru
from bench.simulate.traces import Read, Trace, epochs, trace

CAPACITY = 160
SEED = 7
BY_NAME = {case.name: case for case in CASES}


def ours(made: Trace, capacity: int) -> bytearray:
    cache = Cache(made, capacity)
    hits = cache.run()
    assert cache.most_used <= capacity
    return hits


def figures(case: Case) -> tuple[float, float, float]:
    """Ours, LRU, optimum."""
    return tuple(case.measure(policy, CAPACITY, SEED)[0] for policy in (ours, lru, belady))  # type: ignore[return-value]


@pytest.mark.parametrize(
    "name",
    [
        "epochs in order, 1.25 x",
        "epochs shuffled, 1.25 x",
        "recorded: epochs in order, 1.25 x",
        "recorded: epochs shuffled, 1.25 x",
    ],
)
def test_epochs_over_more_than_the_cache_holds_hit_what_fits_where_lru_falls_far_below(name: str) -> None:
    hits, of_lru, optimum = figures(BY_NAME[name])
    assert hits >= 0.95 / 1.25
    assert of_lru < 0.55
    assert hits <= optimum + 1e-9


@pytest.mark.parametrize("name", [case.name for case in CASES if case.unit == LOST])
def test_scan_costs_what_is_worked_with_less_than_a_twentieth(name: str) -> None:
    lost, of_lru, _ = figures(BY_NAME[name])
    assert lost < 5
    assert of_lru > 20


@pytest.mark.parametrize(
    "name",
    ["two jobs, 0.8 x and 0.8 x", "three jobs, 1.25 x, 0.3 x, 0.3 x", "recorded: two jobs, 0.8 x and 0.8 x"],
)
def test_several_jobs_have_more_hits_than_with_lru(name: str) -> None:
    hits, of_lru, _ = figures(BY_NAME[name])
    assert hits > of_lru


@pytest.mark.parametrize("name", [case.name for case in CASES if "Zipf" in case.name])
def test_versions_used_by_zipf_have_no_fewer_hits_than_with_lru(name: str) -> None:
    hits, of_lru, optimum = figures(BY_NAME[name])
    assert of_lru <= hits <= optimum


def test_set_that_fits_is_fetched_once() -> None:
    made = trace([CAPACITY], epochs(0, range(CAPACITY), 3, rate=0.1))
    assert sum(ours(made, CAPACITY)) == 2 * CAPACITY


@pytest.mark.parametrize("seconds", [10.0, 60.0])
def test_job_over_a_new_version_has_the_room_of_what_is_not_worked_with(seconds: float) -> None:
    """In a cache that is full of versions that were used once, also where the job is done before the grace is over."""
    rate, size = 1 / seconds, 100
    old = [epochs(i, range(40), 1, rate=rate, start_s=i * 50 * seconds) for i in range(8)]
    job = epochs(8, range(size), 4, rate=rate, start_s=500 * seconds)
    made = trace([40] * 8 + [size], *old, job)
    hits = ours(made, CAPACITY)
    assert hit_ratio(made, hits, of={8}, after_s=700 * seconds) == 1


def test_same_seed_makes_the_same_trace_and_another_one_another() -> None:
    one, same, other = (epochs(0, range(50), 2, rate=1, shuffle=Random(seed))[1] for seed in (1, 1, 2))
    assert one == same != other
    assert all(earlier.at_s < later.at_s for earlier, later in pairwise(one))


@pytest.mark.parametrize(("capacity", "of_lru", "optimum"), [(1, 0, 2), (2, 1, 3), (3, 3, 3)])
def test_peers_do_what_they_are_known_for(capacity: int, of_lru: int, optimum: int) -> None:
    made = Trace((3,), (0,), (), tuple(Read(float(i), 0, segment) for i, segment in enumerate((0, 1, 2, 0, 1, 0))))
    assert (sum(lru(made, capacity)), sum(belady(made, capacity))) == (of_lru, optimum)


def test_round_over_much_lets_go_of_what_it_has_to() -> None:
    assert scale.measure(stale_after_s=1e9, versions=100, segments=1000).leaves == 200
    assert scale.measure(stale_after_s=1.0, versions=100, segments=1000).leaves == 980  # all but what was used just now


def test_every_case_has_a_figure() -> None:
    assert {case.unit for case in CASES} == {HITS, LOST}
    assert len(BY_NAME) == len(CASES)
