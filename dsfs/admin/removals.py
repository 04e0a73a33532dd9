"""The commands that take something out of the cache: `dsfs drop` and `dsfs evict`."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from dsfs.admin.client import ControlClient
from dsfs.admin.commandline import add_command, daemon, json_text, page, version_in_mount
from dsfs.admin.streams import Parts
from dsfs.model.errors import DsfsError, UsageError
from dsfs.model.printable import printable
from dsfs.model.quantity import format_size, parse_size


def add_removals(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    drop = add_command(commands, "drop", _drop, "delete the resident bytes of a version", parents)
    drop.add_argument("target", metavar="NAME/VERSION", help="or a path of the mount")
    drop.add_argument("--yes", action="store_true", help="do not ask")
    drop.add_argument(
        "--force", action="store_true", help="also if it is in use: readers go on from the origin, a warm fetches anew"
    )
    evict = add_command(
        commands, "evict", _evict, "make room as the policy says, and show what leaves, what stays, and why", parents
    )
    evict.add_argument("--dry-run", action="store_true", help="only show what would leave")
    evict.add_argument(
        "--need", type=_size, default=0, metavar="SIZE",
        help='make room for so much more, such as "500GiB"; exit code 1 if that cannot be had',
    )  # fmt: skip


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from None


def _evict(args: argparse.Namespace) -> Parts:
    client, _ = daemon(args)
    verb = "evict_plan" if args.dry_run else "evict"
    answer = client.call(verb, {"need_bytes": args.need}, timeout_s=None)
    yield json_text(answer) if args.json else page().eviction(answer, is_done=not args.dry_run)
    return int(args.need > 0 and (answer["missing_bytes"] > 0 or answer["missing_inodes"] > 0))


def _drop(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    target = version_in_mount(args.target, mountpoint)
    if not args.yes:
        _confirm_drop(client, target)
    answer = client.call("drop", {"target": target, "force": args.force}, timeout_s=None)
    if args.json:
        return json_text(answer)
    dropped = f"{answer['dropped_bytes']:,} bytes of {answer['segments']:,} segments dropped"
    return printable(f"{answer['dataset']}/{answer['version']}: {dropped}") + "\n"


def _confirm_drop(client: ControlClient, target: str) -> None:
    """DsfsError unless somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask at: say --yes (see dsfs drop --help)")
    (version,) = client.call("status", {"target": target})["versions"]
    name, held = f"{version['dataset']}/{version['version']}", format_size(version["resident_bytes"])
    sys.stderr.write(f"{printable(name)}: {held} are resident. Drop them? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise DsfsError("nothing was dropped")
