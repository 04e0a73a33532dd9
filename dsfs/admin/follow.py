"""`dsfs warm`: begins, lists and stops warms, and follows one to its end: by a bar in a terminal, by lines, by events.

Text is given to whoever prints it; the bar, which draws over itself, is on standard error.
Blocking, for the command line.  To follow is to ask the daemon again and again, which costs that next to nothing.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from dsfs.admin.client import ControlClient
from dsfs.admin.streams import Parts, complain
from dsfs.admin.warmlines import missing_lines, warm_line, warm_name
from dsfs.model.errors import DsfsError
from dsfs.model.printable import printable

Answer = Mapping[str, Any]

ASK_S = 0.5  # how often the daemon is asked
LINE_S = 5.0  # how often a line, or an event, tells of it
STANDSTILL = ("paused", "waiting")


class View(Protocol):
    """Shows how a warm goes on."""

    def show(self, warm: Answer) -> Iterator[str]:
        """What is to be written about it now."""


class Lines:
    """A line now and then, and where the state changes.  `as_json`: an object for each."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._shown: tuple[object, ...] = ()
        self._shown_s = 0.0

    def show(self, warm: Answer) -> Iterator[str]:
        now_s, shown = time.monotonic(), (warm["state"], warm["reason"])
        if shown == self._shown and now_s - self._shown_s < LINE_S:
            return
        self._shown, self._shown_s = shown, now_s
        yield event_of(warm) if self._as_json else printable(warm_line(warm)) + "\n"


class Bar:
    """A bar in a terminal, which draws itself."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True),
            TextColumn("{task.fields[pace]}", markup=False), console=Console(stderr=True),
        )  # fmt: skip
        self._task = self.progress.add_task("", total=None, pace="")

    def show(self, warm: Answer) -> Iterator[str]:
        _, _, told = warm_line(warm).partition(": ")
        self.progress.update(
            self._task, description=printable(warm_name(warm)), total=warm["total_bytes"] or None,
            completed=warm["resident_bytes"], pace=printable(told),
        )  # fmt: skip
        return iter(())


def event_of(warm: Answer) -> str:
    """A warm as one line of JSON."""
    return json.dumps({"event": "end" if warm["is_over"] else "progress", **warm}) + "\n"


def begin(
    client: ControlClient, asked: Mapping[str, object], *, as_json: bool, patience_s: float | None
) -> Parts:
    """Have a version warmed: gives what is to be printed, and returns the exit code.

    With patience: follow it to its end, as `follow` says.
    """
    warm = client.call("warm", dict(asked))
    if patience_s is None:
        yield json.dumps(warm, indent=2) + "\n" if as_json else printable(warm_line(warm)) + "\n"
        return 0
    try:
        yield from follow(client, warm, as_json=as_json, patience_s=patience_s)
    except KeyboardInterrupt:
        complain(printable(f"dsfs: {_goes_on(warm)}"))
        raise
    return 0


def listed(client: ControlClient, *, as_json: bool) -> str:
    """The warms that are under way or have ended lately."""
    warms = client.call("warms")["warms"]
    if as_json:
        return json.dumps({"warms": warms}, indent=2) + "\n"
    return "".join(f"{printable(line)}\n" for warm in warms for line in [warm_line(warm), *missing_lines(warm)])


def stopped(client: ControlClient, target: str, *, as_json: bool) -> str:
    """End the warms of NAME/VERSION."""
    answer = client.call("warm_stop", {"target": target})
    return json.dumps(answer, indent=2) + "\n" if as_json else f"{printable(target)}: {answer['stopped']} stopped\n"


def follow(client: ControlClient, warm: Answer, *, as_json: bool, patience_s: float) -> Iterator[str]:
    """Show how the warm goes on until it is over; gives what is to be printed.

    DsfsError, with what is missing and why, unless it is complete then; and when nothing has come for `patience_s`.
    """
    with _view(as_json=as_json) as view:
        while True:
            yield from view.show(warm)
            if warm["is_over"] or (warm["state"] in STANDSTILL and warm["quiet_s"] >= patience_s):
                break
            time.sleep(ASK_S)
            warm = _found(client, warm)
    if warm["state"] != "complete":
        told = [warm_line(warm), *missing_lines(warm), *([] if warm["is_over"] else [_goes_on(warm)])]
        raise DsfsError("\n".join(told))


def _goes_on(warm: Answer) -> str:
    return f"the warm goes on by itself; dsfs warm --stop {warm['dataset']}/{warm['version']} ends it"


def _found(client: ControlClient, warm: Answer) -> Answer:
    for found in client.call("warms")["warms"]:
        if found["id"] == warm["id"]:
            return dict(found)
    raise DsfsError(f"{warm_name(warm)}: the daemon does not know of it any more")


@contextmanager
def _view(*, as_json: bool) -> Iterator[View]:
    if as_json or not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield Lines(as_json=as_json)
        return
    bar = Bar()
    with bar.progress:
        yield bar
