"""What is simulated, and the figure of each case.

Sizes are multiples of the cache.  A job reads its version in epochs, over and over; a scan reads one once (`grep -r`).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import inf
from random import Random

from bench.figures import Direction
from bench.simulate import recorded
from bench.simulate.traces import Job, Read, Trace, epochs, shuffled, trace, zipf_uses

Policy = Callable[[Trace, int], bytearray]
Reading = tuple[Job, list[Read]]
HITS = "byte hit ratio"
LOST = "% of hits lost"
EPOCHS = 10
_PASS_S = 10_000.0  # in which a job reads as much as the cache holds: 10 TB at 1 GB/s


@dataclass(frozen=True, slots=True)
class Case:
    """`measure`: the figure of a policy, for a cache of so many segments and a seed, and how many reads it took.

    `is_recorded`: the trace is what was recorded, to which the cache is made to fit: capacity and seed change nothing.
    """

    name: str
    unit: str
    direction: Direction
    measure: Callable[[Policy, int, int], tuple[float, int]]
    is_recorded: bool = False


def hit_ratio(
    trace: Trace, hits: bytearray, *, of: Collection[int] = (), after_s: float = 0.0, before_s: float = inf
) -> float:
    """The share of reads that are hits (all segments are equally large): of some versions, or all, in some time."""
    counted = [
        hit
        for read, hit in zip(trace.reads, hits, strict=True)
        if after_s <= read.at_s < before_s and (not of or read.version in of)
    ]
    return sum(counted) / len(counted)


def _cyclic(set_size: float, *, is_shuffled: bool) -> Callable[[Policy, int, int], tuple[float, int]]:
    def measure(policy: Policy, capacity: int, seed: int) -> tuple[float, int]:
        size = round(set_size * capacity)
        chance = Random(seed) if is_shuffled else None
        job = epochs(0, range(size), EPOCHS, rate=capacity / _PASS_S, shuffle=chance)
        return _from_second_epoch(policy, capacity, size, job)

    return measure


def _recorded_cyclic(name: str, set_size: float) -> Callable[[Policy, int, int], tuple[float, int]]:
    def measure(policy: Policy, _capacity: int, _seed: int) -> tuple[float, int]:
        (size,), capacity, (job,) = _recorded(name, set_size)
        return _from_second_epoch(policy, capacity, size, job)

    return measure


def _several(*set_sizes: float) -> Callable[[Policy, int, int], tuple[float, int]]:
    """The jobs begin one after the other."""

    def measure(policy: Policy, capacity: int, seed: int) -> tuple[float, int]:
        chance, rate = Random(seed), capacity / _PASS_S
        sizes = [round(size * capacity) for size in set_sizes]
        jobs = [
            epochs(i, range(sizes[i]), round(EPOCHS / size), rate=rate, start_s=i * _PASS_S / 2, shuffle=chance)
            for i, size in enumerate(set_sizes)
        ]
        return _while_all_read(policy, capacity, sizes, jobs)

    return measure


def _recorded_several(name: str, set_size: float) -> Callable[[Policy, int, int], tuple[float, int]]:
    def measure(policy: Policy, _capacity: int, _seed: int) -> tuple[float, int]:
        sizes, capacity, jobs = _recorded(name, set_size)
        return _while_all_read(policy, capacity, sizes, jobs)

    return measure


def _beside_scan(set_size: float, scan_size: float) -> Callable[[Policy, int, int], tuple[float, int]]:
    def measure(policy: Policy, capacity: int, seed: int) -> tuple[float, int]:
        size, scanned, rate = round(set_size * capacity), round(scan_size * capacity), capacity / _PASS_S
        job = epochs(0, range(size), 2 * EPOCHS, rate=rate, shuffle=Random(seed))
        scan = epochs(1, range(scanned), 1, rate=4 * rate, start_s=5.3 * size / rate)
        return _until_two_epochs_later(policy, capacity, [size, scanned], job, scan)

    return measure


def _recorded_beside_scan(name: str, set_size: float) -> Callable[[Policy, int, int], tuple[float, int]]:
    def measure(policy: Policy, _capacity: int, _seed: int) -> tuple[float, int]:
        sizes, capacity, (job, scan) = _recorded(name, set_size)
        return _until_two_epochs_later(policy, capacity, sizes, job, scan)

    return measure


def _recorded(name: str, set_size: float) -> tuple[Sequence[int], int, list[Reading]]:
    """The sizes of the versions, the cache of which the first one is a multiple, and what the jobs read."""
    recording = recorded.load(name)
    capacity = round(recording.files[0] / set_size)
    return recording.files, capacity, recording.jobs(capacity / _PASS_S)


def _from_second_epoch(policy: Policy, capacity: int, size: int, job: Reading) -> tuple[float, int]:
    """The first epoch, in which nothing can be a hit, does not count."""
    made = trace([size], job)
    return hit_ratio(made, policy(made, capacity), after_s=made.reads[size].at_s), len(made.reads)


def _while_all_read(policy: Policy, capacity: int, sizes: Sequence[int], jobs: Sequence[Reading]) -> tuple[float, int]:
    """What counts is from when all of the jobs read, and the last one has had a while, until the first has done."""
    made = trace(sizes, *jobs)
    hits = policy(made, capacity)
    last_start_s, first_end_s = max(job.start_s for job, _ in jobs), min(job.end_s for job, _ in jobs)
    return hit_ratio(made, hits, after_s=last_start_s + _PASS_S, before_s=first_end_s), len(made.reads)


def _until_two_epochs_later(
    policy: Policy, capacity: int, sizes: Sequence[int], job: Reading, scan: Reading
) -> tuple[float, int]:
    """How many of a job's hits a scan costs, from its start until two epochs after its end."""
    after_s, before_s = scan[0].start_s, scan[0].end_s + 2 * sizes[0] / capacity * _PASS_S
    return _lost(policy, capacity, sizes, [job], scan, {0}, after_s, before_s)


