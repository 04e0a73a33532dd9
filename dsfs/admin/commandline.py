"""What commands are made of: a parser, which daemon and which version is meant, how the answer is written.

Blocking, for the command line.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsfs.admin.client import ControlClient
from dsfs.admin.streams import Parts
from dsfs.config import DEFAULT_PATH, Config
from dsfs.config.document import load

if TYPE_CHECKING:
    from dsfs.admin.render import Page


def add_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], str | Parts], help: str, parents: Sequence[Any]
) -> argparse.ArgumentParser:
    """A command that `run` answers: with what is to be printed, at once or as it comes."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help, parents=parents)
    command.set_defaults(run=run)
    return command


def json_text(answer: object) -> str:
    """For programs."""
    return json.dumps(answer, indent=2) + "\n"


def page() -> "Page":
    """For people: where they look at it, and now."""
    from dsfs.admin.render import Page

    return Page(time.time(), is_terminal=sys.stdout.isatty())


def configuration(args: argparse.Namespace) -> Config:
    """ConfigError if it cannot be used."""
    return load(Path(os.path.abspath(args.config or DEFAULT_PATH)))


def daemon(args: argparse.Namespace) -> tuple[ControlClient, Path | None]:
    """The daemon that is meant, and its mountpoint where the configuration says it."""
    if args.socket is not None:
        return ControlClient(Path(os.path.abspath(args.socket))), None
    config = configuration(args)
    return ControlClient(config.control_socket), config.mountpoint


def in_mount(path: str, mountpoint: Path | None) -> str:
    """What the daemon should understand by a path: also one relative to a directory inside the mount.

    NAME/VERSION/PATH stays as it is.  A symbolic link that leads into the mount is followed.
    """
    if mountpoint is None:
        return path
    absolute = os.path.abspath(path)
    if not path.startswith("/"):
        return absolute if Path(absolute).is_relative_to(mountpoint) else path
    if Path(absolute).is_relative_to(mountpoint):
        return absolute
    resolved = os.path.realpath(absolute)
    return resolved if Path(resolved).is_relative_to(mountpoint) else absolute


def version_in_mount(target: str, mountpoint: Path | None) -> str:
    """As `in_mount`; so deep inside the mount that a relative path names no version, the target is NAME/VERSION."""
    found = in_mount(target, mountpoint)
    is_too_deep = mountpoint is not None and found != target and len(Path(found).relative_to(mountpoint).parts) > 2
    return target if is_too_deep and not target.startswith("/") else found
