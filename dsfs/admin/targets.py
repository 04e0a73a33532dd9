"""The arguments of verbs.

People name NAME, NAME/VERSION or NAME/VERSION/PATH, or the path of one of them below the mountpoint.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsfs.model.errors import UsageError
from dsfs.model.moment import MOST_SECONDS

_MOST_BYTES = 2**63


@dataclass(frozen=True, slots=True)
class Form:
    """What a verb takes: `least` to `most` (None: any number of) components; `expected` says it to people."""

    expected: str
    least: int = 0
    most: int | None = None

    def names_in(self, target: str, mountpoint: Path) -> list[str]:
        """The components of the target, none for the mountpoint itself; UsageError if it is not of this form."""
        path = Path(target)
        if path.is_absolute():
            if not path.is_relative_to(mountpoint):
                raise UsageError(f"{target!r} is not below the mountpoint {mountpoint}")
            path = path.relative_to(mountpoint)
        count = len(path.parts)
        if count < self.least or (self.most is not None and count > self.most):
            raise UsageError(f"{target!r}: expected {self.expected}")
        return list(path.parts)


ANYTHING = Form("NAME, NAME/VERSION or NAME/VERSION/PATH")
VERSIONS = Form("NAME or NAME/VERSION", most=2)
VERSION = Form("NAME/VERSION", least=2, most=2)
FILE = Form("NAME/VERSION/PATH", least=3)


def text_of(args: dict[str, Any], name: str, default: str | None = None) -> str:
    """The argument of that name; UsageError if it is no text, or missing (null counts as that) without a default."""
    value = args.get(name)
    if value is None:
        value = default
    if not isinstance(value, str):
        fault = "is missing" if value is None else f"is no text: {value!r}"
        raise UsageError(f"argument {name!r} {fault}")
    return value


def number_of(args: dict[str, Any], name: str) -> float | None:
    """The argument of that name, a time in seconds; None if it is missing.  UsageError if it is none."""
    value = args.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < MOST_SECONDS:
        raise UsageError(f"argument {name!r} is no time between 1970 and 2242: {value!r}")
    return float(value)


def size_of(args: dict[str, Any], name: str) -> int:
    """The argument of that name, a number of bytes; 0 if it is missing.  UsageError if it is none."""
    value = args.get(name)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_BYTES:
        raise UsageError(f"argument {name!r} is no number of bytes: {value!r}")
    return value
