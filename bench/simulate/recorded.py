"""Recorded traces: which file programs that are not ours read when.  `python -m bench.simulate.record` makes them.

recorded/NAME.txt.gz: what begins with "#" says how it was made; each other line is a read: seconds since the first,
job, and file, by its place among the names of the job's version.  Each job has a version of its own, whose number is
the job's.  A file stands for a segment, and is read when its last byte is.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench.errors import BenchError
from bench.simulate.traces import Job, Read

FOLDER = Path(__file__).parent / "recorded"
_FILES = "# files:"


class FileRead(NamedTuple):
    """A job has read a file from end to end."""

    at_s: float
    job: int
    file: int


@dataclass(frozen=True, slots=True)
class Recording:
    """Reads in their order.  `files`: how many each job's version has.  `about`: how it was made, line by line."""

    about: tuple[str, ...]
    files: tuple[int, ...]
    reads: tuple[FileRead, ...]

    def jobs(self, rate: float) -> list[tuple[Job, list[Read]]]:
        """With times stretched so that the first job reads `rate` segments a second, taken over all its epochs."""
        of_first = [read.at_s for read in self.reads if read.job == 0]
        stretch = len(of_first) / rate / (of_first[-1] - of_first[0])
        jobs = []
        for version in range(len(self.files)):
            reads = [Read(read.at_s * stretch, version, read.file) for read in self.reads if read.job == version]
            jobs.append((Job(version, reads[0].at_s, reads[-1].at_s), reads))
        return jobs

    def orders(self, job: int = 0) -> list[list[int]]:
        """The files in the order of each epoch."""
        order, size = [read.file for read in self.reads if read.job == job], self.files[job]
        return [order[start : start + size] for start in range(0, len(order), size)]

    def passes(self, segments: range, count: int, chance: Random) -> list[list[int]]:
        """`count` orders of the first job, from any of its epochs on, of those of its files that are `segments`."""
        if segments.stop > self.files[0]:
            raise BenchError(f"a version has {segments.stop} segments, and what was recorded {self.files[0]} files")
        orders = self.orders()
        first = chance.randrange(len(orders))
        return [[file for file in orders[(first + i) % len(orders)] if file in segments] for i in range(count)]


@cache
def load(name: str) -> Recording:
    """One of the project's.  BenchError: there is none of this name."""
    try:
        return read(place(name))
    except FileNotFoundError as error:
        raise BenchError(f"{error.filename} is missing: python -m bench.simulate.record {name}") from error


def place(name: str, folder: Path = FOLDER) -> Path:
    return folder / f"{name}.txt.gz"


def read(path: Path) -> Recording:
    """What `write` wrote."""
    about: list[str] = []
    files: tuple[int, ...] = ()
    reads: list[FileRead] = []
    for line in gzip.decompress(path.read_bytes()).decode().splitlines():
        if line.startswith(_FILES):
            files = tuple(map(int, line.removeprefix(_FILES).split()))
        elif line.startswith("#"):
            about.append(line.removeprefix("# "))
        else:
            at_s, job, file = line.split()
            reads.append(FileRead(float(at_s), int(job), int(file)))
    return Recording(tuple(about), files, tuple(reads))


def write(recording: Recording, path: Path) -> None:
    """The same recording makes the same bytes."""
    lines = [f"# {line}" for line in recording.about]
    lines.append(f"{_FILES} {' '.join(map(str, recording.files))}")
    lines += [f"{read.at_s:.6f} {read.job} {read.file}" for read in recording.reads]
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode(), mtime=0))
