"""What a fault proxy can be told to do wrong: one Fault, or a named script of several (`faults/*.toml`)."""

import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

SCRIPTS = Path(__file__).parent / "faults"

Action = Literal[
    "status",  # answer with `status` and an S3 error with `code` (or `body`); the server is not asked
    "reset",  # TCP reset: before the answer, or behind `after_bytes` of the body
    "stall",  # silence, at first or behind `after_bytes`, for `seconds` or until `release()`; then go on
    "cut",  # close the connection, in good order, behind `after_bytes` of the body
    "whole",  # 200 and the whole object where a range was asked for
    "headers",  # other response fields: `headers` replaces or adds, `drop` leaves out
    "content_range",  # a Content-Range moved by `shift` bytes, with `grow` bytes more in its total
    "delay",  # wait for `seconds`, then go on
]


@dataclass(frozen=True)
class Fault:
    """One rule: which requests it is for, and what happens to them.

    `method` is GET (of an object), HEAD, PUT, DELETE, LIST (a GET of a bucket itself) or * for all; `key` and
    `range` are globs over the decoded key and the Range field ("" where there is none), `query` over the raw
    query.  Of the matching requests it strikes numbers `first` to `first + times - 1`, counting from 1;
    `times = 0` means all from `first` on.
    """

    action: Action
    method: str = "GET"
    key: str = "*"
    range: str = "*"
    query: str = "*"
    first: int = 1
    times: int = 0
    status: int = 500
    code: str = "InternalError"
    body: str | None = None
    after_bytes: int | None = None
    seconds: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    shift: int = 0
    grow: int = 0

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise ValueError(f"no action {self.action!r}; there are {', '.join(get_args(Action))}")
        if self.action == "cut" and self.after_bytes is None:
            raise ValueError("cut needs after_bytes")
        if self.action == "delay" and self.seconds is None:
            raise ValueError("delay needs seconds")

    def matches(self, method: str, key: str, byte_range: str | None, query: str) -> bool:
        return (
            self.method in (method, "*")
            and fnmatchcase(key, self.key)
            and fnmatchcase(byte_range or "", self.range)
            and fnmatchcase(query, self.query)
        )

    def strikes(self, number: int) -> bool:
        """Whether the matching request of this number (from 1) is one of its victims."""
        return number >= self.first and (self.times == 0 or number < self.first + self.times)


def load_faults(name: str) -> list[Fault]:
    """The rules of `faults/<name>.toml`.

    Every rule counts all requests that match it; of those that strike one request only the first acts.
    """
    with (SCRIPTS / f"{name}.toml").open("rb") as file:
        script = tomllib.load(file)
    return [Fault(**{**rule, "drop": tuple(rule.get("drop", ()))}) for rule in script["fault"]]


def script_names() -> list[str]:
    return sorted(path.stem for path in SCRIPTS.glob("*.toml"))
