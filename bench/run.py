"""Runs the benchmark: `python -m bench.run` (`make bench`), as root.  See README.md here.

Subjects take turns within every round, so that what disturbs the machine disturbs all of them.
"""

import argparse
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from bench import data, machine, records, report
from bench.errors import BenchError
from bench.origin import DISTANCES, Distance, Origin
from bench.records import LOCAL, Record, Result, Sample
from bench.scenarios import SCENARIOS, Scenario, Step, cost
from bench.subjects import PEERS, SUBJECTS, Session, Subject, Surroundings

_PRETOUCH_MIB = 2500


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    scenarios: tuple[Scenario, ...]
    subjects: tuple[str, ...]
    distances: tuple[Distance, ...]
    sizes: data.Sizes
    repeat: int
    peer_repeat: int
    memory: str
    limit_connections: int
    pretouch_mib: int


class Bench:
    """Measures everything of the settings; `work` holds the data and, for a while, the subjects' caches."""

    def __init__(self, settings: Settings, work: Path, root: Path, origin: Origin) -> None:
        self._settings = settings
        self._work = work
        self._truth = root / data.BUCKET / data.PREFIX
        self._origin = origin
        self._results: dict[tuple[str, str, str], Result] = {}

    def run(self) -> list[Result]:
        """Scenario by scenario; within one, round by round; within a round, subject by subject."""
        for scenario in self._settings.scenarios:
            for round_number in range(self._settings.repeat):
                for name, distance in self._turns(scenario, round_number):
                    self._turn(scenario, name, distance, first_round=round_number == 0)
        return list(self._results.values())

    def _turns(self, scenario: Scenario, round_number: int) -> Iterator[tuple[str, Distance]]:
        distances = [distance for distance in scenario.distances if distance in self._settings.distances]
        for name in self._settings.subjects:
            if name in PEERS and round_number >= self._settings.peer_repeat:
                continue
            yield from (
                (name, distance) for distance in (distances if SUBJECTS[name].remote else distances[:1])
            )

    def _turn(self, scenario: Scenario, name: str, distance: Distance, *, first_round: bool) -> None:
        subject = SUBJECTS[name]
        steps = [step for step in scenario.steps if subject.can(step.load, step.cache)]
        results = [
            self._result(scenario, step, name, LOCAL if not subject.remote else distance.name)
            for step in steps
        ]
        if not steps:
            return
        done = 0
        try:
            with self._session(subject, steps[0], distance) as session:
                for step, result in zip(steps, results, strict=True):
                    sample = self._measure(step, session, subject, distance)
                    result.samples.append(sample)
                    done += 1
                    _say(f"{name}, {result.distance}: {step.name}: {sample.value:.3f} {step.unit}")
                if first_round:
                    for load in dict.fromkeys(step.load for step in steps):
                        session.verify(load)
        except (BenchError, OSError) as error:
            text = str(error).replace(str(self._work), "WORK")
            _say("\n".join([f"{name}, {distance.name}: FAILED: {text}", *getattr(error, "__notes__", [])]))
            for result in results[done:] or results:  # all of them, where the bytes were wrong in the end
                result.errors.append(text)

    @contextmanager
    def _session(self, subject: Subject, first: Step, distance: Distance) -> Iterator[Session]:
        """A cold one: fresh daemon, empty directories, caches dropped; the origin has its files in memory."""
        scratch = Path(tempfile.mkdtemp(prefix="scratch-", dir=self._work))
        settings = self._settings
        try:
            self._drop_caches(first, subject)
            surroundings = Surroundings(
                self._truth,
                self._origin.url(distance),
                scratch,
                settings.sizes,
                settings.memory,
                settings.limit_connections,
            )
            with subject.session(surroundings) as session:
                session.prepare(first.load)
                yield session
        finally:
            shutil.rmtree(scratch)

    def _measure(self, step: Step, session: Session, subject: Subject, distance: Distance) -> Sample:
        if step.cache == "dropped":
            session.settle()
            self._drop_caches(step, subject)
        session.settle()
        if step.cache != "kept":
            machine.pretouch(self._settings.pretouch_mib)
        mark, before = self._origin.mark(), session.usage()
        outcome = session.run(step.load)
        session.settle()
        after, traffic = session.usage(), self._origin.traffic_since(mark, distance)
        cpu_s = after.cpu_s - before.cpu_s
        return Sample(
            value=step.value(outcome),
            seconds=outcome.seconds,
            operations=outcome.operations,
            read_bytes=outcome.read_bytes,
            cpu_s=cpu_s,
            cost=cost(step, self._settings.sizes, cpu_s)[0],
            peak_bytes=after.peak_bytes,
            gets=traffic.gets,
            heads=traffic.heads,
            lists=traffic.lists,
            data_bytes=traffic.data_bytes,
        )

    def _drop_caches(self, step: Step, subject: Subject) -> None:
        """The origin stands for another machine: this disk must not be what bounds it."""
        machine.drop_caches()
        if subject.remote:
            machine.read_through(self._truth / step.load.target)

    def _result(self, scenario: Scenario, step: Step, subject: str, distance: str) -> Result:
        key = (step.name, distance, subject)
        if key not in self._results:
            unit = cost(step, self._settings.sizes, 0.0)[1]
            self._results[key] = Result(
                scenario.name, step.name, step.cache, distance, subject, step.unit, step.direction, unit
            )
        return self._results[key]


