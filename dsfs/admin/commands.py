"""The commands for what is written down in the backing directory: `dsfs pin`, `unpin`, `pins` and `events`."""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dsfs.admin.client import ControlClient
from dsfs.admin.commandline import add_command, daemon, json_text, page, version_in_mount
from dsfs.admin.eventlines import damage_line, event_line
from dsfs.admin.streams import Parts, complain
from dsfs.model.errors import BackingError, DaemonUnreachableError
from dsfs.model.moment import Moment, parse_moment
from dsfs.model.printable import printable

Answer = Mapping[str, Any]

FOLLOW_S = 1.0  # how often new events are asked for: there is nothing on NFS that would tell of them


def add_commands(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    pin = add_command(commands, "pin", _pin, "keep a version from being evicted", parents)
    unpin = add_command(commands, "unpin", _unpin, "take the pin of a version away", parents)
    for command in (pin, unpin):
        command.add_argument("target", metavar="NAME/VERSION", help="or a path of the mount")
    pin.add_argument(
        "--until", type=_moment(end_of_day=True), metavar="DATE",
        help='a date (to its end), a date and time, or a duration such as "30d"; else until it is taken away',
    )  # fmt: skip
    pin.add_argument("--note", default="", metavar="TEXT", help="why; shown by dsfs pins")
    add_command(commands, "pins", _pins, "list what is pinned, until when, by whom", parents)
    events = add_command(commands, "events", _events, "what has happened to the cache, on all nodes", parents)
    events.add_argument("target", nargs="?", metavar="NAME[/VERSION]", help="or a path of the mount")
    events.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    events.add_argument(
        "--since", type=_moment(end_of_day=False), metavar="DATE",
        help='nothing before: a date, a date and time, or a duration such as "2h", which ends now',
    )  # fmt: skip


def _moment(*, end_of_day: bool) -> Callable[[str], Moment]:
    def parse(text: str) -> Moment:
        try:
            return parse_moment(text, end_of_day=end_of_day)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from None

    return parse


def _asked(moment: Moment | None, at: str, relative: str) -> dict[str, float]:
    """The argument of the verb that says it."""
    return {} if moment is None else {relative if moment.is_relative else at: moment.seconds}


def _pin(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    target = version_in_mount(args.target, mountpoint)
    pin = client.call("pin", {"target": target, "note": args.note, **_asked(args.until, "until_s", "for_s")})
    return json_text(pin) if args.json else page().pins([pin])


def _unpin(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    answer = client.call("unpin", {"target": version_in_mount(args.target, mountpoint)})
    return json_text(answer) if args.json else printable(f"{answer['dataset']}/{answer['version']}: unpinned") + "\n"


def _pins(args: argparse.Namespace) -> str:
    client, _ = daemon(args)
    answer = client.call("pins")
    return json_text(answer) if args.json else page().pins(answer["pins"])


def _events(args: argparse.Namespace) -> str | Parts:
    client, mountpoint = daemon(args)
    target = version_in_mount(args.target, mountpoint) if args.target else None
    asked = {"target": target, **_asked(args.since, "since_s", "last_s")}
    if args.follow:
        return _followed(client, asked, as_json=args.json)
    answer = client.call("events", asked)
    if args.json:
        return json_text(answer)
    return "".join(f"{line}\n" for line in [*map(event_line, answer["events"]), *damage_line(answer)])


def _followed(client: ControlClient, asked: Answer, *, as_json: bool) -> Parts:
    """What has happened, and what happens, until somebody interrupts it, or nobody reads it any more.

    Once it has begun, neither a silent backing directory nor a daemon that is started anew ends it.
    """
    answer = client.call("events", dict(asked))
    trouble = ""
    while True:
        lines = (json.dumps(event) if as_json else event_line(event) for event in answer["events"])
        if not (yield "".join(f"{line}\n" for line in lines)):
            return 0
        time.sleep(FOLLOW_S)
        try:
            answer = client.call("events", {**asked, "read_until": answer["read_until"]})
            trouble = ""
        except (BackingError, DaemonUnreachableError) as exc:
            answer = {**answer, "events": []}
            if str(exc) != trouble:
                trouble = str(exc)
                complain(f"dsfs: {printable(trouble)}")
