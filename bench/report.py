"""The table of a record, and its place in the README.

`python -m bench.report [RECORD]` prints it; `--update-readme` puts it between the markers of bench/README.md.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import records
from bench.errors import BenchError
from bench.figures import ratio, short, spread
from bench.records import LOCAL, Record, Result, Sample

README = Path(__file__).parent / "README.md"
OURS = "dsfs"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """The table of a suite: its columns, those that dsfs is compared with, and its markers in the README."""

    shown: tuple[str, ...]
    against: tuple[str, ...]
    begin: str
    end: str


LAYOUTS = {
    "disk": Layout(
        ("native", "small pages", OURS, "rclone", "obstore"),
        ("native", "small pages", "obstore", "rclone"),
        "<!-- results:begin -->",
        "<!-- results:end -->",
    ),
    "nfs": Layout(
        (OURS, "one node", "each for itself", "plain NFS", "no claims"),
        ("one node", "each for itself", "plain NFS", "no claims"),
        "<!-- nfs:begin -->",
        "<!-- nfs:end -->",
    ),
    "simulate": Layout(
        (OURS, "LRU", "Belady"),
        ("LRU", "Belady"),
        "<!-- simulate:begin -->",
        "<!-- simulate:end -->",
    ),
    "census": Layout((OURS,), (), "<!-- census:begin -->", "<!-- census:end -->"),
}


def table(record: Record) -> str:
    """Markdown, columns aligned, so that it can be read in a terminal too."""
    layout = LAYOUTS[record.suite]
    subjects = [name for name in layout.shown if _has(record, name)]
    against = [name for name in layout.against if name in subjects and OURS in subjects]
    rows = [["", *subjects, *(f"{OURS} : {name}" for name in against)]]
    for step, distance in _cells(record):
        row = {name: records.find(record.results, step, distance, name) for name in subjects}
        some = next(result for result in row.values() if result is not None)
        where = "" if distance == LOCAL else f", {distance}"
        rows.append(
            [f"{step}{where}, {some.unit}"]
            + [_value(row[name]) for name in subjects]
            + [_ratio(row[OURS], row[name]) for name in against]
        )
        for label, text in _details(some):
            details = [
                text(result.samples) if result and result.distance != LOCAL else "" for result in row.values()
            ]
            if any(details):
                rows.append([f"  {label}", *details, *("" for _ in against)])
    return _markdown(rows)


def heading(record: Record) -> str:
    """Where, when and with what the table was measured, in two lines."""
    machine = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in record.settings.items() if name != "distances"
    )
    return (
        f"{record.date}, commit {record.commit}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}; {versions}; {settings}.\n"
        "Median (smallest to largest).  Ratios: above 1 means dsfs is better.\n"
    )


def _has(record: Record, subject: str) -> bool:
    return any(result.subject == subject for result in record.results)


def _cells(record: Record) -> list[tuple[str, str]]:
    """Step and distance of every row; local ones only where nothing remote was measured."""
    remote = {result.step for result in record.results if result.distance != LOCAL}
    cells = dict.fromkeys(
        (result.step, result.distance)
        for result in record.results
        if result.distance != LOCAL or result.step not in remote
    )
    steps = list(dict.fromkeys(step for step, _ in cells))
    distances = list(dict.fromkeys(distance for _, distance in cells))
    return sorted(cells, key=lambda cell: (distances.index(cell[1]), steps.index(cell[0])))


def _value(result: Result | None) -> str:
    if result is None:
        return ""
    found = spread(result.values)
    if found is None:
        return "failed" if result.errors else ""
    text = short(found.median)
    if len(result.values) > 1:
        text += f" ({short(found.low)} to {short(found.high)})"
    return f"{text}, {len(result.errors)} failed" if result.errors else text


def _ratio(ours: Result | None, theirs: Result | None) -> str:
    if ours is None or theirs is None or not ours.values or not theirs.values:
        return ""
    found = ratio(median(ours.values), median(theirs.values), ours.direction)
    return "" if found is None else short(found)


def _details(result: Result) -> list[tuple[str, Callable[[Sequence[Sample]], str]]]:
    """The lines below a value: what it cost the daemon and, when cold, the origin."""
    lines: list[tuple[str, Callable[[Sequence[Sample]], str]]] = [
        # Nothing should be asked when it is warm: then the line is empty and left out.
        ("origin GET + HEAD + LIST", _requests),
        (f"daemon CPU, {result.cost_unit}", lambda samples: _median_of(samples, lambda sample: sample.cost)),
    ]
    if result.cache == "cold":
        lines += [
            ("bytes fetched / bytes read", _amplification),
            (
                "peak memory, MiB",
                lambda samples: _median_of(samples, lambda sample: sample.peak_bytes / _MIB),
            ),
        ]
    return lines


def _median_of(samples: Sequence[Sample], of: Callable[[Sample], float]) -> str:
    return short(median(of(sample) for sample in samples)) if samples else ""


def _requests(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    counts = [(sample.gets, sample.heads, sample.lists) for sample in samples]
    if not any(any(count) for count in counts):
        return ""
    return " + ".join(f"{median(kind):.0f}" for kind in zip(*counts, strict=True))


def _amplification(samples: Sequence[Sample]) -> str:
    return _median_of(
        [sample for sample in samples if sample.read_bytes], lambda s: s.data_bytes / s.read_bytes
    )


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def update_readme(record: Record, readme: Path = README) -> None:
    """Puts heading and table between the markers; what stood there goes."""
    layout = LAYOUTS[record.suite]
    before, begin, rest = readme.read_text().partition(layout.begin)
    _, end, after = rest.partition(layout.end)
    if not begin or not end:
        raise BenchError(f"{readme.name} lacks the markers {layout.begin} and {layout.end}")
    readme.write_text(f"{before}{begin}\n{heading(record)}\n{table(record)}{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description="Print the table of a record."
    )
    parser.add_argument("record", nargs="?", type=Path, help="a file of bench/results (default: the newest)")
    parser.add_argument("--update-readme", action="store_true", help="put it into bench/README.md")
    arguments = parser.parse_args()
    paths = [arguments.record] if arguments.record else records.stored(records.RESULTS)[-1:]
    if not paths:
        parser.error("there is no record yet: make bench")
    try:
        record = records.read(paths[0])
        if arguments.update_readme:
            update_readme(record)
    except BenchError as error:
        parser.exit(2, f"{error}\n")
    print(heading(record))
    print(table(record))


if __name__ == "__main__":
    main()
