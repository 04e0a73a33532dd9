"""`python -m bench.census`: rounds of the census over a million segments.  See bench/README.md."""

import argparse
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import dsfs
from bench import machine, records, report
from bench.census.content import change, make
from bench.census.rounds import Rounds, measure
from bench.errors import BenchError
from bench.records import LOCAL, Record, Result, Sample
from bench.report import OURS
from tests.rig.nfs.guest import MIB, Guest, missing
from tests.rig.nfs.server import export_path

SUITE = "census"
RESULTS = records.RESULTS / SUITE
SEGMENTS, VERSIONS = 1_000_000, 1_000
SHARE = 0.01  # of the segments, changes between two rounds
EXPORT = "large"
MEMORY_BYTES = 4096 * MIB  # so that the server reads from no disk
INODE_BYTES = 16 * 1024  # for each so many, mkfs makes an inode
TIMEOUT_S = 3600.0

Measure = Callable[[Path, int], Rounds]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.census", description="Count what lies in a directory.")
    parser.add_argument("--segments", type=int, default=SEGMENTS, metavar="N")
    parser.add_argument("--versions", type=int, default=VERSIONS, metavar="N")
    parser.add_argument("--places", default="disk,3,4.2", metavar="NAME,...", help="a disk here, versions of NFS")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the files are made")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the record goes")
    parser.add_argument("--no-record", action="store_true", help="print the table only")
    parser.add_argument("--update-readme", action="store_true", help="put the table into bench/README.md")
    return parser


def _on_disk(work: Path, segments: int, versions: int) -> list[Result]:
    backing, state = work / "backing", work / "state"
    make(backing, segments, versions)

    def measured(state: Path, now_ns: int) -> Rounds:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(measure, backing, state, now_ns).result()

    return _rounds("disk", state, measured, lambda: change(backing, segments, int(segments * SHARE)))


def _on_nfs(work: Path, nfs_versions: list[str], segments: int, versions: int) -> list[Result]:
    if (reason := missing()) is not None:
        raise BenchError(reason)
    results = []
    for nfs_version in nfs_versions:
        here = work / f"nfs-{nfs_version}"
        here.mkdir()
        images = {EXPORT: 2 * segments * INODE_BYTES + 2048 * MIB, "small": 64 * MIB}
        with Guest(here, ["a"], memory_bytes=MEMORY_BYTES, images=images) as guest:
            server, (client,) = guest.server, guest.clients
            client.mount(EXPORT, nfs_version)
            backing = export_path(EXPORT) / "backing"
            server.call_within(TIMEOUT_S, make, backing, segments, versions)

            def measured(state: Path, now_ns: int) -> Rounds:
                return client.call_within(TIMEOUT_S, measure, backing, state, now_ns)  # noqa: B023

            def changed() -> None:
                server.call_within(TIMEOUT_S, change, backing, segments, int(segments * SHARE))  # noqa: B023

            results += _rounds(f"NFS {nfs_version}", here / "state", measured, changed)
    return results


def _rounds(place: str, state: Path, measured: Measure, changed: Callable[[], None]) -> list[Result]:
    now_ns = time.time_ns() + 3600 * 10**9  # no mtime is of this moment
    results = []
    for number, what in enumerate(("first count", "quiet round", f"{SHARE:.0%} changed", "quiet again")):
        if "changed" in what:
            changed()
        found = measured(state, now_ns + number * 60 * 10**9)
        _say(f"{place}, {what}: {found}")
        values = {f"{what}, {place}": ("s", found.seconds), f"{what}, {place}, peak": ("MiB", found.peak_bytes / MIB)}
        if found.requests:
            values[f"{what}, {place}, cost"] = ("requests", sum(found.requests.values()))
        for step, (unit, value) in values.items():
            sample = Sample(value, found.seconds, found.entries, peak_bytes=found.peak_bytes)
            sample.nfs = dict(found.requests)
            results.append(Result(SUITE, step, "warm", LOCAL, OURS, unit, "lower", "", [sample]))
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    places = arguments.places.split(",")
    date = records.now()
    try:
        with tempfile.TemporaryDirectory(dir=arguments.work) as work:
            results = []
            if "disk" in places:
                results += _on_disk(Path(work), arguments.segments, arguments.versions)
            nfs_versions = [place for place in places if place != "disk"]
            results += _on_nfs(Path(work), nfs_versions, arguments.segments, arguments.versions)
        record = Record(
            date,
            records.commit_of(Path(__file__).parents[2]),
            machine.describe(),
            {"python": platform.python_version(), "dsfs": dsfs.__version__},
            {"segments": arguments.segments, "versions": arguments.versions},
            results,
            SUITE,
        )
        if not arguments.no_record:
            _say(f"record: {records.write(record, arguments.results)}")
        if arguments.update_readme:
            report.update_readme(record)
    except BenchError as error:
        parser.exit(2, f"{error}\n")
    print(report.heading(record))
    print(report.table(record))


if __name__ == "__main__":
    main()
