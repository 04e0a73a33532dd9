"""Records of runs: one JSON file per run, written once, never changed."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.figures import Direction
from bench.machine import KIND_KEYS

FORMAT = 1
RESULTS = Path(__file__).parent / "results"
LOCAL = "local"
"""The distance of a subject that asks no origin."""


@dataclass(slots=True)
class Sample:
    """One measurement of one step; CPU and peak memory are the daemon's, requests and data bytes the origin's.

    `nfs`: requests on the wire of an NFS mount, by name.  What does not apply is 0 or empty.
    """

    value: float
    seconds: float = 0.0
    operations: int = 0
    read_bytes: int = 0
    cpu_s: float = 0.0
    cost: float = 0.0
    peak_bytes: int = 0
    gets: int = 0
    heads: int = 0
    lists: int = 0
    data_bytes: int = 0
    nfs: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """All measurements of one step with one subject at one distance.  `errors`: what failed, if anything."""

    scenario: str
    step: str
    cache: str
    distance: str
    subject: str
    unit: str
    direction: Direction
    cost_unit: str
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        return [sample.value for sample in self.samples]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is compared by: step, distance, subject."""
        return self.step, self.distance, self.subject


@dataclass(slots=True)
class Record:
    """One run.  `settings` holds all that changes what is measured: only equal ones are compared.

    `suite`: which program measured, and so how its table looks (bench.report).
    """

    date: str
    commit: str
    machine: dict[str, object]
    versions: dict[str, str]
    settings: dict[str, object]
    results: list[Result]
    suite: str = "disk"

    @property
    def kind(self) -> tuple[object, ...]:
        return tuple(self.machine.get(key) for key in KIND_KEYS)


def now() -> str:
    """The date as records and their names hold it: UTC, to the second, without characters a path dislikes."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H%M%SZ")


def commit_of(project: Path) -> str:
    """Short hash of the checked-out commit, "-dirty" where tracked files differ; "none": no commit."""
    git = ["git", "--no-optional-locks", "-C", str(project)]
    head = subprocess.run(
        [*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False
    )
    if head.returncode != 0:
        return "none"
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("-dirty" if changed.stdout.strip() else "")


def write(record: Record, directory: Path) -> Path:
    """A new file; FileExistsError rather than a change to one that is there."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{record.date}-{record.commit}.json"
    with path.open("x") as file:
        json.dump({"format": FORMAT} | asdict(record), file, indent=1)
        file.write("\n")
    return path


def read(path: Path) -> Record:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content.pop("format") != FORMAT:
            raise BenchError(f"{path}: a format this version does not know")
        results = [
            Result(**result | {"samples": [Sample(**sample) for sample in result["samples"]]})
            for result in content.pop("results")
        ]
        return Record(**content, results=results)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise BenchError(f"{path}: not a record ({error})") from error


def stored(directory: Path) -> list[Path]:
    """All records, oldest first: their names begin with the date."""
    return sorted(directory.glob("*.json"))


def comparable(one: Record, other: Record) -> bool:
    """Whether two runs measured the same thing on the same kind of machine."""
    alike = (one.suite, one.kind) == (other.suite, other.kind)
    return alike and _significant(one.settings) == _significant(other.settings)


def _significant(settings: Mapping[str, object]) -> dict[str, object]:
    """How often a thing is measured does not change what it is."""
    return {name: value for name, value in settings.items() if name != "repeat"}


def find(results: Sequence[Result], step: str, distance: str, subject: str) -> Result | None:
    """The result of a step; that of a subject without an origin stands for every distance."""
    for result in results:
        if result.key in ((step, distance, subject), (step, LOCAL, subject)):
            return result
    return None
