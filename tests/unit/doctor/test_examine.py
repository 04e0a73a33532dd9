"""Checks run in a process that can be given up: every way a measurement can end, and what becomes of the others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dsfs.doctor.check import Area, Check, Finding, NotCheckedError, Verdict, note, ok, worst_of
from dsfs.doctor.child import Child, ChildError
from dsfs.doctor.examine import Row, examine
from dsfs.model.errors import OriginTemporaryError

# Where Python warns that a process with several threads forks: the test runner has some, `dsfs doctor` has not.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def check(name: str, measure: Callable[[Any], object], deadline_s: float = 10.0) -> Check[Any, Any]:
    return Check(name, "", "", measure, lambda value: ok(str(value)), deadline_s, remedy="the remedy")


def area(*checks: Check[Any, Any], **options: Any) -> Area[Any]:
    @contextmanager
    def opened() -> Iterator[str]:
        yield "subject"

    return Area("area", options.pop("open", opened), checks, "it is silent", **options)


def raising(error: Exception) -> Callable[[Any], object]:
    def measure(subject: Any) -> object:
        raise error

    return measure


def silence(subject: Any) -> object:
    time.sleep(600)
    return None


def short(rows: Iterator[Row]) -> list[tuple[str, Verdict, str]]:
    return [(row.check, row.finding.verdict, row.finding.measured) for row in rows]


def test_values_cross_over_and_are_judged_here() -> None:
    (row,) = examine(area(check("a", lambda subject: (subject, os.getpid()))))
    assert row.finding.verdict is Verdict.OK
    assert row.value[0] == "subject"
    assert row.value[1] != os.getpid()


def test_an_error_is_a_failure_of_its_check_only() -> None:
    rows = list(
        examine(
            area(
                check("io", raising(OSError(5, "Input/output error"))),
                check("origin", raising(OriginTemporaryError("no answer in time"))),
                check("none", raising(NotCheckedError("there is none"))),
                check("last", lambda subject: 7),
            )
        )
    )
    assert [(row.finding.verdict, row.finding.measured, row.finding.remedy) for row in rows] == [
        (Verdict.FAIL, "[Errno 5] Input/output error", "the remedy"),
        (Verdict.FAIL, "no answer in time", "the remedy"),
        (Verdict.UNKNOWN, "there is none", ""),
        (Verdict.OK, "7", ""),
    ]


def test_permission_is_a_failure_for_root_and_no_verdict_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = check("a", raising(PermissionError(13, "Permission denied", "/mnt/x")))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert short(examine(area(refused))) == [("a", Verdict.FAIL, "Permission denied (/mnt/x)")]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ((_, verdict, measured),) = short(examine(area(refused)))
    assert verdict is Verdict.UNKNOWN
    assert "as root" in measured


def test_silence_is_a_verdict_and_the_rest_is_not_waited_for(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.touch()
    started = time.monotonic()
    rows = short(
        examine(
            area(
                check("first", lambda subject: 1),
                check("silent", silence, deadline_s=0.2),
                check("more", silence),
                clean=left.unlink,
            )
        )
    )
    assert time.monotonic() - started < 5
    assert rows == [
        ("first", Verdict.OK, "1"),
        ("silent", Verdict.FAIL, "no answer within 0.2 s"),
        ("more", Verdict.UNKNOWN, "no answer to silent"),
    ]
    assert not left.exists()


def test_what_was_made_is_removed_also_when_nobody_looks_at_the_end(tmp_path: Path) -> None:
    left = tmp_path / "left"
    rows = examine(
        area(check("make", lambda subject: left.touch()), check("silent", silence), clean=left.unlink)
    )
    assert isinstance(rows, Iterator)
    next(rows)
    assert left.exists()
    rows.close()  # type: ignore[attr-defined]  # as Ctrl-C does
    assert not left.exists()


def test_an_area_that_cannot_be_opened_is_not_checked() -> None:
    def refuse() -> None:
        raise NotCheckedError("not on NFS")

    rows = short(examine(area(check("a", silence), check("b", silence), open=refuse)))
    assert rows == [("a", Verdict.UNKNOWN, "not on NFS"), ("b", Verdict.UNKNOWN, "not on NFS")]


def test_an_error_before_the_first_measurement_is_its_failure() -> None:
    def refuse() -> None:
        raise OriginTemporaryError("no such profile")

    rows = short(examine(area(check("a", silence), check("b", silence), open=refuse)))
    assert rows == [("a", Verdict.FAIL, "no such profile"), ("b", Verdict.UNKNOWN, "see a")]


def test_a_bug_in_a_measurement_is_raised_with_its_traceback() -> None:
    with pytest.raises(ChildError, match="ZeroDivisionError"):
        list(examine(area(check("a", lambda subject: 1 // 0))))


def test_a_child_that_is_killed_is_an_error() -> None:
    child = Child(lambda send: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ChildError, match="without an answer"):
        child.receive(10)
    child.end()


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "from dsfs.doctor.child import Child\n"
        "child = Child(lambda send: (send(os.getpid()), time.sleep(600)))\n"
        "print(child.receive(10), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{done.stdout.strip()}/stat")
    while stat.exists() and stat.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_worst_verdict_counts() -> None:
    assert worst_of([]) is Verdict.UNKNOWN
    assert worst_of([Verdict.OK, Verdict.UNKNOWN]) is Verdict.OK
    assert worst_of([Verdict.NOTE, Verdict.FAIL, Verdict.WARN]) is Verdict.FAIL
    assert note("x") == Finding(Verdict.NOTE, "x", "")
