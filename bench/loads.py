"""What is done to a tree of files, and for how long it takes: the timed part of every step."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import data, reader
from bench.errors import BenchError

LoadKind = Literal["sequential", "random", "map_random", "map_sequential", "files", "walk"]
TIMEOUT_S = 900.0
_DD_SECONDS = re.compile(r"copied, ([0-9.e-]+) s")


@dataclass(frozen=True, slots=True)
class Load:
    """One way of reading.  `readers` and `shuffled` matter to "files" only."""

    kind: LoadKind
    readers: int = 1
    shuffled: bool = False

    @property
    def target(self) -> Path:
        """What it reads, below the directory of the datasets."""
        return {"files": data.SMALL, "walk": data.TREE}.get(self.kind, data.BIG)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load did.  `operations` are files, reads or directory entries."""

    seconds: float
    operations: int
    read_bytes: int


def run(load: Load, base: Path, sizes: data.Sizes) -> Outcome:
    """Does it below `base`; raises BenchError unless it read exactly what there is to read."""
    target = str(base / load.target)
    if load.kind == "sequential":
        outcome = dd(target)
    elif load.kind == "walk":
        outcome = _find(target)
    elif load.kind == "files":
        names = file_order(load, sizes)
        work = [("files", [target, names[share :: load.readers]]) for share in range(load.readers)]
        outcome = _read(work)
    elif load.kind == "map_sequential":
        outcome = _read([("map_sequential", [target])])
    else:
        outcome = _read([(load.kind, [target, sizes.random_reads])])
    expected = expected_bytes(load, sizes)
    if outcome.read_bytes != expected:
        raise BenchError(f"{load.kind}: read {outcome.read_bytes} bytes instead of {expected}")
    if load.kind == "walk" and outcome.operations < sizes.tree_files:
        raise BenchError(f"find saw {outcome.operations} entries, there are {sizes.tree_files} files")
    return outcome


def file_order(load: Load, sizes: data.Sizes) -> list[str]:
    """The small files in the order of this load, the same in every run."""
    names = data.small_paths(sizes)
    if load.shuffled:
        random.Random(3).shuffle(names)
    return names


def expected_bytes(load: Load, sizes: data.Sizes) -> int:
    """How many bytes a load delivers to its readers."""
    if load.kind in ("sequential", "map_sequential"):
        return sizes.big_bytes
    if load.kind in ("random", "map_random"):
        return sizes.random_reads * reader.PAGE_BYTES
    return sizes.small_files * sizes.small_bytes if load.kind == "files" else 0


def verify(load: Load, base: Path, truth: Path) -> None:
    """Compares what the mount holds with the files themselves; names alone for a walk."""
    here, there = str(base / load.target), str(truth / load.target)
    if load.kind == "walk":
        listings = [_run(["find", ".", "-printf", "%P %y\\n"], cwd=path).stdout for path in (here, there)]
        if sorted(listings[0].splitlines()) != sorted(listings[1].splitlines()):
            raise BenchError("find: the names differ from those of the files themselves")
    else:
        _run(["diff", "-r", here, there])


def dd(path: str) -> Outcome:
    """Reads one file in parts of a mebibyte."""
    # dd's own clock: the start of the process would be 3 % of a read from the page cache.
    done = _run(["dd", f"if={path}", "of=/dev/null", "bs=1M"])
    match = _DD_SECONDS.search(done.stderr)
    copied = re.search(r"^(\d+) bytes", done.stderr, re.MULTILINE)
    if match is None or copied is None:
        raise BenchError(f"dd said something else than expected: {done.stderr}")
    return Outcome(float(match[1]), 1, int(copied[1]))


def _find(path: str) -> Outcome:
    _run(["find", "/dev/null", "-printf", "."])  # brings the program itself into the page cache
    start_s = time.monotonic()
    done = _run(["find", path, "-printf", "."])
    return Outcome(time.monotonic() - start_s, len(done.stdout), 0)


def _run(command: list[str], cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} took longer than {TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed: {(done.stderr or done.stdout)[-300:]}")
    return done


def _read(work: Sequence[tuple[str, Sequence[object]]]) -> Outcome:
    """Runs one reader process per piece of work; all start together, when the last one is ready."""
    script = str(Path(reader.__file__))
    processes = [
        subprocess.Popen(
            [sys.executable, "-S", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in work
    ]
    try:
        for process, piece in zip(processes, work, strict=True):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(piece) + "\n")
            process.stdin.flush()
            if process.stdout.readline() != "ready\n":
                raise BenchError("a reader did not start")
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        results = [_result(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return Outcome(
        max(result["end_s"] for result in results) - min(result["start_s"] for result in results),
        sum(int(result["operations"]) for result in results),
        sum(int(result["bytes"]) for result in results),
    )


def _result(process: "subprocess.Popen[str]") -> dict[str, float]:
    try:
        output, errors = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"a reader took longer than {TIMEOUT_S:.0f} s") from error
    if process.returncode != 0:
        raise BenchError(f"a reader failed: {errors.strip().splitlines()[-1:]}")
    result: dict[str, float] = json.loads(output)
    return result
