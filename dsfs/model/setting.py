"""The kinds of values a configuration key may hold: how each is read from TOML, written and described."""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from dsfs.model import quantity
from dsfs.model.s3url import EXPECTED_S3_URL, S3Url, parse_s3_url

T = TypeVar("T")

_ENDPOINT = re.compile(r"https?://[^/\s?#@]+(/[^\s?#]*)?")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value.

    `expected` completes the sentence "expected ...".  `parse` takes what TOML gave and raises ValueError;
    `show` gives TOML that `parse` turns into an equal value.
    """

    expected: str
    unit: str
    parse: Callable[[object], T]
    show: Callable[[T], str]


def toml_string(value: object) -> str:
    """str(value) as a TOML basic string (JSON's escapes are TOML's, only DEL is legal in JSON alone)."""
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def from_text(
    expected: str, parse: Callable[[str], T], show: Callable[[T], str] = str, unit: str = ""
) -> Kind[T]:
    """A kind that is written as a TOML string."""

    def parse_string(raw: object) -> T:
        if not isinstance(raw, str):
            raise ValueError(f"expected {expected}")
        return parse(raw)

    return Kind(expected, unit, parse_string, lambda value: toml_string(show(value)))


def _checked(expected: str, accepts: Callable[[str], bool]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not accepts(text):
            raise ValueError(f"expected {expected}")
        return text

    return parse


def or_nothing(kind: Kind[T]) -> "Kind[T | None]":
    """The kind, or "" for None."""
    return Kind(
        f'{kind.expected}, or ""',
        kind.unit,
        lambda raw: None if raw == "" else kind.parse(raw),
        lambda value: '""' if value is None else kind.show(value),
    )


def _absolute_path(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise ValueError("expected an absolute path")
    return Path(normpath("/" + text.lstrip("/")))


ABSOLUTE_PATH = from_text("an absolute path", _absolute_path, unit="path")


def size(*, at_least: str) -> Kind[int]:
    """Bytes, not fewer than `at_least`."""
    least_bytes = quantity.parse_size(at_least)

    def parse(text: str) -> int:
        size_bytes = quantity.parse_size(text)
        if size_bytes < least_bytes:
            raise ValueError(f"expected at least {at_least}")
        return size_bytes

    return from_text(quantity.EXPECTED_SIZE, parse, quantity.exact_size, f"size, at least {at_least}")


def duration(*, at_least: str, at_most: str) -> Kind[float]:
    """Seconds between two bounds."""
    least_s, most_s = quantity.parse_duration(at_least), quantity.parse_duration(at_most)

    def parse(text: str) -> float:
        duration_s = quantity.parse_duration(text)
        if not least_s <= duration_s <= most_s:
            raise ValueError(f"expected {at_least} to {at_most}")
        return duration_s

    return from_text(quantity.EXPECTED_DURATION, parse, quantity.exact_duration, f"duration, {at_least} to {at_most}")


SHARE = from_text(quantity.EXPECTED_SHARE, quantity.parse_share, unit="share")


def count(*, at_least: int, at_most: int) -> Kind[int]:
    """A whole number between two bounds."""
    expected = f"a whole number, {at_least} to {at_most}"

    def parse(raw: object) -> int:
        if not isinstance(raw, int) or isinstance(raw, bool) or not at_least <= raw <= at_most:
            raise ValueError(f"expected {expected}")
        return raw

    return Kind(expected, f"number, {at_least} to {at_most}", parse, str)


def _parse_flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError("expected true or false")
    return raw


FLAG: Kind[bool] = Kind("true or false", "flag", _parse_flag, lambda value: "true" if value else "false")


def choice(*options: str) -> Kind[str]:
    """One of a few words."""
    expected = " or ".join(f'"{option}"' for option in options)
    return from_text(expected, _checked(expected, options.__contains__), unit="word")


_EXPECTED_ENDPOINT = "http://<host>[:<port>] or https://..., without credentials"


def _is_endpoint(url: str) -> bool:
    if not _ENDPOINT.fullmatch(url):
        return False
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port beyond 65535, or of brackets around what is no IPv6 address
        return False


_EXPECTED_REGION = 'the name of a region, such as "eu-central-1"'

LOCATION: Kind[S3Url] = from_text(EXPECTED_S3_URL, parse_s3_url, unit="URL")
ENDPOINT = from_text(
    _EXPECTED_ENDPOINT,
    lambda text: _checked(_EXPECTED_ENDPOINT, _is_endpoint)(text).rstrip("/"),
    unit="URL",
)
REGION = from_text(
    _EXPECTED_REGION,
    _checked(_EXPECTED_REGION, lambda name: bool(re.fullmatch(r"[A-Za-z0-9-]+", name, re.ASCII))),
    unit="name",
)


_EXPECTED_MODE = 'an octal string without write bits (the mount is read-only), such as "0444" or "0440"'


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text, re.ASCII) or int(text, 8) & 0o222:
        raise ValueError(f"expected {_EXPECTED_MODE}")
    return int(text, 8)


MODE = from_text(_EXPECTED_MODE, _mode, lambda mode: f"{mode:04o}", "mode")


def component(text: str) -> str:
    """`text`, if it can be the name of a directory; otherwise ValueError."""
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        length = 0
    if text in (".", "..") or "/" in text or "\0" in text or not 1 <= length <= 255:
        raise ValueError("expected the name of a directory: 1 to 255 bytes, no slash, not . or ..")
    return text


COMPONENT = from_text("the name of a directory", component, unit="name")


def nearest(word: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the most similar known word, or '' if none is similar."""
    import difflib  # not worth its import time unless something is wrong

    similar = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {similar[0]}?)" if similar else ""


def shown(raw: Any) -> str:
    """A value out of a TOML file for an error message, at most 60 characters of it."""
    text = json.dumps(raw, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
