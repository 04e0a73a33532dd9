"""`dsfs mount` in the background and `dsfs unmount`, with small scripts in the place of the daemon."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsfs.admin import launch, unmount
from dsfs.admin.client import ControlClient
from dsfs.admin.launch import StartError
from dsfs.model.errors import BusyError, DaemonUnreachableError, DsfsError, MountpointError
from dsfs.storage.mounts import Mount
from tests.rig.wait import wait_until

READY = """
    from dsfs.admin.notify import Notifier
    import signal
    notifier = Notifier.from_environment()
    notifier.status("listing")
    notifier.ready("mounted at /datasets")
    signal.pause()
"""
# Answers `status` and `stop` as the daemon does, then ends.
STOPPABLE = """
    import sys, trio
    from pathlib import Path
    from dsfs.admin.control import ControlServer, Verb
    from dsfs.admin.notify import Notifier
    async def main():
        async with trio.open_nursery() as nursery:
            async def stop(args):
                if args["now"]:
                    nursery.cancel_scope.cancel()
            async def status(args):
                return {"daemon": {"mountpoint": "/datasets"}}
            verbs = {"stop": Verb(stop, True), "status": Verb(status, False)}
            await nursery.start(ControlServer(Path(sys.argv[1]), verbs).serve)
            Notifier.from_environment().ready("mounted")
    trio.run(main)
"""


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(script), *arguments]


def quiet(line: str) -> None:
    """Nobody is to be told anything: nothing takes so long."""
    pytest.fail(line)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "dsfs.log"


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Pids of daemons that a test started; they are ended after it."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_launch_returns_when_the_daemon_is_ready(log_file: Path, started: list[int]) -> None:
    found = launch.launch(command(READY), log_file, timeout_s=30)
    started.append(found.pid)
    assert found.status == "mounted at /datasets"
    assert os.getsid(found.pid) == found.pid


def test_daemon_that_fails_is_quoted_and_its_code_kept(log_file: Path) -> None:
    script = "import sys; print('noise'); print('dsfs: another daemon runs', file=sys.stderr); sys.exit(4)"
    log_file.parent.mkdir()
    log_file.write_text("dsfs: of yesterday\n")
    with pytest.raises(StartError) as caught:
        launch.launch(command(script), log_file, timeout_s=30)
    assert str(caught.value) == "another daemon runs"
    assert caught.value.exit_code == 4


def test_words_of_fusermount_are_quoted_beside_those_of_the_daemon(log_file: Path) -> None:
    script = """
        import sys
        sys.exit("fusermount3: option allow_other only allowed if ...\\nnoise\\ndsfs: /datasets cannot be mounted")
    """
    with pytest.raises(StartError) as caught:
        launch.launch(command(script), log_file, timeout_s=30)
    assert str(caught.value).splitlines() == [
        "fusermount3: option allow_other only allowed if ...",
        "/datasets cannot be mounted",
    ]


def test_daemon_that_crashes_is_quoted_with_the_end_of_its_log(log_file: Path) -> None:
    with pytest.raises(StartError) as caught:
        launch.launch(command("raise ZeroDivisionError('oh')"), log_file, timeout_s=30)
    first, *rest = str(caught.value).splitlines()
    assert first == f"the daemon ended with 1 before the mount answered; the end of {log_file}:"
    assert rest[-1] == "ZeroDivisionError: oh"


def test_daemon_that_is_killed_is_reported_as_such(log_file: Path) -> None:
    with pytest.raises(StartError, match="was killed by SIGKILL before the mount answered") as caught:
        launch.launch(command("import os; os.kill(os.getpid(), 9)"), log_file, timeout_s=30)
    assert caught.value.exit_code == 1


def test_daemon_that_is_not_ready_in_time_is_ended(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
        import os, signal
        from dsfs.admin.notify import Notifier
        print(os.getpid(), flush=True)
        Notifier.from_environment().status("waiting for the origin")
        signal.pause()
    """
    heard: list[str] = []
    datagram = launch._datagram

    def hear(notices: socket.socket) -> str:
        heard.append(datagram(notices))
        return heard[-1]

    monkeypatch.setattr(launch, "_datagram", hear)
    # Time passes when the daemon has been heard, however long it takes to start here.
    monkeypatch.setattr("dsfs.admin.launch.time", SimpleNamespace(monotonic=lambda: 31.0 if heard else 0.0))
    with pytest.raises(DsfsError, match=r"did not answer within 30 s \(waiting for the origin\)"):
        launch.launch(command(script), log_file, timeout_s=30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log_file.read_text()), 0)


