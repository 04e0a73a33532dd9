"""What a check is: something that is measured, and a pure judgement of what came of it.

A measurement may wait for a server that never answers, so it runs in a process that can be given up (`examine`), and
its value crosses over: a number, a word, or a frozen dataclass of such.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from dsfs.model.errors import DsfsError

Subject = TypeVar("Subject")
Value = TypeVar("Value")

DEADLINE_S = 10.0


class Verdict(Enum):
    """From harmless to grave."""

    UNKNOWN = "not checked"
    OK = "ok"
    NOTE = "note"  # good to know; nothing needs to be done
    WARN = "warn"  # works, but slower than it could, or not in every case
    FAIL = "fail"  # does not work, or loses what dsfs promises


_BY_GRAVITY = list(Verdict)


def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The gravest; UNKNOWN if there is none."""
    return max(verdicts, key=_BY_GRAVITY.index, default=Verdict.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one check, what was measured, in words, and what to do about it ("" = nothing)."""

    verdict: Verdict
    measured: str
    remedy: str = ""


def ok(measured: str) -> Finding:
    return Finding(Verdict.OK, measured)


def note(measured: str, remedy: str = "") -> Finding:
    return Finding(Verdict.NOTE, measured, remedy)


def warn(measured: str, remedy: str) -> Finding:
    return Finding(Verdict.WARN, measured, remedy)


def fail(measured: str, remedy: str) -> Finding:
    return Finding(Verdict.FAIL, measured, remedy)


class NotCheckedError(DsfsError):
    """There is nothing to measure here, or no permission to; the message says which."""


@dataclass(frozen=True)
class Check(Generic[Subject, Value]):
    """`asks` and `wants`: what is looked at, and what makes the verdict; both stand in the README.

    `remedy` is for a measurement that ends with an error.
    """

    name: str
    asks: str
    wants: str
    measure: Callable[[Subject], Value]
    judge: Callable[[Value], Finding]
    deadline_s: float = DEADLINE_S
    remedy: str = "What dsfs needs here does not work: ask who runs it, with this message."


@dataclass(frozen=True)
class Area(Generic[Subject]):
    """Checks that look at one thing.

    `open` gives what they measure, and takes away again what that made; `clean` does the latter alone, for a process
    that did not get so far.  `silent`: the remedy if a measurement does not come back.
    """

    title: str
    open: Callable[[], AbstractContextManager[Subject]]
    checks: tuple[Check[Subject, Any], ...]
    silent: str
    clean: Callable[[], None] | None = None
