"""What the doctor found, for people and for machines."""

import dataclasses
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dsfs import __version__
from dsfs.doctor.check import Verdict, worst_of
from dsfs.doctor.examine import Row
from dsfs.model.printable import printable

EXIT_WARN = 5
EXIT_FAIL = 6
_STYLES = {
    Verdict.UNKNOWN: "dim", Verdict.OK: "green", Verdict.NOTE: "cyan", Verdict.WARN: "yellow", Verdict.FAIL: "bold red",
}  # fmt: skip
_WIDE = 100_000  # a pipe has no width: what goes into one must not be folded


def exit_code(rows: Sequence[Row]) -> int:
    """0 unless something warns or fails."""
    return {Verdict.WARN: EXIT_WARN, Verdict.FAIL: EXIT_FAIL}.get(worst_of(row.finding.verdict for row in rows), 0)


def to_json(rows: Sequence[tuple[str, Row]]) -> dict[str, Any]:
    """`rows`: with the title of their area.  `value` is what was measured, by field names with their units."""
    return {
        "dsfs": __version__,
        "node": socket.gethostname(),
        "worst": worst_of(row.finding.verdict for _, row in rows).value,
        "checks": [
            {
                "area": title,
                "check": row.check,
                "verdict": row.finding.verdict.value,
                "measured": row.finding.measured,
                "remedy": row.finding.remedy,
                "value": _plain(row.value),
                "seconds": round(row.seconds, 3),
            }
            for title, row in rows
        ],
    }


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


class Pages:
    """Writes area after area, as they are done."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stdout
        width = None if stream.isatty() else _WIDE
        self._console = Console(file=stream, width=width, highlight=False, markup=False, emoji=False)

    def area(self, title: str, rows: Sequence[Row]) -> None:
        self._console.print(Text(printable(title), style="bold"))
        reasons = {row.finding.measured for row in rows if row.finding.verdict is Verdict.UNKNOWN}
        if len(reasons) == 1 and all(row.finding.verdict is Verdict.UNKNOWN for row in rows):
            self._console.print(Text(printable(f"  not checked: {reasons.pop()}")), "", sep="\n")
            return
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for overflow in ("ignore", "ignore", "fold"):
            table.add_column(overflow=overflow, no_wrap=overflow == "ignore")
        for row in rows:
            style = _STYLES[row.finding.verdict]
            said = Text(printable(row.finding.measured))
            if row.finding.remedy:
                said.append("\n" + printable(row.finding.remedy), style="italic")
            table.add_row(f"  {row.check}", Text(row.finding.verdict.value, style=style), said)
        self._console.print(table, "", sep="\n")

    def summary(self, rows: Sequence[Row]) -> None:
        counts = Counter(row.finding.verdict for row in rows)
        parts = [f"{counts[verdict]} {verdict.value}" for verdict in reversed(Verdict) if counts[verdict]]
        self._console.print(Text(", ".join(parts)))
