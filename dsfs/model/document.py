"""Small documents that nodes write for each other: a dataclass as a JSON object, and back.

A document comes from another node, perhaps of another version of dsfs, perhaps damaged: what is read is checked field
by field, unknown fields are left alone, and whatever else is wrong is a ValueError, in a few words.
"""

import json
import math
from dataclasses import asdict, is_dataclass
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_MOST_NUMBER = 2**63


def encode(value: Any, format: int) -> bytes:
    """The dataclass as one line; ASCII, so that any name survives, also one that is not UTF-8."""
    return json.dumps({"format": format, **asdict(value)}, separators=(",", ":")).encode() + b"\n"


def decode(kind: type[T], content: bytes, format: int, most_bytes: int) -> T:
    """What the document says; ValueError if it is longer than `most_bytes` or cannot be understood."""
    if len(content) > most_bytes:
        raise ValueError(f"longer than {most_bytes} bytes")
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    if found.get("format") != format:
        raise ValueError(f"format {str(found.get('format'))[:20]}, not {format}")
    value: T = _checked(kind, found, kind.__name__.lower())
    return value


def _checked(kind: Any, found: object, name: str) -> Any:
    """`found`, which JSON made, as a value of the type `kind`."""
    make: Any = kind
    if is_dataclass(kind) and isinstance(found, dict):
        hints = _hints(make)
        if missing := hints.keys() - found.keys():
            raise ValueError(f"{name} without {min(missing)}")
        return make(**{field: _checked(hint, found[field], field) for field, hint in hints.items()})
    if get_origin(kind) is tuple and isinstance(found, list):
        return tuple(_checked(get_args(kind)[0], each, name) for each in found)
    if kind is float and type(found) is int:
        found = float(found) if found < _MOST_NUMBER else math.inf
    if type(found) is not kind or (isinstance(found, int | float) and not 0 <= found < _MOST_NUMBER):
        raise ValueError(f"{name} is not what it should be")
    return found


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