def _record(
    settings: Settings, work: Path, results: list[Result], date: str, versions: dict[str, str]
) -> Record:
    described = machine.describe() | {"file_system": machine.file_system_of(work)}
    far = {name: (distance.latency_s, distance.bytes_per_s) for name, distance in DISTANCES.items()}
    recorded: dict[str, object] = asdict(settings.sizes) | {
        "repeat": settings.repeat,
        "peer_repeat": settings.peer_repeat,
        "memory": settings.memory,
        "limit_connections": settings.limit_connections,
        "pretouch_mib": settings.pretouch_mib,
        "distances": {name: list(values) for name, values in far.items()},
    }
    return Record(date, records.commit_of(Path(__file__).parents[1]), described, versions, recorded, results)


def _versions(subjects: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    found |= {name: version for name in subjects if (version := SUBJECTS[name].version())}
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description="Measure dsfs against its peers."
    )
    parser.add_argument("--quick", action="store_true", help="small data and one round: does it run at all?")
    parser.add_argument(
        "--only", type=_names, default=[], metavar="SCENARIO,...", help="default: all; see --list"
    )
    parser.add_argument("--subjects", type=_names, default=list(SUBJECTS), metavar="NAME,...")
    parser.add_argument(
        "--origin", type=_names, default=list(DISTANCES), metavar="fast,far", help="its distances"
    )
    parser.add_argument("--repeat", type=int, metavar="N", help="rounds (default 5, with --quick 1)")
    parser.add_argument(
        "--peer-repeat",
        type=int,
        metavar="N",
        help="rounds of rclone, which takes two thirds of the time (default: as many as of the others)",
    )
    parser.add_argument(
        "--memory", default="512MiB", metavar="SIZE", help="memory.limit of dsfs (default 512MiB)"
    )
    parser.add_argument(
        "--limit-connections",
        type=int,
        default=16,
        metavar="N",
        help="of obstore for the large object (default 16)",
    )
    parser.add_argument(
        "--pretouch-mib",
        type=int,
        default=_PRETOUCH_MIB,
        metavar="N",
        help="memory made present before each step",
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keeps the data for the next run (default: temporary)"
    )
    parser.add_argument(
        "--results", type=Path, default=records.RESULTS, metavar="DIR", help="where the record goes"
    )
    parser.add_argument("--no-record", action="store_true", help="print the table only")
    parser.add_argument("--update-readme", action="store_true", help="put the table into bench/README.md")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    return parser


def _settings(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Settings:
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for given, allowed in (
        (arguments.only, known),
        (arguments.subjects, SUBJECTS),
        (arguments.origin, DISTANCES),
    ):
        if unknown := [name for name in given if name not in allowed]:
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
    repeat = arguments.repeat or (1 if arguments.quick else 5)
    return Settings(
        scenarios=tuple(known[name] for name in arguments.only or known),
        subjects=tuple(arguments.subjects),
        distances=tuple(DISTANCES[name] for name in arguments.origin),
        sizes=data.QUICK if arguments.quick else data.FULL,
        repeat=repeat,
        peer_repeat=min(arguments.peer_repeat or repeat, repeat),
        memory=arguments.memory,
        limit_connections=arguments.limit_connections,
        pretouch_mib=arguments.pretouch_mib,
    )


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.list:
        for scenario in SCENARIOS:
            where = ", ".join(distance.name for distance in scenario.distances)
            print(f"{scenario.name:<16} {scenario.meaning} ({where})")
        return
    settings = _settings(parser, arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # ends like Ctrl-C: mounts and servers are taken down
    try:
        record = _run(settings, arguments.work)
        if not arguments.no_record:
            _say(f"record: {records.write(record, arguments.results)}")
        if arguments.update_readme:
            report.update_readme(record)
    except BenchError as error:
        parser.exit(2, "\n".join([str(error), *getattr(error, "__notes__", []), ""]))
    except KeyboardInterrupt:
        parser.exit(130, "interrupted; nothing was recorded\n")
    print(report.heading(record))
    print(report.table(record))
    sys.exit(1 if any(result.errors for result in record.results) else 0)


def _run(settings: Settings, work: Path | None) -> Record:
    machine.require_root()
    versions = _versions(settings.subjects)
    with ExitStack() as stack:
        if work is None:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsfs-bench-")))
        work = work.absolute()
        _say("making the data")
        root = data.make(work, settings.sizes)
        # Not below `work`: the path of a Unix socket may have 107 characters only.
        servers = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dsfs-bench-origin-")))
        origin = stack.enter_context(Origin(root, servers))
        date = records.now()
        results = Bench(settings, work, root, origin).run()
        return _record(settings, work, results, date, versions)


if __name__ == "__main__":
    main()
