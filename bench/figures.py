"""Arithmetic on measured values: median, spread, and ratios in which above 1 always means better."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

Direction = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of some values."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """None where there are no values."""
    return Spread(median(values), min(values), max(values)) if values else None


def ratio(ours: float, theirs: float, direction: Direction) -> float | None:
    """How many times better ours is than theirs (0.5 = half as good); None where one of them is zero."""
    if ours <= 0 or theirs <= 0:
        return None
    return ours / theirs if direction == "higher" else theirs / ours


def short(value: float) -> str:
    """Three significant digits, never an exponent: 0.0123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    digits = 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 else 4
    return f"{value:.{digits}f}"
