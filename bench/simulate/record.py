"""`python -m bench.simulate.record [NAME ...]`: records how programs read files, for recorded.py.  Needs strace.

An epoch of a job is a shell command in the folder of its version, under strace; what counts is what strace tells.  An
epoch that does not read each file once, from end to end, is refused: then the program reads in another way than strace
was asked for, or the command does not do what it is there for.
"""

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import records
from bench.data import incompressible
from bench.errors import BenchError
from bench.simulate.recorded import FOLDER, FileRead, Recording, place, write

FILE_BYTES = 4096
_DIRECTORIES = 20
# A file for each process, so no call is told in two pieces; paths instead of descriptors; no content.
_STRACE = ["strace", "-ff", "-qq", "-y", "-ttt", "-s", "0", "-e", "trace=read", "-e", "signal=none", "--seccomp-bpf"]
_READ = re.compile(r"(\d+\.\d+) read\(\d+<(.*)>, .*\) += ([1-9]\d*)$")
_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Program:
    """A job: `command` reads a version of `files` files, `epochs` times.

    `begins`: with which epoch of the first job, which count from 0.
    """

    command: str
    files: int
    epochs: int
    begins: int = 0


# tar does not read what goes to /dev/null.  Eight files at a time and four processes, as a loader with workers has.
_IN_ORDER = "tar cf - . | cat >/dev/null"
_SHUFFLED = 'find . -type f | shuf --random-source="$BYTES" | xargs -n 8 -P 4 cat >/dev/null'
_SCAN = "grep -r nowhere . || [ $? = 1 ]"
_VERSIONED = ("tar", "cat", "find", "shuf", "xargs", "grep")
RECORDED = {
    "in-order": (Program(_IN_ORDER, 1000, 10),),
    "shuffled": (Program(_SHUFFLED, 1000, 10),),
    "two-jobs": (Program(_SHUFFLED, 1000, 8), Program(_SHUFFLED, 1000, 8, begins=1)),
    "beside-scan": (Program(_SHUFFLED, 1000, 8), Program(_SCAN, 4000, 1, begins=3)),
}


def record(name: str, programs: tuple[Program, ...], work: Path) -> Recording:
    """What the programs read, in new folders below `work`."""
    versions = [_make(work / str(job), program.files) for job, program in enumerate(programs)]

    def epoch(job: int, number: int) -> list[FileRead]:
        source = work / f"bytes-{job}-{number}"
        source.write_bytes(b"".join(incompressible(f"{name}/{job}/{number}", 1 << 16)))
        traced = work / f"trace-{job}-{number}"
        _run([*_STRACE, "-o", str(traced), "sh", "-c", programs[job].command], work / str(job), BYTES=str(source))
        reads = sorted(
            FileRead(at_s, job, file)
            for path in work.glob(f"{traced.name}.*")
            for at_s, file in finished(path.read_text().splitlines(), versions[job])
        )
        if sorted(read.file for read in reads) != list(range(programs[job].files)):
            raise BenchError(f"{programs[job].command}: did not read each of {programs[job].files} files once")
        return reads

    def epochs(job: int) -> list[FileRead]:
        return [read for number in range(programs[job].epochs) for read in epoch(job, number)]

    reads: list[FileRead] = []
    beside: list[Future[list[FileRead]]] = []
    with ThreadPoolExecutor() as pool:
        for number in range(programs[0].epochs):
            beside += [pool.submit(epochs, i) for i, program in enumerate(programs) if i and program.begins == number]
            reads += epoch(0, number)
        for other in beside:
            reads += other.result()
    start_s = min(reads).at_s
    since_start = tuple(sorted(read._replace(at_s=read.at_s - start_s) for read in reads))
    return Recording(_about(name, programs), tuple(program.files for program in programs), since_start)


def finished(lines: Iterable[str], files: Mapping[str, int]) -> Iterator[tuple[float, int]]:
    """When which file was read to its end, by what strace tells of one process, of which `files` alone counts."""
    unread: dict[int, int] = {}
    for line in lines:
        if (match := _READ.match(line)) and (file := files.get(match[2])) is not None:
            left = unread.pop(file, FILE_BYTES) - int(match[3])
            if left:
                unread[file] = left
            else:
                yield float(match[1]), file


def _make(folder: Path, count: int) -> dict[str, int]:
    """Files whose names do not sort as they were made: path, and its place by name."""
    digests = [hashlib.sha256(f"{folder.name}/{number}".encode()).hexdigest() for number in range(count)]
    paths = [folder / f"{int(digest[:2], 16) % _DIRECTORIES:02}" / digest[2:10] for digest in digests]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(incompressible(path.name, FILE_BYTES)))
    return {str(path): place for place, path in enumerate(sorted(paths))}


def _about(name: str, programs: tuple[Program, ...]) -> tuple[str, ...]:
    lines = [f"{name}, recorded {records.now()} by {_version('strace', '-V')}, Linux {platform.release()}"]
    for job, program in enumerate(programs):
        begins = f", from epoch {program.begins} of job 0 on" if program.begins else ""
        lines.append(f"job {job}, {program.epochs} x {program.files} files{begins}: {program.command}")
    words = {word for program in programs for word in re.findall(r"\w+", program.command)}
    if "BYTES" in words:
        lines.append(f'$BYTES: 64 KiB, SHAKE-128 of "{name}/JOB/EPOCH#0", both from 0')
    lines.append(", ".join(_version(known, "--version") for known in _VERSIONED if known in words))
    return tuple(lines)


def _version(program: str, flag: str) -> str:
    return _run([program, flag]).splitlines()[0]


def _run(command: list[str], folder: Path | None = None, **environment: str) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise BenchError(f"{command[0]} is missing (Debian packages: bench/packages.txt)") from error
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{command[-1]}: exit code {error.returncode}, {error.stderr.strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[-1]}: takes longer than {_TIMEOUT_S} s") from error
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate.record", description="Record how programs read.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(RECORDED)} (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help="where the recordings go")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - RECORDED.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in arguments.names or RECORDED:
            with tempfile.TemporaryDirectory(prefix="dsfs-record-") as work:
                recording = record(name, RECORDED[name], Path(work).resolve())
            write(recording, place(name, arguments.folder))
            print(f"{name}: {len(recording.reads)} reads in {recording.reads[-1].at_s:.1f} s", file=sys.stderr)
    except BenchError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
