"""The command line: `dsfs <command>`.

Every command but `mount`, `config` and `doctor` asks the running daemon through its control socket, and returns what is
to be printed.  An error of the user, the daemon or the origin is one line on standard error (`dsfs: ...`, with --json
an object) and an exit code of `EXIT_CODES`; a traceback is a bug.  What a command does not need is not imported: `dsfs
status --json` loads neither rich nor trio, and only `mount --foreground` loads the daemon.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from dsfs import __version__
from dsfs.admin import streams
from dsfs.admin.commandline import (
    add_command,
    configuration,
    daemon,
    in_mount,
    json_text,
    page,
    version_in_mount,
)
from dsfs.admin.commands import add_commands
from dsfs.admin.removals import add_removals
from dsfs.admin.streams import Parts
from dsfs.config import DEFAULT_PATH, Config
from dsfs.model.errors import BusyError, ConfigError, DaemonUnreachableError, DsfsError, UsageError
from dsfs.model.printable import printable
from dsfs.model.quantity import parse_duration

EXIT_CODES: Mapping[int, str] = MappingProxyType(
    {
        0: "done (also when the reader of a pipe left early)",
        1: "the operation failed, or did less than was needed, or the daemon or the origin said no",
        2: "wrong usage or configuration",
        3: "no daemon answers",
        4: "busy: another daemon is running, or the mount or the version is in use",
        5: "`dsfs doctor` warns",
        6: "`dsfs doctor` found what does not work",
        70: "a bug in dsfs: please report the traceback",
        130: "interrupted",
    }
)
_CODE_OF_ERROR: Mapping[type[DsfsError], int] = MappingProxyType(
    {ConfigError: 2, UsageError: 2, DaemonUnreachableError: 3, BusyError: 4}
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.  SystemExit comes from argparse only (--help, --version)."""
    words = sys.argv[1:] if argv is None else argv
    streams.open_missing()
    if hasattr(sys.stdout, "reconfigure"):
        # A name that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        args = _parsed(words)
        answer: str | Parts = args.run(args)
        if not isinstance(answer, str):
            return streams.write_parts(answer)
        streams.write(answer)
    except DsfsError as exc:
        return _report(exc, as_json="--json" in words)
    except KeyboardInterrupt:
        return 130
    except Exception:
        sys.excepthook(*sys.exc_info())
        return 70
    return 0


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    """The arguments; what argparse prints itself is written here, as it takes no notice of a write that fails."""
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            return _parser().parse_args(words)
    except SystemExit:
        streams.write(printed.getvalue())
        raise


def _report(error: DsfsError, *, as_json: bool) -> int:
    code = next((code for kind, code in _CODE_OF_ERROR.items() if isinstance(error, kind)), 1)
    code = getattr(error, "exit_code", code)  # that of a daemon which did not start
    if as_json:
        streams.complain(json.dumps({"error": str(error), "kind": type(error).__name__, "exit_code": code}))
    else:
        for line in str(error).splitlines() or [type(error).__name__]:
            streams.complain(f"dsfs: {printable(line)}")
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = _Parser(
        prog="dsfs",
        description="Dataset versions in object storage as read-only files, cached once for all nodes.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dsfs {__version__}")
    which, either, as_json = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    group = either.add_mutually_exclusive_group()
    for options in (which, group):
        options.add_argument(
            "--config", metavar="FILE", type=Path, help=f"the daemon's configuration (default {DEFAULT_PATH})"
        )
    group.add_argument("--socket", metavar="PATH", type=Path, help="the daemon's control socket itself")
    as_json.add_argument("--json", action="store_true", help="write the answer as JSON")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_lifecycle(commands, which, either)
    _add_questions(commands, [either, as_json])
    _add_warm(commands, [either, as_json])
    add_commands(commands, [either, as_json])
    add_removals(commands, [either, as_json])
    _add_config(commands, [which, as_json])
    _add_doctor(commands, [which, as_json])
    return parser


