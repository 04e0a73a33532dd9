"""`dsfs warm`: begins, lists and stops warms, and follows one to its end: by a bar in a terminal, by lines, by events.

Blocking, for the command line.  To follow is to ask the daemon again and again, which costs that next to nothing.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from dsfs.admin.client import ControlClient
from dsfs.admin.warmlines import missing_lines, warm_line, warm_name
from dsfs.model.errors import DsfsError
from dsfs.model.printable import printable

Answer = Mapping[str, Any]
Write = Callable[[str], None]  # to standard output

ASK_S = 0.5  # how often the daemon is asked
LINE_S = 5.0  # how often a line, or an event, tells of it
STANDSTILL = ("paused", "waiting")


class View(Protocol):
    """Shows how a warm goes on."""

    def show(self, warm: Answer) -> None: ...


class Lines:
    """A line now and then, and where the state changes.  `as_json`: an object for each."""

    def __init__(self, write: Write, *, as_json: bool) -> None:
        self._write = write
        self._as_json = as_json
        self._shown: tuple[object, ...] = ()
        self._shown_s = 0.0

    def show(self, warm: Answer) -> None:
        now_s, shown = time.monotonic(), (warm["state"], warm["reason"])
        if shown == self._shown and now_s - self._shown_s < LINE_S:
            return
        self._shown, self._shown_s = shown, now_s
        self._write(event_of(warm) if self._as_json else printable(warm_line(warm)) + "\n")


class Bar:
    """A bar in a terminal."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(binary_units=True),
            TextColumn("{task.fields[pace]}", markup=False),
        )  # fmt: skip
        self._task = self.progress.add_task("", total=None, pace="")

    def show(self, warm: Answer) -> None:
        _, _, told = warm_line(warm).partition(": ")
        self.progress.update(
            self._task, description=printable(warm_name(warm)), total=warm["total_bytes"] or None,
            completed=warm["resident_bytes"], pace=printable(told),
        )  # fmt: skip


def event_of(warm: Answer) -> str:
    """A warm as one line of JSON."""
    return json.dumps({"event": "end" if warm["is_over"] else "progress", **warm}) + "\n"


def begin(
    client: ControlClient, asked: Mapping[str, object], write: Write, *, as_json: bool, patience_s: float | None
) -> str:
    """Have a version warmed; what is to be printed.  With patience: follow it to its end, as `follow` says."""
    warm = client.call("warm", dict(asked))
    if patience_s is None:
        return json.dumps(warm, indent=2) + "\n" if as_json else printable(warm_line(warm)) + "\n"
    try:
        follow(client, warm, write, as_json=as_json, patience_s=patience_s)
    except KeyboardInterrupt:
        print(printable(f"dsfs: {_goes_on(warm)}"), file=sys.stderr)
        raise
    return ""


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


def follow(client: ControlClient, warm: Answer, write: Write, *, as_json: bool, patience_s: float) -> None:
    """Show how the warm goes on until it is over.

    DsfsError, with what is missing and why, unless it is complete then; and when nothing has come for `patience_s`.
    """
    with _view(write, as_json=as_json) as view:
        while True:
            view.show(warm)
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
def _view(write: Write, *, as_json: bool) -> Iterator[View]:
    if as_json or not sys.stdout.isatty():
        yield Lines(write, as_json=as_json)
        return
    bar = Bar()
    with bar.progress:
        yield bar
