"""Compares a record with an earlier one: `python -m bench.compare [NEW [OLD]]`.

Without names: the newest record, and the last before it, beside it, on the same kind of machine with the same settings.
A change counts where both have MIN_ROUNDS values, the medians differ by more than NOISE and the two ranges do
not overlap.  Exit code: 1 if anything of dsfs became worse, 2 if there is nothing to compare.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench import records
from bench.errors import BenchError
from bench.figures import Direction, ratio, short, spread
from bench.records import Record

NOISE = 1.15  # the same code, minutes apart, was seen to differ by 10 to 15 %
MIN_ROUNDS = 3
Verdict = Literal["better", "worse", "same", "unknown"]


@dataclass(frozen=True, slots=True)
class Change:
    """One step then and now; `factor` above 1 is better."""

    step: str
    distance: str
    subject: str
    unit: str
    before: float
    now: float
    factor: float | None
    verdict: Verdict


def judge(before: list[float], now: list[float], direction: Direction) -> tuple[float | None, Verdict]:
    """How many times better it became, and whether that is more than noise."""
    old, new = spread(before), spread(now)
    if old is None or new is None:
        return None, "unknown"
    factor = ratio(new.median, old.median, direction)
    if factor is None or min(len(before), len(now)) < MIN_ROUNDS:
        return factor, "unknown"
    overlapping = new.low <= old.high and old.low <= new.high
    if overlapping or 1 / NOISE <= factor <= NOISE:
        return factor, "same"
    return factor, "better" if factor > 1 else "worse"


def changes(old: Record, new: Record) -> list[Change]:
    """Every result that both records have."""
    earlier = {result.key: result for result in old.results}
    found = []
    for result in new.results:
        past = earlier.get(result.key)
        if past is None or not past.values or not result.values:
            continue
        factor, verdict = judge(past.values, result.values, result.direction)
        before, now = spread(past.values), spread(result.values)
        assert before is not None
        assert now is not None
        found.append(Change(*result.key, result.unit, before.median, now.median, factor, verdict))
    return found


def predecessor(new: Record, paths: list[Path]) -> Record | None:
    """The last record before this one that measured the same thing on the same kind of machine."""
    for path in reversed(paths):
        candidate = records.read(path)
        if candidate.date < new.date and records.comparable(candidate, new):
            return candidate
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("new", nargs="?", type=Path, help="default: the newest record")
    parser.add_argument("old", nargs="?", type=Path, help="default: the last comparable one before it")
    arguments = parser.parse_args()
    stored = records.stored(arguments.new.parent if arguments.new else records.RESULTS)
    try:
        new = records.read(arguments.new or _newest(stored))
        old = records.read(arguments.old) if arguments.old else predecessor(new, stored)
        if old is None:
            raise BenchError("there is no earlier record of the same kind of machine and the same settings")
    except BenchError as error:
        parser.exit(2, f"{error}\n")
    found = changes(old, new)
    print(f"{old.date} {old.commit} -> {new.date} {new.commit}")
    for change in found:
        where = f"{change.step}, {change.distance}, {change.subject}"
        factor = "" if change.factor is None else f"x {short(change.factor)}"
        amounts = f"{short(change.before):>9} -> {short(change.now):>9} {change.unit:<7}"
        print(f"{where:<60} {amounts} {factor:<8} {change.verdict}")
    sys.exit(1 if any(change.verdict == "worse" and change.subject == "dsfs" for change in found) else 0)


def _newest(stored: list[Path]) -> Path:
    if not stored:
        raise BenchError("there is no record yet: make bench")
    return stored[-1]


if __name__ == "__main__":
    main()
