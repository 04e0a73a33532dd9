"""`python -m bench.nfs`: several nodes in the guest, as root.  See bench/README.md."""

import argparse
import platform
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import dsfs
from bench import data, machine, records, report
from bench.errors import BenchError
from bench.nfs.measures import Measures, Rates
from bench.nfs.site import NODES, Site
from bench.records import Record

SUITE = "nfs"
RESULTS = records.RESULTS / SUITE
FULL = data.Sizes(big_bytes=512 << 20, small_files=500, small_bytes=100 << 10, tree_files=0, random_reads=0)
QUICK = data.Sizes(big_bytes=32 << 20, small_files=100, small_bytes=100 << 10, tree_files=0, random_reads=0)
_MB = 1_000_000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.nfs", description="Measure nodes that share a cache by NFS.")
    parser.add_argument("--quick", action="store_true", help="small data and one round: does it run at all?")
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (default 3, with --quick 1)")
    parser.add_argument(
        "--line", type=int, default=20, metavar="MB/S", help="from the far origin to all nodes together (default 20)"
    )
    parser.add_argument(
        "--storage", type=int, default=30, metavar="MB/S", help="to the NFS server, where it is bound (default 30)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the record goes")
    parser.add_argument("--no-record", action="store_true", help="print the table only")
    parser.add_argument("--update-readme", action="store_true", help="put the table into bench/README.md")
    return parser


def _measure(arguments: argparse.Namespace) -> Record:
    sizes, rounds = QUICK if arguments.quick else FULL, arguments.repeat or (1 if arguments.quick else 3)
    date = records.now()
    with tempfile.TemporaryDirectory(prefix="dsfs-bench-nfs-") as directory:
        work = Path(directory)
        _say("making the data")
        root = data.make(work, sizes)
        with Site(work, root, sizes) as site:
            rates = Rates(arguments.line * _MB, arguments.storage * _MB)
            results = Measures(site, sizes, rates, _say).run(rounds)
            kernel = site.server.check("uname", "-r").strip()
    versions = {"python": platform.python_version(), "dsfs": dsfs.__version__, "guest Linux": kernel}
    settings: dict[str, object] = {name: value for name, value in asdict(sizes).items() if value}
    settings |= {"nodes": len(NODES), "line": arguments.line, "storage": arguments.storage, "repeat": rounds}
    commit = records.commit_of(Path(__file__).parents[2])
    return Record(date, commit, machine.describe(), versions, settings, results, SUITE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # ends like Ctrl-C: the guest is taken down
    try:
        machine.require_root()
        record = _measure(arguments)
        if not arguments.no_record:
            _say(f"record: {records.write(record, arguments.results)}")
        if arguments.update_readme:
            report.update_readme(record)
    except BenchError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; nothing was recorded\n")
    print(report.heading(record))
    print(report.table(record))


if __name__ == "__main__":
    main()