def _between_scan(set_size: float, scan_size: float) -> Callable[[Policy, int, int], tuple[float, int]]:
    """How many of the hits of jobs that come every few hours a scan costs that comes when none of them runs."""

    def measure(policy: Policy, capacity: int, seed: int) -> tuple[float, int]:
        versions, rounds = 4, 4
        size, scanned, rate = round(set_size * capacity / versions), round(scan_size * capacity), capacity / _PASS_S
        chance, start_s, jobs = Random(seed), 0.0, []
        scan = epochs(versions, [], 1, rate=rate)
        for turn in range(rounds):
            for version in range(versions):
                jobs.append(epochs(version, range(size), 2, rate=rate, start_s=start_s, shuffle=chance))
                start_s = jobs[-1][0].end_s + 2000.0
            if turn == rounds - 2:
                scan = epochs(versions, range(scanned), 1, rate=4 * rate, start_s=start_s)
                start_s = scan[0].end_s + 2000.0
        sizes = [size] * versions + [scanned]
        return _lost(policy, capacity, sizes, jobs, scan, set(range(versions)), scan[0].start_s, inf)

    return measure


def _lost(
    policy: Policy,
    capacity: int,
    sizes: Sequence[int],
    jobs: Sequence[Reading],
    scan: Reading,
    of: set[int],
    after_s: float,
    before_s: float,
) -> tuple[float, int]:
    with_it, without = trace(sizes, *jobs, scan), trace(sizes, *jobs)
    ratios = [
        hit_ratio(made, policy(made, capacity), of=of, after_s=after_s, before_s=before_s)
        for made in (with_it, without)
    ]
    return 100 * (1 - ratios[0] / ratios[1]) if ratios[1] else 0.0, len(with_it.reads) + len(without.reads)


def _zipf(
    passes: tuple[int, ...], gap_s: float, *, name: str = "", uses: int = 800
) -> Callable[[Policy, int, int], tuple[float, int]]:
    """200 versions, of which the cache holds about 20; the first half, in which it fills, does not count.

    `name`: of the recording whose orders the jobs have; without it they are shuffled by chance.
    """

    def measure(policy: Policy, capacity: int, seed: int) -> tuple[float, int]:
        chance = Random(seed)
        sizes = [max(1, chance.choice((1, 2, 4, 8)) * capacity // 80) for _ in range(200)]
        orders = recorded.load(name).passes if name else shuffled
        made = trace(sizes, *zipf_uses(sizes, uses, passes, capacity / _PASS_S, gap_s, chance, orders))
        return hit_ratio(made, policy(made, capacity), after_s=made.reads[-1].at_s / 2), len(made.reads)

    return measure


CASES = (
    Case("epochs in order, 1.25 x", HITS, "higher", _cyclic(1.25, is_shuffled=False)),
    Case("epochs shuffled, 1.25 x", HITS, "higher", _cyclic(1.25, is_shuffled=True)),
    Case("epochs shuffled, 2 x", HITS, "higher", _cyclic(2, is_shuffled=True)),
    Case("two jobs, 0.8 x and 0.8 x", HITS, "higher", _several(0.8, 0.8)),
    Case("three jobs, 1.25 x, 0.3 x, 0.3 x", HITS, "higher", _several(1.25, 0.3, 0.3)),
    Case("job 0.9 x, scan 5 x beside", LOST, "lower", _beside_scan(0.9, 5)),
    Case("job 1.25 x, scan 5 x beside", LOST, "lower", _beside_scan(1.25, 5)),
    Case("jobs 0.88 x in all, scan 5 x between", LOST, "lower", _between_scan(0.88, 5)),
    Case("Zipf, one pass, 8 uses a day", HITS, "higher", _zipf((1,), 10_800)),
    Case("Zipf, one pass, 144 uses a day", HITS, "higher", _zipf((1,), 600)),
    Case("Zipf, 1 to 10 passes, 8 uses a day", HITS, "higher", _zipf((1, 3, 10), 10_800)),
    Case("Zipf, 1 to 10 passes, 144 uses a day", HITS, "higher", _zipf((1, 3, 10), 600)),
    Case("Zipf, 3 passes, 24 uses a day", HITS, "higher", _zipf((3,), 3600)),
    Case("recorded: epochs in order, 1.25 x", HITS, "higher", _recorded_cyclic("in-order", 1.25), is_recorded=True),
    Case("recorded: epochs shuffled, 1.25 x", HITS, "higher", _recorded_cyclic("shuffled", 1.25), is_recorded=True),
    Case("recorded: two jobs, 0.8 x and 0.8 x", HITS, "higher", _recorded_several("two-jobs", 0.8), is_recorded=True),
    Case(
        "recorded: job 0.9 x, scan 3.6 x beside",
        LOST,
        "lower",
        _recorded_beside_scan("beside-scan", 0.9),
        is_recorded=True,
    ),
    Case(
        "recorded: job 1.25 x, scan 5 x beside",
        LOST,
        "lower",
        _recorded_beside_scan("beside-scan", 1.25),
        is_recorded=True,
    ),
    Case("recorded orders: Zipf, 3 passes, 24 uses a day", HITS, "higher", _zipf((3,), 3600, name="shuffled")),
)
