"""Sizes ("2TiB"), durations ("30s") and shares ("5%"): read from text, and written for people or exactly.

Every parser raises ValueError with what is wrong and what is expected.  A number without a unit is refused:
nobody should have to guess whether "30" means seconds or milliseconds.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "PB": 10**15,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "PiB": 2**50,
}
_BINARY_UNITS = ("PiB", "TiB", "GiB", "MiB", "KiB", "B")
DURATION_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LARGEST_DURATION_FIRST = ("d", "h", "m", "s", "ms")

# More digits than any disk or clock has; without a bound, int() of a megabyte of digits takes seconds.
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) *([A-Za-z%]*)", re.ASCII)

EXPECTED_SIZE = 'a size with its unit, such as "512MiB" or "2TiB"'
EXPECTED_DURATION = 'a duration with its unit, such as "250ms", "30s", "10m", "12h" or "7d"'
EXPECTED_SHARE = 'a percentage such as "5%" or a size such as "100GiB"'


def _split(text: str, expected: str) -> tuple[Decimal, str]:
    """The number and the unit of a quantity."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"expected {expected}")
    return Decimal(match[1]), match[2]


def _scaled(text: str, units: dict[str, int], expected: str) -> int:
    """The quantity in the smallest unit, rounded down."""
    number, unit = _split(text, expected)
    if not unit and number == 0:
        return 0
    if unit in units:
        return int(number * units[unit])
    alike = [known for known in units if known.lower() == unit.lower()]
    if alike:
        raise ValueError(f"expected {expected} (did you mean {alike[-1]}?)")
    raise ValueError(f"expected {expected}")


def parse_size(text: str) -> int:
    """Bytes of "512MiB" (binary) or "512MB" (decimal)."""
    return _scaled(text, SIZE_UNITS, EXPECTED_SIZE)


def format_size(size_bytes: int) -> str:
    """A size for people: three significant digits, binary unit ("1.46 TiB")."""
    for unit in _BINARY_UNITS:
        scale = SIZE_UNITS[unit]
        if abs(size_bytes) >= scale and unit != "B":
            return f"{_three_digits(size_bytes / scale)} {unit}"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """A size for a configuration file: the largest binary unit that loses nothing ("1536MiB")."""
    unit = next(unit for unit in _BINARY_UNITS if size_bytes % SIZE_UNITS[unit] == 0)
    return f"{size_bytes // SIZE_UNITS[unit]}{unit}" if size_bytes else "0B"


def parse_duration(text: str) -> float:
    """Seconds of "250ms", "30s", "10m", "12h" or "7d"; fractions of a millisecond are cut off."""
    return _scaled(text, DURATION_UNITS_MS, EXPECTED_DURATION) / 1000


def format_duration(duration_s: float) -> str:
    """A duration for people: its two largest units ("3d 4h", "2m 5s"), or milliseconds below a second."""
    if duration_s < 1:
        return f"{max(0, round(duration_s * 1000))}ms"
    rest_ms = round(duration_s) * 1000
    words: list[str] = []
    for unit in ("d", "h", "m", "s"):
        count, rest_ms = divmod(rest_ms, DURATION_UNITS_MS[unit])
        if count or words:
            words.append(f"{count}{unit}" if count else "")
    return " ".join(word for word in words[:2] if word)


def exact_duration(duration_s: float) -> str:
    """A duration for a configuration file: the largest unit that loses no millisecond ("90s")."""
    duration_ms = round(duration_s * 1000)
    unit = next(unit for unit in _LARGEST_DURATION_FIRST if duration_ms % DURATION_UNITS_MS[unit] == 0)
    return f"{duration_ms // DURATION_UNITS_MS[unit]}{unit}" if duration_ms else "0s"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole: so many bytes, or so many hundredths of it."""

    pct: Fraction | None = None
    size_bytes: int | None = None

    def __post_init__(self) -> None:
        if (self.pct is None) == (self.size_bytes is None):
            raise ValueError("a share is either a percentage or a size")

    def of(self, total_bytes: int) -> int:
        """Bytes of the share when the whole has `total_bytes`, rounded up."""
        if self.pct is None:
            return self.size_bytes or 0
        return -int(-self.pct * total_bytes // 100)

    def __str__(self) -> str:
        if self.pct is None:
            return exact_size(self.size_bytes or 0)
        return f"{float(self.pct):.9f}".rstrip("0").rstrip(".") + "%"


def parse_share(text: str) -> Share:
    """The share that "5%" (of the whole) or "100GiB" (whatever the whole is) means."""
    number, unit = _split(text, EXPECTED_SHARE)
    if unit != "%":
        try:
            return Share(size_bytes=parse_size(text))
        except ValueError:
            raise ValueError(f"expected {EXPECTED_SHARE}") from None
    if number > 100:
        raise ValueError(f"expected {EXPECTED_SHARE}, at most 100%")
    return Share(pct=Fraction(number))


def format_pct(part: int, whole: int) -> str:
    """How much of the whole the part is; "100 %" only when it is all, "0 %" only when it is nothing."""
    if whole <= 0 or part >= whole:
        return "100 %"
    if part <= 0:
        return "0 %"
    tenths = min(999, max(1, part * 1000 // whole))
    return f"{tenths / 10:.1f} %"


def _three_digits(value: float) -> str:
    """`value` (below 1024) with three significant digits, as far as they lie behind the point."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
