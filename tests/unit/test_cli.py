"""The command line against a daemon that answers from a table."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dsfs import cli
from dsfs.admin.launch import StartError
from dsfs.config import Config
from dsfs.config.document import load
from dsfs.logs import LogWriter
from dsfs.model.errors import (
    BackingError,
    BusyError,
    DaemonUnreachableError,
    DsfsError,
    NotFoundError,
    UsageError,
)
from tests.unit.fake_daemon import EVENT, EVICTION, NOW_S, WARM, FakeDaemon


@pytest.fixture
def page_of(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command prints for people, at the moment NOW_S."""
    monkeypatch.setattr("time.time", lambda: NOW_S)

    def run(*arguments: str) -> str:
        assert cli.main([*arguments, "--config", str(config)]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.usefixtures("daemon")
def test_reading_verbs_print_pages_for_people(page_of: Callable[..., str]) -> None:
    assert page_of("status").startswith("daemon      /datasets: ready, dsfs 0.1.0, pid 7, for 2h")
    assert page_of("status", "--nodes").startswith("NODE")
    assert page_of("ls").splitlines()[1].strip() == "speech/"
    assert page_of("why", "speech/v1/a").startswith("path        speech/v1/a\n")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Says what somebody types at the terminal that standard input is."""
    ours, theirs = os.openpty()
    with open(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)

        def type_line(line: str) -> None:
            os.write(ours, line.encode() + b"\n")

        yield type_line
    os.close(ours)


@pytest.mark.parametrize("answer", ["y", " YES "])
def test_drop_asks_at_a_terminal(
    daemon: FakeDaemon, page_of: Callable[..., str], typed: Callable[[str], None], answer: str
) -> None:
    typed(answer)
    assert page_of("drop", "speech/v1", "--force") == "speech/v1: 4,096 bytes of 2 segments dropped\n"
    assert daemon.asked == [
        ("status", {"target": "speech/v1"}), ("drop", {"target": "speech/v1", "force": True}),
    ]  # fmt: skip


@pytest.mark.parametrize("answer", ["", "n", "yesterday"])
def test_drop_that_is_not_confirmed_drops_nothing(
    daemon: FakeDaemon, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str], answer: str
) -> None:
    typed(answer)
    assert cli.main(["drop", "speech/v1", "--socket", str(daemon.path)]) == 1
    assert capsys.readouterr().err == (
        "speech/v1: 1.00 KiB are resident. Drop them? [y/N] dsfs: nothing was dropped\n"
    )
    assert [verb for verb, _ in daemon.asked] == ["status"]


@pytest.mark.parametrize("missing", ["missing_bytes", "missing_inodes"])
@pytest.mark.parametrize("how", [[], ["--dry-run"], ["--json"]])
def test_need_that_cannot_be_met_is_exit_code_1(daemon: FakeDaemon, how: list[str], missing: str) -> None:
    daemon.answers["evict"] = daemon.answers["evict_plan"] = {**EVICTION, missing: 7}
    for code, more in ((1, ["--need", "1GiB"]), (0, [])):
        assert cli.main(["evict", *how, *more, "--socket", str(daemon.path)]) == code


def test_drop_without_a_terminal_wants_yes(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert cli.main(["drop", "speech/v1", "--socket", str(daemon.path)]) == 2
    assert "say --yes" in capsys.readouterr().err
    assert not daemon.asked


@pytest.mark.usefixtures("daemon")
def test_changes_say_what_they_did(page_of: Callable[..., str]) -> None:
    assert page_of("drop", "speech/v1/", "--yes") == "speech/v1: 4,096 bytes of 2 segments dropped\n"
    assert page_of("refresh", "speech/v1") == "speech/v1: generation new instead of old, 3 files, 9 bytes\n"
    assert page_of("warm", "speech/v1") == "speech/v1: incomplete, 25.0 % of 4.00 KiB (drifted)\n"
    assert page_of("warm", "--stop", "speech/v1") == "speech/v1: 2 stopped\n"
    assert page_of("warm", "--list").splitlines()[1] == "3.00 KiB missing: drifted"
    assert page_of("metrics") == "dsfs_fill_bytes_total 5\n"
    assert page_of("pin", "speech/v1").splitlines()[1].startswith("speech/v1  pinned")
    assert page_of("unpin", "speech/v1") == "speech/v1: unpinned\n"
    assert len(page_of("pins").splitlines()) == 2
    event, left_out, damaged = page_of("events").splitlines()
    assert event.endswith("  gpu1  speech/v1 dropped 4.00 KiB (by ann\\n)")
    assert left_out.startswith("3 older ones are left out")
    assert damaged == "2 lines cannot be understood and are left out"


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["status"], ("status", {})),
        (["status", "speech"], ("status", {"target": "speech"})),
        (["status", "--nodes"], ("nodes", {})),
        (["ls"], ("ls", {"target": None})),
        (["ls", "speech/v1"], ("ls", {"target": "speech/v1"})),
        (["why", "speech/v1/a"], ("why", {"path": "speech/v1/a"})),
        (["evict"], ("evict", {"need_bytes": 0})),
        (["evict", "--dry-run", "--need", "500GiB"], ("evict_plan", {"need_bytes": 500 * 2**30})),
        (["drop", "speech/v1", "--yes"], ("drop", {"target": "speech/v1", "force": False})),
        (["refresh", "speech/v1"], ("refresh", {"target": "speech/v1"})),
        (["metrics"], ("metrics", {})),
        (["warm", "speech/v1"], ("warm", {"target": "speech/v1", "path": None, "nodes": "this"})),
        (
            ["warm", "speech/v1", "--path", "a/*", "--nodes", "all"],
            ("warm", {"target": "speech/v1", "path": "a/*", "nodes": "all"}),
        ),
        (["warm", "--list"], ("warms", {})),
        (["warm", "--stop", "speech/v1"], ("warm_stop", {"target": "speech/v1"})),
        (["pin", "speech/v1"], ("pin", {"target": "speech/v1", "note": ""})),
        (
            ["pin", "speech/v1", "--until", "30d", "--note", "paper"],
            ("pin", {"target": "speech/v1", "note": "paper", "for_s": 2_592_000.0}),
        ),
        (
            ["pin", "speech/v1", "--until", "2027-01-31T18:00Z"],
            ("pin", {"target": "speech/v1", "note": "", "until_s": 1_801_418_400.0}),
        ),
        (["unpin", "speech/v1"], ("unpin", {"target": "speech/v1"})),
        (["pins"], ("pins", {})),
        (["events"], ("events", {"target": None})),
        (["events", "speech", "--since", "2h"], ("events", {"target": "speech", "last_s": 7200.0})),
        (["events", "--since", "2027-01-31T18:00Z"], ("events", {"target": None, "since_s": 1_801_418_400.0})),
    ],
)
def test_json_is_what_the_daemon_answered(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], arguments: list[str], asked: tuple[str, dict[str, Any]]
) -> None:
    assert cli.main([*arguments, "--json", "--socket", str(daemon.path)]) == 0
    assert json.loads(capsys.readouterr().out) == daemon.answers[asked[0]]
    assert daemon.asked == [asked]


@pytest.mark.parametrize("verb", ["status", "drop --yes", "refresh", "pin", "unpin", "events"])
def test_version_may_be_a_path_of_the_mount(
    daemon: FakeDaemon, page_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    mountpoint = tmp_path / "mnt"
    deep = mountpoint / "speech" / "v1"
    deep.mkdir(parents=True)
    words = verb.split()
    page_of(*words, f"{mountpoint}/speech/v1")
    monkeypatch.chdir(mountpoint / "speech")
    page_of(*words, "v1")
    monkeypatch.chdir(deep)
    page_of(*words, ".")
    page_of(*words, "speech/v1")  # where a relative path would be none of a version
    asked = [args["target"] for _, args in daemon.asked]
    assert asked == [str(deep), str(deep), str(deep), "speech/v1"]


def test_warm_that_is_waited_for_and_does_not_complete_is_a_failure(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["warm", "speech/v1", "--wait", "--socket", str(daemon.path)]
    assert cli.main(command) == 1
    assert capsys.readouterr().err == (
        "dsfs: speech/v1: incomplete, 25.0 % of 4.00 KiB (drifted)\ndsfs: 3.00 KiB missing: drifted\n"
    )
    daemon.answers["warm"] = WARM | {"state": "complete", "missing": []}
    assert cli.main(command) == 0


def test_events_are_followed_until_somebody_interrupts_it(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also past a backing directory that is silent for a while, and a daemon that ends."""
    silent = BackingError("it is silent")
    gone = DaemonUnreachableError("gone")
    answers: list[object] = [silent, silent, daemon.answers["events"], gone, KeyboardInterrupt]

    def next_answer(seconds: float) -> None:
        answer = answers.pop(0)
        if answer is KeyboardInterrupt:
            raise KeyboardInterrupt
        daemon.answers["events"] = answer

    monkeypatch.setattr("dsfs.admin.commands.time.sleep", next_answer)
    assert cli.main(["events", "-f", "--json", "--socket", str(daemon.path)]) == 130
    said = capsys.readouterr()
    assert [json.loads(line) for line in said.out.splitlines()] == [EVENT, EVENT]
    assert said.err == "dsfs: it is silent\ndsfs: gone\n"
    asked = [args.get("read_until") for _, args in daemon.asked]
    assert asked == [None, *[{"a.1.jsonl": 7}] * 4]
    daemon.answers["events"] = silent
    assert cli.main(["events", "-f", "--socket", str(daemon.path)]) == 1


def test_path_inside_the_mount_may_be_relative_or_behind_a_link(
    daemon: FakeDaemon, page_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "mnt" / "speech"
    inside.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    page_of("why", f"{tmp_path}/link/speech/v1/a")
    monkeypatch.chdir(inside)
    page_of("why", "v1/a")
    assert [args["path"] for _, args in daemon.asked] == [f"{inside}/v1/a"] * 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("no such"), 1),
        (BusyError("files are open"), 4),
        (UsageError("expected NAME/VERSION"), 2),
        (DsfsError("a\nb"), 1),
    ],
)
def test_refusal_of_the_daemon_is_lines_and_an_exit_code(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], error: DsfsError, code: int
) -> None:
    daemon.answers["status"] = error
    assert cli.main(["status", "--socket", str(daemon.path)]) == code
    assert capsys.readouterr().err == "".join(f"dsfs: {line}\n" for line in str(error).splitlines())
    assert cli.main(["status", "--json", "--socket", str(daemon.path)]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {"error": str(error), "kind": type(error).__name__, "exit_code": code}


def test_without_a_daemon_the_code_is_its_own(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--config", str(config)]) == 3
    assert cli.main(["unmount", "--config", str(config)]) == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("dsfs: no daemon answers on ")
    assert second == f"dsfs: no daemon answers and nothing is mounted at {config.parent}/mnt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evict", "--need", "5"], "argument --need: '5': expected a size"),
        (["drop"], "the following arguments are required: NAME/VERSION (see dsfs drop --help)"),
        (["warm", "--stop"], "expected NAME/VERSION, or --list (see dsfs warm --help)"),
        (["mount", "--timeout", "5"], "argument --timeout: '5': expected a duration with its unit"),
        (["ls", "--config", "a", "--socket", "b"], "not allowed with argument"),
        (["pin", "speech/v1", "--until", "soon"], "argument --until: 'soon': expected a date such as"),
        ([], "the following arguments are required: COMMAND (see dsfs --help)"),
    ],
)
def test_wrong_usage_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dsfs: ")
    assert message in line
    assert cli.main([*arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["kind"] == "UsageError"


def test_wrong_configuration_is_a_line_for_each_problem(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace("url", "ulr").replace("1GiB", "1"))
    assert cli.main(["status", "--config", str(config)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"dsfs: {config}: [origin] ulr: unknown key (did you mean url?)" in lines
    assert len(lines) == 2


def test_mount_starts_the_daemon_with_the_same_configuration(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launched: list[object] = []
    monkeypatch.setattr(
        "dsfs.admin.launch.launch", lambda *given, timeout_s: launched.append((*given, timeout_s))
    )
    monkeypatch.chdir(config.parent)
    assert cli.main(["mount", "--config", config.name, "--force", "--timeout", "5s"]) == 0
    command = [sys.executable, "-m", "dsfs", "mount", "--foreground", "--config", str(config), "--force"]
    assert launched == [(command, config.parent / "dsfs.log", 5)]  # which makes no mountpoint here
    mounted = f"mounted at {config.parent}/mnt, log in {config.parent}/dsfs.log\n"
    assert capsys.readouterr().out == f"made {config.parent}/mnt\n{mounted}"
    (config.parent / "mnt").mkdir()
    assert cli.main(["mount", "--config", config.name]) == 0
    assert capsys.readouterr().out == mounted


def test_mount_ends_with_the_code_of_a_daemon_that_does_not_start(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, timeout_s: float) -> None:
        raise StartError("another daemon runs", 4)

    monkeypatch.setattr("dsfs.admin.launch.launch", refused)
    assert cli.main(["mount", "--config", str(config)]) == 4
    assert capsys.readouterr().err == "dsfs: another daemon runs\n"


@pytest.mark.expects_log("is not shorter|not on a network file system|only root may|is on tmpfs|is missing")
def test_foreground_is_the_daemon_and_passes_its_error_on(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[Config, bool]] = []

    def run(config: Config, *, force: bool) -> int:
        ran.append((config, force))
        if force:
            return 0
        raise BusyError("another daemon holds the state directory")

    module = ModuleType("dsfs.daemon")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dsfs.daemon", module)
    monkeypatch.setattr("dsfs.logs.configure", lambda *_: LogWriter(io.StringIO()))
    monkeypatch.chdir(config.parent)
    assert cli.main(["mount", "--foreground", "--force", "--config", config.name]) == 0
    assert Path.cwd() == Path("/")
    assert cli.main(["mount", "--foreground", "--config", str(config)]) == 4
    assert capsys.readouterr().err == "dsfs: another daemon holds the state directory\n"
    assert ran == [(load(config), True), (load(config), False)]


def test_config_is_checked_and_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "check", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith("ok\n")
    assert cli.main(["config", "check", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert cli.main(["config", "show", "--config", str(config)]) == 0
    assert 'limit = "1GiB"' in capsys.readouterr().out
    assert cli.main(["config", "show", "--json", "--config", str(config)]) == 0
    assert json.loads(capsys.readouterr().out)["backing"]["limit_bytes"] == 2**30


def test_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dsfs.admin.commandline.load", interrupted)
    assert cli.main(["status"]) == 130
    assert capsys.readouterr() == ("", "")


def test_bug_is_a_traceback_and_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("dsfs.admin.commandline.load", broken)
    assert cli.main(["status"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_reading_verb_loads_neither_the_daemon_nor_what_it_does_not_show(daemon: FakeDaemon) -> None:
    code = (
        "import sys\nfrom dsfs.cli import main\n"
        f"main(['status', '--json', '--socket', {str(daemon.path)!r}])\n"
        "print({'rich', 'trio', 'boto3', 'pyfuse3', 'lmdb'} & sys.modules.keys(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == "set()\n"


def test_every_exit_code_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    page = capsys.readouterr().out
    for code, meaning in cli.EXIT_CODES.items():
        assert f"{code:>3}  {meaning}" in page
    assert set(cli._CODE_OF_ERROR.values()) <= cli.EXIT_CODES.keys()
