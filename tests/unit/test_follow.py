"""What `dsfs warm` prints: lines, events, a bar; and how it ends."""

import io
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, cast

import pytest

from dsfs.admin import follow
from dsfs.admin.client import ControlClient
from dsfs.admin.warmlines import missing_lines, warm_line
from dsfs.model.errors import DsfsError

GIB = 2**30
WARM: dict[str, Any] = {
    "id": "0123-this", "dataset": "photos", "version": "v1", "path": None, "nodes": "this", "state": "filling",
    "is_over": False, "reason": "", "total_bytes": 10 * GIB, "resident_bytes": 5 * GIB, "rate_bytes_per_s": 2**26,
    "left_s": 80.0, "quiet_s": 0.1, "missing": [], "started_s": 1.0, "ended_s": None,
}  # fmt: skip
COMPLETE = {
    **WARM, "state": "complete", "is_over": True, "resident_bytes": 10 * GIB, "rate_bytes_per_s": 0, "left_s": None,
}  # fmt: skip
PAUSED = {**WARM, "state": "paused", "reason": "backing.limit is reached", "rate_bytes_per_s": 0, "left_s": None}
MISSING = {"reason": "the origin has other objects", "bytes": 4096, "example": "lake/x"}


class Daemon:
    """Answers with one step of a warm after the other; the last one stays."""

    def __init__(self, *steps: Mapping[str, Any]) -> None:
        self._steps = list(steps)

    def call(self, verb: str) -> dict[str, object]:
        assert verb == "warms"
        step = self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]
        return {"warms": [{**WARM, "id": "another"}, step]}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def followed(*steps: Mapping[str, Any], as_json: bool = False, patience_s: float = 300.0) -> None:
    daemon = cast(ControlClient, Daemon(*steps))
    for text in follow.follow(daemon, WARM, as_json=as_json, patience_s=patience_s):
        print(text, end="")


def test_line_says_how_far_how_fast_and_how_long() -> None:
    assert warm_line(WARM) == "photos/v1: filling, 50.0 % of 10.0 GiB, 64.0 MiB/s, 1m 20s left"
    assert warm_line(COMPLETE) == "photos/v1: complete, 100 % of 10.0 GiB"
    assert warm_line(PAUSED) == "photos/v1: paused, 50.0 % of 10.0 GiB (backing.limit is reached)"
    queued = {**WARM, "path": "a/*", "nodes": "all", "state": "queued", "total_bytes": 0, "resident_bytes": 0}
    assert warm_line({**queued, "rate_bytes_per_s": 0, "left_s": None}) == "photos/v1 --path a/* on all nodes: queued"


def test_what_is_missing_is_told_with_the_reason_and_an_example() -> None:
    unknown = {"reason": "not filled yet", "bytes": 10, "example": ""}
    assert missing_lines({**WARM, "missing": [MISSING, unknown]}) == [
        "4.00 KiB missing: the origin has other objects (such as lake/x)",
        "10 B missing: not filled yet",
    ]


def test_lines_come_when_the_state_changes_and_the_end_is_the_last(capsys: pytest.CaptureFixture[str]) -> None:
    followed(WARM, WARM, PAUSED, PAUSED, WARM, COMPLETE)
    states = [line.partition(": ")[2].partition(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert states == ["filling", "paused", "filling", "complete"]


def test_lines_come_every_few_seconds_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now_s)))
    lines = follow.Lines(as_json=False)
    assert sum(len(list(lines.show(WARM))) for _ in range(11)) == 3


def test_events_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    followed(PAUSED, COMPLETE, as_json=True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["event"], event["state"]) for event in events] == [
        ("progress", "filling"), ("progress", "paused"), ("end", "complete"),
    ]  # fmt: skip
    assert events[-1]["resident_bytes"] == 10 * GIB


def test_incomplete_warm_is_an_error_that_says_what_is_missing() -> None:
    ended = {**WARM, "state": "incomplete", "is_over": True, "reason": "drifted", "missing": [MISSING], "left_s": None}
    with pytest.raises(DsfsError) as caught:
        followed(ended)
    assert str(caught.value).splitlines() == [
        "photos/v1: incomplete, 50.0 % of 10.0 GiB, 64.0 MiB/s (drifted)",
        "4.00 KiB missing: the origin has other objects (such as lake/x)",
    ]


def test_patience_with_a_pause_ends_but_the_warm_goes_on() -> None:
    with pytest.raises(DsfsError, match=r"paused.*\n.*goes on by itself.*warm --stop photos/v1") as caught:
        followed(PAUSED, {**PAUSED, "quiet_s": 300.0})
    assert "backing.limit is reached" in str(caught.value)


def test_patience_is_only_for_what_stands_still(capsys: pytest.CaptureFixture[str]) -> None:
    followed({**WARM, "state": "listing", "quiet_s": 1000.0}, {**WARM, "quiet_s": 1000.0}, COMPLETE)
    assert "complete" in capsys.readouterr().out


def test_interrupt_leaves_the_warm_running_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    class Beginning(Daemon):
        def call(self, verb: str, args: object = None) -> dict[str, object]:
            assert verb == "warm"  # and nothing that would end it
            return dict(WARM)

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(follow.begin(cast(ControlClient, Beginning(WARM)), {}, as_json=False, patience_s=1.0))
    assert capsys.readouterr().err == "dsfs: the warm goes on by itself; dsfs warm --stop photos/v1 ends it\n"


def test_daemon_that_has_forgotten_the_warm_is_an_error() -> None:
    with pytest.raises(DsfsError, match="does not know of it any more"):
        followed({**WARM, "id": "yet another"})


def test_bar_shows_name_bytes_and_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    bar = follow.Bar()
    bar.progress.live.console = console = Console(file=io.StringIO(), width=160, force_terminal=True)
    for step in ({**WARM, "total_bytes": 0, "resident_bytes": 0, "state": "listing"}, {**WARM, "path": "[red]*"}):
        assert list(bar.show(step)) == []
    console.print(bar.progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "photos/v1 --path [red]*" in shown
    assert "1m 20s left" in shown
    assert "5.0/10.0" in shown


def test_terminal_gets_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        with follow._view(as_json=False) as view:
            assert isinstance(view, follow.Lines)
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    with follow._view(as_json=False) as view:
        assert isinstance(view, follow.Bar)
    with follow._view(as_json=True) as view:
        assert isinstance(view, follow.Lines)