def _add_lifecycle(commands: Any, which: argparse.ArgumentParser, either: argparse.ArgumentParser) -> None:
    mount = add_command(commands, "mount", _mount, "start a daemon; returns when the mount answers", [which])
    mount.add_argument("--foreground", action="store_true", help="be the daemon, as systemd wants it")
    mount.add_argument(
        "--force", action="store_true", help="also where the mountpoint is not empty, or the backing directory is gone"
    )
    mount.add_argument(
        "--timeout", type=_duration, default=60.0, metavar="T", help="wait for it so long (60s)"
    )
    unmount = add_command(commands, "unmount", _unmount, "end the daemon and its mount", [either])
    unmount.add_argument(
        "--now",
        "--lazy",
        action="store_true",
        help="do not wait for open files (their readers get errors), nor for a daemon that does not answer",
    )
    unmount.add_argument(
        "--timeout", type=_duration, default=60.0, metavar="T", help="wait for it so long (60s)"
    )


def _add_questions(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    ls = add_command(commands, "ls", _ls, "list datasets, versions or files, and how much is resident", parents)
    ls.add_argument("target", nargs="?", metavar="NAME[/VERSION[/PATH]]", help="or a path of the mount")
    status = add_command(
        commands, "status", _status, "the state of the daemon, the origins, the backing and versions", parents
    )
    subject = status.add_mutually_exclusive_group()
    subject.add_argument("target", nargs="?", metavar="NAME[/VERSION]", help="or a path of the mount")
    subject.add_argument("--nodes", action="store_true", help="all nodes that share the backing directory")
    why = add_command(commands, "why", _why, "where the bytes of a file come from, and why", parents)
    why.add_argument("path", metavar="PATH", help="a path of the mount, or NAME/VERSION/PATH")
    refresh = add_command(commands, "refresh", _refresh, "list a version again", parents)
    refresh.add_argument("target", metavar="NAME/VERSION", help="or a path of the mount")
    add_command(commands, "metrics", _metrics, "all counters, in the Prometheus text format", parents)


def _add_warm(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    warm = add_command(
        commands, "warm", _warm, "make a version resident ahead of its use, or see and stop that", parents
    )
    warm.add_argument("target", nargs="?", metavar="NAME/VERSION", help="or a path of the mount")
    warm.add_argument(
        "--path", metavar="GLOB", help='only these files, such as "train/**/*.jpg"; a directory is all below it'
    )
    warm.add_argument(
        "--nodes", choices=("all", "this"), default="this", help="who does it: all nodes together, or this one (this)"
    )
    warm.add_argument("--wait", action="store_true", help="until it is done; 0 only if all of it is resident then")
    warm.add_argument(
        "--patience", type=_duration, default=300.0, metavar="T", help="with --wait: so long without progress (5m)"
    )
    warm.add_argument("--list", action="store_true", help="show those under way, and the last that have ended")
    warm.add_argument("--stop", action="store_true", help="end those of NAME/VERSION, on all nodes")


def _add_config(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    help = "check or show a configuration"
    actions = commands.add_parser("config", help=help, description=help).add_subparsers(
        metavar="ACTION", required=True
    )
    add_command(actions, "check", _config_check, "say whether it can be used", parents)
    add_command(actions, "show", _config_show, "print what is in effect, with defaults and help", parents)


def _add_doctor(commands: Any, parents: Sequence[argparse.ArgumentParser]) -> None:
    doctor = add_command(commands, "doctor", _doctor, "check node, NFS mount, backing directory and origin", parents)
    doctor.add_argument(
        "--with", dest="other", metavar="NODE", help="a node that runs it, too, --with this one: what one cannot see"
    )
    doctor.add_argument(
        "--wait", type=_duration, default=120.0, metavar="T", help="how long to wait for that node (2m)"
    )


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r}: {exc}") from None


def _mount(args: argparse.Namespace) -> str:
    from dsfs.admin.preflight import preflight

    config = configuration(args)
    warnings = preflight(config)
    if args.foreground:
        _be_daemon(config, warnings, force=args.force)
        return ""
    from dsfs.admin.launch import daemon_command, launch
    from dsfs.storage.mounts import mount_at

    options = ["--config", str(config.source), *(["--force"] if args.force else [])]
    # Its name may be mistyped: that the daemon makes it is to be seen.
    is_new = mount_at(config.mountpoint) is None and not os.path.lexists(config.mountpoint)
    launch(daemon_command(options), config.log_file, timeout_s=args.timeout)
    made = f"made {config.mountpoint}\n" if is_new else ""
    return f"{made}mounted at {config.mountpoint}, log in {config.log_file}\n"


def _be_daemon(config: Config, warnings: Sequence[str], *, force: bool) -> None:
    import logging

    from dsfs.daemon import run
    from dsfs.logs import configure

    writer = configure(config.log.level, config.log.format, config.log.levels)
    for warning in warnings:
        logging.getLogger("dsfs.config").warning("%s: %s", config.source, warning)
    os.chdir("/")  # a daemon must not keep the file system busy that it was started from
    try:
        run(config, force=force)
    finally:
        writer.write_summaries()


def _unmount(args: argparse.Namespace) -> str:
    from dsfs.admin.unmount import unmount

    client, mountpoint = daemon(args)
    done = unmount(
        client, mountpoint, now=args.now, timeout_s=args.timeout, tell=lambda line: streams.complain(f"dsfs: {line}")
    )
    return f"{done}\n"


def _ls(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    target = in_mount(args.target, mountpoint) if args.target else None
    answer = client.call("ls", {"target": target})
    return json_text(answer) if args.json else page().ls(answer)


def _status(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    if args.nodes:
        answer = client.call("nodes")
        return json_text(answer) if args.json else page().nodes(answer)
    answer = client.call("status", {"target": version_in_mount(args.target, mountpoint)} if args.target else {})
    return json_text(answer) if args.json else page().status(answer)


def _why(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    answer = client.call("why", {"path": in_mount(args.path, mountpoint)})
    return json_text(answer) if args.json else page().why(answer)


def _refresh(args: argparse.Namespace) -> str:
    client, mountpoint = daemon(args)
    answer = client.call("refresh", {"target": version_in_mount(args.target, mountpoint)}, timeout_s=None)
    if args.json:
        return json_text(answer)
    change = f"instead of {answer['previous']}" if answer["changed"] else "as before"
    held = f"generation {answer['generation']} {change}, {answer['files']:,} files, {answer['bytes']:,} bytes"
    return printable(f"{answer['dataset']}/{answer['version']}: {held}") + "\n"


def _warm(args: argparse.Namespace) -> str | Parts:
    from dsfs.admin.follow import begin, listed, stopped

    if not args.target and not args.list:
        raise UsageError("expected NAME/VERSION, or --list (see dsfs warm --help)")
    client, mountpoint = daemon(args)
    if args.list:
        return listed(client, as_json=args.json)
    target = version_in_mount(args.target, mountpoint)
    if args.stop:
        return stopped(client, target, as_json=args.json)
    asked = {"target": target, "path": args.path, "nodes": args.nodes}
    return begin(client, asked, as_json=args.json, patience_s=args.patience if args.wait else None)


def _metrics(args: argparse.Namespace) -> str:
    client, _ = daemon(args)
    answer = client.call("metrics")
    return json_text(answer) if args.json else str(answer["text"])


def _config_check(args: argparse.Namespace) -> str:
    from dsfs.admin.preflight import preflight

    warnings = preflight(configuration(args))
    if args.json:
        return json_text({"ok": True, "warnings": warnings})
    return "".join(f"{line}\n" for line in ["ok", *(f"warning: {printable(warning)}" for warning in warnings)])


def _config_show(args: argparse.Namespace) -> str:
    from dsfs.admin.config_text import to_json, to_toml

    config = configuration(args)
    return json_text(to_json(config)) if args.json else to_toml(config)


def _doctor(args: argparse.Namespace) -> Parts:
    from dsfs.doctor.visit import visit

    is_terminal = sys.stdout.isatty()
    return visit(configuration(args), other=args.other, wait_s=args.wait, as_json=args.json, is_terminal=is_terminal)
