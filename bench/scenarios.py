"""What is measured: one table.  A scenario is a fresh mount on which its steps are done in order."""

from dataclasses import dataclass
from typing import Literal

from bench.data import Sizes
from bench.figures import Direction
from bench.loads import Load, Outcome
from bench.origin import FAR, FAST, Distance

CacheState = Literal["cold", "kept", "dropped"]
"""cold: nothing anywhere; kept: page cache as the step before left it; dropped: emptied, the daemon stays."""

Unit = Literal["MB/s", "reads/s", "files/s", "s"]


@dataclass(frozen=True, slots=True)
class Step:
    """One timed load on a cache in a known state."""

    name: str
    load: Load
    cache: CacheState
    unit: Unit

    @property
    def direction(self) -> Direction:
        return "lower" if self.unit == "s" else "higher"

    def value(self, outcome: Outcome) -> float:
        """The outcome in this step's unit (1 MB = 1,000,000 bytes)."""
        if self.unit == "MB/s":
            return outcome.read_bytes / 1e6 / outcome.seconds
        return outcome.seconds if self.unit == "s" else outcome.operations / outcome.seconds


@dataclass(frozen=True, slots=True)
class Scenario:
    """Steps that share one mount, and the distances of the origin at which they are done."""

    name: str
    meaning: str
    steps: tuple[Step, ...]
    distances: tuple[Distance, ...] = (FAST, FAR)


def _passes(title: str, load: Load, unit: Unit, *, cold: bool = True) -> tuple[Step, ...]:
    steps = (
        Step(f"{title}, again", load, "kept", unit),
        Step(f"{title}, page cache dropped", load, "dropped", unit),
    )
    return (Step(f"{title}, cold", load, "cold", unit), *steps) if cold else steps


SCENARIOS = (
    Scenario("sequential", "dd bs=1M of one large file", _passes("sequential", Load("sequential"), "MB/s")),
    Scenario(
        "random", "4 KiB reads at random, one thread", _passes("random 4 KiB", Load("random"), "reads/s")
    ),
    Scenario(
        "mmap",
        "the same through a mapping: the whole file copied, then 4 KiB at random once all of it is resident",
        (
            *_passes("mmap sequential", Load("map_sequential"), "MB/s"),
            *reversed(_passes("mmap random 4 KiB", Load("map_random"), "reads/s", cold=False)),
        ),
        distances=(FAST,),
    ),
    Scenario(
        "small-ordered",
        "5,000 files of 100 KiB, 1 reader, in the order of their names",
        _passes("small files in order", Load("files"), "files/s"),
    ),
    Scenario(
        "small-shuffled",
        "the same in an order of chance",
        _passes("small files shuffled", Load("files", shuffled=True), "files/s"),
    ),
    Scenario(
        "small-parallel",
        "the same by 8 readers, each a share of its own",
        _passes("small files, 8 readers", Load("files", readers=8, shuffled=True), "files/s"),
    ),
    Scenario(
        "find",
        "find over 20,000 files in 200 directories",
        (Step("find, first", Load("walk"), "cold", "s"), Step("find, again", Load("walk"), "kept", "s")),
    ),
)


def cost(step: Step, sizes: Sizes, cpu_s: float) -> tuple[float, str]:
    """The CPU time of a step per unit of work, and that unit."""
    if step.unit == "MB/s":
        return cpu_s / (sizes.big_bytes / 2**30), "s/GiB"
    if step.unit == "files/s":
        return cpu_s * 1000 / sizes.small_files, "ms/file"
    if step.unit == "reads/s":
        return cpu_s * 1000 / sizes.random_reads, "ms/read"
    return cpu_s, "s"
