"""Traces: who reads which segment of which version, and when.  What is left to chance comes from a seed."""

from bisect import bisect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, chain
from random import Random


@dataclass(frozen=True, slots=True, order=True)
class Read:
    """A segment of a version is read from end to end."""

    at_s: float
    version: int
    segment: int


@dataclass(frozen=True, slots=True)
class Job:
    """A process that has files of a version open meanwhile."""

    version: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Reads in their order.  `sizes`: segments of each version.  `newer`: how many newer ones its dataset has."""

    sizes: tuple[int, ...]
    newer: tuple[int, ...]
    jobs: tuple[Job, ...]
    reads: tuple[Read, ...]


def trace(sizes: Iterable[int], *jobs: "tuple[Job, list[Read]]", newer: Iterable[int] | None = None) -> Trace:
    """What the jobs read, one beside the other."""
    sizes = tuple(sizes)
    reads = sorted(read for _, of_job in jobs for read in of_job)
    return Trace(sizes, tuple(newer or [0] * len(sizes)), tuple(job for job, _ in jobs), tuple(reads))


def epochs(
    version: int,
    segments: Iterable[int],
    count: int,
    *,
    rate: float,
    start_s: float = 0.0,
    shuffle: Random | None = None,
) -> tuple[Job, list[Read]]:
    """All of the segments, `count` times, at `rate` segments a second, each time in another order if `shuffle`d."""
    orders = shuffled(segments, count, shuffle) if shuffle else [list(segments)] * count
    return in_orders(version, orders, rate=rate, start_s=start_s)


def shuffled(segments: Iterable[int], count: int, chance: Random) -> list[list[int]]:
    """`count` orders of the segments."""
    order = list(segments)
    orders = []
    for _ in range(count):
        chance.shuffle(order)
        orders.append(order.copy())
    return orders


def in_orders(
    version: int, orders: Iterable[list[int]], *, rate: float, start_s: float = 0.0
) -> tuple[Job, list[Read]]:
    """One epoch in each of the orders."""
    reads = [Read(start_s + i / rate, version, segment) for i, segment in enumerate(chain.from_iterable(orders))]
    return Job(version, start_s, start_s + len(reads) / rate), reads


def zipf_uses(
    sizes: list[int],
    uses: int,
    passes: tuple[int, ...],
    rate: float,
    gap_s: float,
    chance: Random,
    orders: Callable[[range, int, Random], list[list[int]]],
) -> Iterator[tuple[Job, list[Read]]]:
    """Jobs one after the other, some overlapping, each on a version drawn by Zipf's law (exponent 1).

    `orders`: those in which so many passes read these segments; `shuffled` is one.
    """
    ranks = list(range(len(sizes)))
    chance.shuffle(ranks)
    weights = list(accumulate(1 / (rank + 1) for rank in ranks))
    start_s = 0.0
    for _ in range(uses):
        version = bisect(weights, chance.random() * weights[-1])
        count = chance.choice(passes)
        yield in_orders(version, orders(range(sizes[version]), count, chance), rate=rate, start_s=start_s)
        start_s += chance.expovariate(1 / gap_s)
