"""`python -m bench.simulate`: the policy of the cache on traces of reads.  See bench/README.md."""

import argparse
import platform
import sys
import time
from pathlib import Path

import dsfs
from bench import machine, records, report
from bench.errors import BenchError
from bench.records import LOCAL, Record, Result, Sample
from bench.report import OURS
from bench.simulate import scale
from bench.simulate.cache import Cache
from bench.simulate.cases import CASES, Policy
from bench.simulate.peers import belady, lru

SUITE = "simulate"
RESULTS = records.RESULTS / SUITE
CAPACITY = 800
SEEDS = (1, 2, 3, 4, 5)
POLICIES: dict[str, Policy] = {
    OURS: lambda trace, capacity: Cache(trace, capacity).run(),
    "LRU": lru,
    "Belady": belady,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description="Simulate what the cache keeps.")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), metavar="N,...", help="one trace of each")
    parser.add_argument("--capacity", type=int, default=CAPACITY, metavar="SEGMENTS", help="of the cache")
    parser.add_argument("--only", default="", metavar="WORD", help="cases that have it in their name")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the record goes")
    parser.add_argument("--no-record", action="store_true", help="print the table only")
    parser.add_argument("--update-readme", action="store_true", help="put the table into bench/README.md")
    return parser


def _measure(capacity: int, seeds: list[int], only: str) -> Record:
    date = records.now()
    results = []
    for case in CASES:
        if only in case.name:
            for subject, policy in POLICIES.items():
                result = Result(SUITE, case.name, "warm", LOCAL, subject, case.unit, case.direction, "")
                for seed in seeds[:1] if case.is_recorded else seeds:
                    started_s = time.perf_counter()
                    value, reads = case.measure(policy, capacity, seed)
                    result.samples.append(Sample(value, time.perf_counter() - started_s, operations=reads))
                results.append(result)
                _say(f"{case.name}, {subject}: {[round(value, 4) for value in result.values]}")
    if not only:
        results += _rounds()
    versions = {"python": platform.python_version(), "dsfs": dsfs.__version__}
    settings: dict[str, object] = {"capacity": capacity, "seeds": " ".join(map(str, seeds))}
    commit = records.commit_of(Path(__file__).parents[2])
    return Record(date, commit, machine.describe(), versions, settings, results, SUITE)


def _rounds() -> list[Result]:
    """What the evictor's round takes: when a fifth leaves for want of room, and when all is stale."""
    results = []
    for what, stale_after_s in (("a fifth leaves", 1e9), ("all is stale", 1.0)):
        measured = scale.measure(stale_after_s)
        result = Result(SUITE, f"round over 1 M segments, {what}", "warm", LOCAL, OURS, "s", "lower", "")
        result.samples.append(
            Sample(measured.seconds, measured.seconds, measured.leaves, peak_bytes=measured.peak_bytes)
        )
        results.append(result)
        _say(f"{result.step}: {measured.seconds:.2f} s, {measured.peak_bytes / 2**20:.1f} MiB, {measured.leaves} leave")
    return results


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        record = _measure(arguments.capacity, seeds, arguments.only)
        if not arguments.no_record:
            _say(f"record: {records.write(record, arguments.results)}")
        if arguments.update_readme:
            report.update_readme(record)
    except (BenchError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    print(report.heading(record))
    print(report.table(record))


if __name__ == "__main__":
    main()