def test_watchdog_of_the_caller_is_not_that_of_the_daemon(
    log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    with pytest.raises(StartError):
        launch.launch(
            command("import os; print(os.environ.get('WATCHDOG_USEC')); 1/0"), log_file, timeout_s=30
        )
    assert log_file.read_text().startswith("None\n")


def test_log_that_has_grown_large_is_put_aside(log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "ROTATE_BYTES", 10)
    log_file.parent.mkdir()
    log_file.write_text("x" * 11)
    with pytest.raises(StartError, match="new"):
        launch.launch(command("print('new'); raise SystemExit(1)"), log_file, timeout_s=30)
    assert log_file.with_name("dsfs.log.1").read_text() == "x" * 11
    assert log_file.read_text() == "new\n"


def test_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DsfsError, match=r"file.*: (Not a directory|File exists)"):
        launch.launch(command("pass"), tmp_path / "file" / "dsfs.log", timeout_s=30)


def test_log_that_cannot_be_written_is_named(log_file: Path) -> None:
    log_file.mkdir(parents=True)
    with pytest.raises(DsfsError, match=f"^the log of the daemon cannot be written: {log_file}: Is a directory$"):
        launch.launch(command("pass"), log_file, timeout_s=30)


def test_unmount_waits_until_the_daemon_is_gone(log_file: Path, tmp_path: Path) -> None:
    socket_path = tmp_path / "control.sock"
    found = launch.launch(command(STOPPABLE, str(socket_path)), log_file, timeout_s=30)
    client = ControlClient(socket_path)
    assert client.daemon_pid() == found.pid
    done = unmount.unmount(client, None, now=True, timeout_s=30, tell=quiet)
    assert done == "/datasets is unmounted"
    assert not socket_path.exists()
    assert os.waitpid(found.pid, os.WNOHANG)[0] == found.pid


def test_daemon_that_does_not_stop_in_time_is_said_to_run_still(
    log_file: Path, tmp_path: Path, started: list[int]
) -> None:
    socket_path = tmp_path / "control.sock"
    started.append(launch.launch(command(STOPPABLE, str(socket_path)), log_file, timeout_s=30).pid)
    with pytest.raises(DsfsError, match=r"is stopping and has not ended within 1 s; --now"):
        unmount.unmount(ControlClient(socket_path), tmp_path, now=False, timeout_s=1, tell=quiet)


@pytest.fixture
def nobody(tmp_path: Path) -> ControlClient:
    return ControlClient(tmp_path / "control.sock")


@pytest.mark.parametrize(("life", "now"), [("dead", False), ("silent", True)])
def test_mount_of_a_dead_daemon_is_detached(
    nobody: ControlClient, monkeypatch: pytest.MonkeyPatch, life: str, now: bool
) -> None:
    detached: list[Path] = []
    place = Path("/datasets")
    monkeypatch.setattr(unmount, "mount_at", lambda path: Mount(path, "fuse.dsfs", "dsfs", "0:35"))
    monkeypatch.setattr(unmount, "life_of", lambda path: life)
    monkeypatch.setattr(unmount, "detach", detached.append)
    done = unmount.unmount(nobody, place, now=now, timeout_s=1, tell=quiet)
    assert done == f"no daemon; the {life} mount it left at /datasets is unmounted"
    assert detached == [place]


@pytest.mark.parametrize(
    ("filesystem", "life", "error", "message"),
    [
        ("fuse.dsfs", "alive", BusyError, "answers, but not on the control socket"),
        ("fuse.dsfs", "silent", BusyError, "does not answer"),
        ("nfs4", "dead", MountpointError, "is a mount of nfs4, not of dsfs"),
        (None, "alive", DaemonUnreachableError, "nothing is mounted at /datasets"),
    ],
)
def test_what_no_dead_daemon_left_is_not_touched(
    nobody: ControlClient,
    monkeypatch: pytest.MonkeyPatch,
    filesystem: str | None,
    life: str,
    error: type[DsfsError],
    message: str,
) -> None:
    monkeypatch.setattr(
        unmount, "mount_at", lambda path: Mount(path, filesystem, "x", "0:35") if filesystem else None
    )
    monkeypatch.setattr(unmount, "life_of", lambda path: life)
    monkeypatch.setattr(unmount, "detach", lambda path: pytest.fail(f"{path} was detached"))
    with pytest.raises(error, match=message):
        unmount.unmount(nobody, Path("/datasets"), now=False, timeout_s=1, tell=quiet)


def test_launcher_that_is_interrupted_ends_the_daemon(log_file: Path) -> None:
    daemon = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    launcher = f"""
        import sys
        from pathlib import Path
        from dsfs.admin.launch import launch
        launch([sys.executable, "-c", {daemon!r}], Path({str(log_file)!r}), timeout_s=30)
    """
    with subprocess.Popen(command(launcher), stderr=subprocess.PIPE) as process:
        pid = int(wait_until(lambda: log_file.exists() and log_file.read_text().strip(), what="the daemon"))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
