"""What the doctor found, for people and for machines."""

import dataclasses
import socket
from collections import Counter
from collections.abc import Sequence
from io import StringIO
from typing import Any

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
    """Text for a terminal, as wide as that is, or for a pipe: a page for each area."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        self._is_terminal = is_terminal

    def area(self, title: str, rows: Sequence[Row]) -> str:
        """The checks of an area with verdict, measured value and remedy."""
        heading = Text(printable(title), style="bold")
        reasons = {row.finding.measured for row in rows if row.finding.verdict is Verdict.UNKNOWN}
        if len(reasons) == 1 and all(row.finding.verdict is Verdict.UNKNOWN for row in rows):
            return self._text(heading, Text(printable(f"  not checked: {reasons.pop()}")), "")
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for overflow in ("ignore", "ignore", "fold"):
            table.add_column(overflow=overflow, no_wrap=overflow == "ignore")
        for row in rows:
            style = _STYLES[row.finding.verdict]
            said = Text(printable(row.finding.measured))
            if row.finding.remedy:
                said.append("\n" + printable(row.finding.remedy), style="italic")
            table.add_row(f"  {row.check}", Text(row.finding.verdict.value, style=style), said)
        return self._text(heading, table, "")

    def summary(self, rows: Sequence[Row]) -> str:
        """How many checks have each verdict."""
        counts = Counter(row.finding.verdict for row in rows)
        parts = [f"{counts[verdict]} {verdict.value}" for verdict in reversed(Verdict) if counts[verdict]]
        return self._text(Text(", ".join(parts)))

    def _text(self, *parts: Text | Table | str) -> str:
        text = StringIO()
        console = Console(
            file=text, force_terminal=self._is_terminal, width=None if self._is_terminal else _WIDE,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip
        console.print(*parts, sep="\n")
        return text.getvalue()
