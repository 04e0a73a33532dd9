"""Goes through the checks of an area: measures in a child process, within deadlines, and judges here.

A measurement that does not come back is a verdict, too; the rest of its area is then not checked, so that the whole
ends however many servers are silent.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dsfs.doctor.check import Area, Check, Finding, NotCheckedError, Verdict, fail
from dsfs.doctor.child import Child, ChildError, Send
from dsfs.model.errors import DsfsError

CLEAN_S = 5.0
_NO_PERMISSION = "no permission: run it as root or as the daemon's user"


@dataclass(frozen=True, slots=True)
class Row:
    """A check and what came of it; `value` is None where nothing was measured."""

    check: str
    finding: Finding
    value: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class _Measured:
    value: Any
    seconds: float


def examine(area: Area[Any]) -> Iterator[Row]:
    """One row for each check, as soon as it is there.  ChildError for a bug in a measurement."""
    child = Child(lambda send: _measure(area, send))
    silent = ""
    is_clean = False  # the child may be ahead of what is received
    try:
        for check in area.checks:
            if silent:
                yield Row(check.name, Finding(Verdict.UNKNOWN, silent), None, 0.0)
                continue
            try:
                outcome = child.receive(check.deadline_s)
            except TimeoutError:
                silent = f"no answer to {check.name}"
                is_clean = check is area.checks[0]  # which leaves nothing behind, and cleaning would hang, too
                finding = fail(f"no answer within {check.deadline_s:g} s", area.silent)
                yield Row(check.name, finding, None, check.deadline_s)
            else:
                yield _judged(check, outcome)
        if not silent:
            with suppress(TimeoutError):
                child.receive(CLEAN_S)
                is_clean = True
    finally:
        child.end()
        if not is_clean and area.clean is not None:
            _clean(area)


def _measure(area: Area[Any], send: Send) -> None:
    """All checks, in the child."""
    sent = 0
    try:
        with area.open() as subject:
            for check in area.checks:
                send(_measured(check, subject))
                sent += 1
    except NotCheckedError as reason:  # of `open`: none of them can be
        for _ in area.checks[sent:]:
            send(Finding(Verdict.UNKNOWN, str(reason)))
    except (OSError, DsfsError) as error:
        for number, check in enumerate(area.checks[sent:]):
            send(Finding(Verdict.UNKNOWN, f"see {area.checks[0].name}") if number else _ended_with(error, check))
    send(None)


def _measured(check: Check[Any, Any], subject: object) -> _Measured | Finding:
    started = time.monotonic()
    try:
        value = check.measure(subject)
    except (OSError, DsfsError) as error:
        return _ended_with(error, check)
    return _Measured(value, time.monotonic() - started)


def _ended_with(error: OSError | DsfsError, check: Check[Any, Any]) -> Finding:
    match error:
        case NotCheckedError():
            return Finding(Verdict.UNKNOWN, str(error))
        case PermissionError() if os.geteuid() != 0:
            return Finding(Verdict.UNKNOWN, _NO_PERMISSION)
        case OSError():
            return fail(_said(error), check.remedy)
        case _:
            return fail(str(error), check.remedy)


def _said(error: OSError) -> str:
    return f"{error.strerror or type(error).__name__} ({error.filename})" if error.filename else str(error)


def _judged(check: Check[Any, Any], outcome: object) -> Row:
    if isinstance(outcome, Finding):
        return Row(check.name, outcome, None, 0.0)
    assert isinstance(outcome, _Measured)
    return Row(check.name, check.judge(outcome.value), outcome.value, outcome.seconds)


def _clean(area: Area[Any]) -> None:
    """What a measurement that was given up has left; the server may still be silent."""
    assert area.clean is not None
    clean = area.clean
    child = Child(lambda send: send(clean()))
    try:
        with suppress(TimeoutError, ChildError):
            child.receive(CLEAN_S)
    finally:
        child.end()
