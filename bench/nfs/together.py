"""What runs on the nodes: functions that tests.rig.nfs calls there, in processes of their own."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import loads
from bench.data import Sizes
from bench.loads import Load, Outcome
from tests.rig.wait import wait_until

SEAL_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Reading:
    """An outcome, and when it began and ended by the clock that all nodes of the guest share."""

    start_s: float
    end_s: float
    outcome: Outcome


def read_at(start_s: float, load: Load, base: Path, sizes: Sizes) -> Reading:
    """Do the load below `base` when the time has come."""
    time.sleep(max(0.0, start_s - time.monotonic()))
    began_s = time.monotonic()
    outcome = loads.run(load, base, sizes)
    return Reading(began_s, time.monotonic(), outcome)


def seconds_of_all(readings: Sequence[Reading]) -> float:
    """From the first byte that one of them asked for until the last of them had all."""
    return max(reading.end_s for reading in readings) - min(reading.start_s for reading in readings)


def list_directory(path: Path) -> None:
    for _ in os.walk(path):
        pass


def copy_plainly(load: Load, source: Path, target: Path, sizes: Sizes) -> None:
    """What the load reads, each file by itself, as `cp -r` does."""
    names = [load.target / name for name in loads.file_order(load, sizes)] if load.kind == "files" else [load.target]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def wait_sealed(export: Path) -> None:
    """Until no backing directory of the export has a segment that is being filled."""
    wait_until(lambda: not any(export.glob("*/segments/*/*.part")), SEAL_TIMEOUT_S, "every segment being sealed")


def sealed_file(export: Path, size_bytes: int) -> Path:
    """The sealed segment of that size."""
    (found,) = (path for path in export.glob("*/segments/*/*") if path.stat().st_size == size_bytes)
    return found
