"""The command line against real daemons: starting, asking, stopping, and every way a start is refused."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsfs import __version__
from dsfs.storage.mounts import mount_at
from tests.mount.conftest import Lake, NewNode
from tests.mount.sample import errno_of
from tests.rig.background import in_background
from tests.rig.daemonlog import unexpected_lines
from tests.rig.node import MIB, Node
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until

V = "photos/v1"
CONTENT = b"0123456789" * 500_000
SMALL = {f"small/{number}": bytes([number]) * 1_000 for number in range(5)}


def fill(lake: Lake) -> None:
    for name, content in {"large": CONTENT, **SMALL}.items():
        lake.put(f"{V}/{name}", content)


def answer_of(node: Node, *words: str) -> Any:
    """What a command answers with --json."""
    done = node.command(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture
def background(new_node: NewNode, lake: Lake, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node whose daemon `dsfs mount` has started in the background."""
    fill(lake)
    node = new_node()
    done = node.command("mount")
    log = node.state_dir / "dsfs.log"
    assert (done.returncode, done.stderr) == (0, ""), log.read_text()
    assert done.stdout == f"made {node.mountpoint}\nmounted at {node.mountpoint}, log in {log}\n"
    yield node
    if node.is_mounted():
        assert node.command("unmount", "--now").returncode == 0
    expected = [regex for mark in request.node.iter_markers("expects_log") for regex in mark.args]
    assert not unexpected_lines(log.read_text(), expected)


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or waits only for whoever adopted it to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# -- mount and unmount ---------------------------------------------------------------------------------------


def test_mount_returns_when_the_mount_answers_and_unmount_when_all_is_gone(background: Node) -> None:
    assert (background.mountpoint / V / "large").read_bytes() == CONTENT
    pid = background.ask("status")["daemon"]["pid"]
    assert os.getsid(pid) == pid  # in a session of its own: it outlives the terminal
    done = background.command("unmount")
    assert (done.returncode, done.stdout) == (0, f"{background.mountpoint} is unmounted\n")
    assert mount_at(background.mountpoint) is None
    assert has_ended(pid)
    assert os.listdir(background.mountpoint) == []
    assert not (background.state_dir / "control.sock").exists()


def test_a_mount_comes_back_with_what_was_resident(background: Node) -> None:
    (background.mountpoint / V / "large").read_bytes()
    assert background.command("unmount").returncode == 0
    assert background.command("mount").returncode == 0
    version = background.version(V)
    assert version["resident_bytes"] >= 5_000_000


def test_unmount_by_the_socket_needs_no_configuration(background: Node) -> None:
    background.config.rename(background.config.with_suffix(".away"))
    done = background.command("status")
    assert done.returncode == 2
    background.config.with_suffix(".away").rename(background.config)
    socket = str(background.state_dir / "control.sock")
    assert _with_socket("status", socket) == 0
    assert _with_socket("unmount", socket) == 0
    assert not background.is_mounted()


def _with_socket(verb: str, socket: str) -> int:
    # Not Node.command, which adds --config.
    command = [sys.executable, "-m", "dsfs", verb, "--socket", socket]
    return subprocess.run(command, capture_output=True, timeout=60).returncode


def test_unmount_while_a_file_is_open_ends_the_daemon_all_the_same(background: Node) -> None:
    with (background.mountpoint / V / "large").open("rb", buffering=0) as file:
        assert file.read(10) == CONTENT[:10]
        done = background.command("unmount", "--timeout", "20s")
        assert done.returncode == 0, done.stderr
        assert not background.is_mounted()


@pytest.mark.parametrize("options", [(), ("--now",)])
def test_unmount_of_a_daemon_that_does_not_answer_says_what_will_happen(node: Node, options: tuple[str, ...]) -> None:
    pid = node.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        done = node.command("unmount", "--timeout", "3s", *options)
        waiting, *rest = done.stderr.splitlines()
        assert waiting.startswith(f"dsfs: the daemon (pid {pid}) is asked to stop; an answer is waited for 3 s")
        state = f"it is stopped (kill -CONT {pid} lets it go on), and ends when it goes on"
        said = f"the daemon (pid {pid}) {{}} for 3 s: {state}"
        if options:
            assert (done.returncode, rest) == (0, [])
            assert done.stdout == f"{node.mountpoint} is unmounted; {said.format('has not answered')}\n"
        else:
            assert (done.returncode, done.stdout) == (3, "")
            said = said.format("was asked to stop and has not answered")
            assert rest[0].startswith(f"dsfs: {said}; {node.mountpoint} is unmounted then,")
        assert node.is_mounted() == (not options)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert node.wait() == 0
    assert not node.is_mounted()


# -- questions -----------------------------------------------------------------------------------------------


def test_status_tells_of_daemon_origin_backing_memory_and_versions(background: Node) -> None:
    (background.mountpoint / V / "large").read_bytes()
    wait_until(lambda: background.version(V)["resident_bytes"] >= len(CONTENT), what="filling")
    status = answer_of(background, "status")
    assert set(status) == {"daemon", "origins", "backing", "eviction", "memory", "versions", "warms"}
    assert status["daemon"]["mountpoint"] == str(background.mountpoint)
    assert status["daemon"]["version"] == __version__
    assert status["daemon"]["state"] == "running"
    assert [origin["state"] for origin in status["origins"]] == ["ok"]
    assert status["origins"][0]["bytes"] >= len(CONTENT)
    assert (status["backing"]["path"], status["backing"]["state"]) == (str(background.backing), "ok")
    assert status["backing"]["used_bytes"] >= len(CONTENT)
    assert 0 < status["memory"]["used_bytes"] <= status["memory"]["limit_bytes"] == 128 * MIB
    version = status["versions"][0]
    assert (version["dataset"], version["version"], version["state"]) == ("photos", "v1", "ready")
    assert (version["files"], version["bytes"]) == (6, len(CONTENT) + 5_000)
    path = str(background.mountpoint / V)
    (same,) = answer_of(background, "status", path)["versions"]
    assert same | {"last_used_ago_s": None} == version | {"last_used_ago_s": None}  # which grows
    wrong = background.command("status", "/")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == f"dsfs: '/' is not below the mountpoint {background.mountpoint}\n"
    text = background.command("status", V).stdout
    for shown in (str(background.mountpoint), V, "ready", "running", str(background.backing)):
        assert shown in text


def test_ls_lists_datasets_versions_and_files(background: Node) -> None:
    assert [(entry["name"], entry["kind"]) for entry in answer_of(background, "ls")["entries"]] == [
        ("photos", "dataset")
    ]
    assert [(entry["name"], entry["kind"]) for entry in answer_of(background, "ls", "photos")["entries"]] == [
        ("v1", "version")
    ]
    entries = answer_of(background, "ls", V)["entries"]
    assert [(entry["name"], entry["kind"], entry["bytes"]) for entry in entries] == [
        ("large", "file", len(CONTENT)), ("small", "directory", None),
    ]  # fmt: skip
    assert len(answer_of(background, "ls", f"{V}/small")["entries"]) == 5
    assert answer_of(background, "ls", str(background.mountpoint / V / "small"))["entries"][0]["name"] == "0"
    assert background.command("ls", f"{V}/absent").returncode == 1
    assert background.command("ls", "absent").stderr == "dsfs: there is no dataset 'absent'\n"


def test_why_tells_where_the_bytes_of_a_file_come_from(background: Node, lake: Lake) -> None:
    path = background.mountpoint / V / "large"
    assert answer_of(background, "why", str(path))["last_fetch"] is None
    path.read_bytes()
    wait_until(lambda: background.segment_files(), what="sealing")
    why = answer_of(background, "why", f"{V}/large")
    assert why["path"] == str(path)
    assert why["object"]["key"] == f"{lake.prefix}/{V}/large"
    assert why["object"]["size"] == len(CONTENT)
    assert why["blocks"] == {"resident": 39, "total": 39}
    assert why["extent"] == {"offset": 0, "length": len(CONTENT)}
    assert why["segment"]["kind"] == "large"
    assert Path(why["segment"]["path"]) in background.segment_files()
    assert why["last_fetch"]["attempts"] == 1
    assert why["last_error"] is None
    assert "resident 39 of 39" in background.command("why", str(path)).stdout
    assert answer_of(background, "why", f"{V}/small/1")["segment"]["kind"] == "pack"
    assert background.command("why", V).returncode == 2
    assert background.command("why", f"{V}/absent").returncode == 1


def test_drop_removes_what_is_resident_and_refresh_lists_anew(background: Node, lake: Lake) -> None:
    (background.mountpoint / V / "large").read_bytes()
    wait_until(lambda: background.segment_files(), what="sealing")
    dropped = answer_of(background, "drop", str(background.mountpoint / V), "--yes")
    assert dropped["dropped_bytes"] >= len(CONTENT)
    assert not background.segment_files()
    assert background.version(V)["resident_bytes"] == 0
    assert (background.mountpoint / V / "large").read_bytes() == CONTENT
    before = background.version(V)["generation"]
    assert "as before" in background.command("refresh", V).stdout
    lake.put(f"{V}/new", b"1")
    refreshed = answer_of(background, "refresh", V)
    assert (refreshed["changed"], refreshed["previous"], refreshed["files"]) == (True, before, 7)
    assert background.command("drop", "photos", "--yes").returncode == 2
    assert background.command("refresh", "photos/v9").returncode == 1


def test_metrics_are_in_the_prometheus_format(background: Node) -> None:
    (background.mountpoint / V / "large").read_bytes()
    lines = background.command("metrics").stdout.splitlines()
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+|[a-z_]+\{le="\+Inf"\} \d+')
    assert not [line for line in lines if not line.startswith("# ") and not sample.fullmatch(line)]
    assert background.metric("dsfs_read_bytes_total") >= len(CONTENT)
    assert background.metric("dsfs_origin_bytes_total") >= len(CONTENT)
    assert answer_of(background, "metrics")["text"].splitlines()[0].startswith("# HELP")


def test_config_is_shown_and_checked_without_a_daemon(new_node: NewNode) -> None:
    node = new_node()
    assert answer_of(node, "config", "show")["mountpoint"] == str(node.mountpoint)
    assert node.command("config", "check").returncode == 0
    node.config.write_text(node.config.read_text().replace("mountpoint", "mountpiont", 1))
    done = node.command("config", "check")
    assert done.returncode == 2
    assert "mountpiont" in done.stderr
    assert "mountpoint" in done.stderr
    assert node.command("mount").returncode == 2


@pytest.mark.parametrize(
    "words", [("status",), ("ls",), ("why", "a/b/c"), ("drop", "a/b", "--yes"), ("metrics",), ("unmount",)]
)
def test_without_a_daemon_every_command_says_so_and_exits_with_3(new_node: NewNode, words: tuple[str, ...]) -> None:
    done = new_node().command(*words)
    assert done.returncode == 3
    assert done.stdout == ""
    assert re.fullmatch(r"dsfs: no daemon answers .*\n", done.stderr)


# -- what a dead daemon leaves, and a second one -------------------------------------------------------------


def killed(node: Node) -> None:
    """End the daemon with SIGKILL and leave its mount where it is."""
    assert node.process is not None
    node.process.send_signal(signal.SIGKILL)
    assert node.wait() == -signal.SIGKILL
    assert errno_of(os.statvfs, node.mountpoint) == errno.ENOTCONN


def test_what_a_dead_daemon_left_is_taken_away_by_the_next_mount(node: Node, lake: Lake) -> None:
    fill(lake)
    assert (node.mountpoint / V / "large").read_bytes() == CONTENT
    killed(node)
    node.start()
    assert (node.mountpoint / V / "large").read_bytes() == CONTENT
    assert node.command("status").returncode == 0


def test_what_a_dead_daemon_left_is_taken_away_by_unmount(node: Node) -> None:
    killed(node)
    assert node.command("status").returncode == 3
    done = node.command("unmount")
    assert done.returncode == 0
    assert done.stdout == f"no daemon; the dead mount it left at {node.mountpoint} is unmounted\n"
    assert mount_at(node.mountpoint) is None
    assert node.command("unmount").returncode == 3


@pytest.mark.expects_log("^dsfs: ")
def test_a_second_daemon_on_the_state_directory_is_refused_by_name_and_pid(node: Node, new_node: NewNode) -> None:
    second = new_node()
    second.config.write_text(second.config.read_text().replace(str(second.state_dir), str(node.state_dir)))
    said = f"dsfs: {node.state_dir} is in use by another dsfs daemon (pid {node.pid})\n"
    done = second.command("mount")
    assert (done.returncode, done.stderr) == (4, said)
    assert second.command("mount", "--foreground").returncode == 4
    assert node.command("mount").returncode == 4
    assert os.listdir(node.mountpoint) == []
    assert not second.is_mounted()


@pytest.mark.expects_log("^dsfs: ")
def test_a_second_daemon_on_the_mountpoint_is_refused_by_name_and_pid(node: Node, new_node: NewNode) -> None:
    second = new_node()
    second.config.write_text(second.config.read_text().replace(str(second.mountpoint), str(node.mountpoint)))
    said = f"dsfs: {node.mountpoint} is already mounted by another dsfs daemon (pid {node.pid})\n"
    for options in ((), ("--force",)):
        done = second.command("mount", *options)
        assert (done.returncode, done.stderr) == (4, said)
    assert second.command("unmount").returncode == 4  # it answers, but not on this socket
    assert node.is_mounted()


@pytest.mark.needs("root")
@pytest.mark.expects_log("^dsfs: ")
def test_a_state_directory_that_cannot_be_written_is_one_line(new_node: NewNode) -> None:
    node = new_node()
    with SmallFilesystem(node.state_dir, "tmpfs", MIB) as small:
        small.remount("ro")
        done = node.command("mount")
        said = f"dsfs: the log of the daemon cannot be written: {node.state_dir}/dsfs.log: Read-only file system\n"
        assert (done.returncode, done.stderr) == (1, said)
        done = node.command("mount", "--foreground")
        assert done.returncode == 1
        assert done.stderr.endswith(f"\ndsfs: state directory {node.state_dir}: Read-only file system\n")


# -- mountpoints ---------------------------------------------------------------------------------------------


def test_a_missing_mountpoint_is_made(new_node: NewNode) -> None:
    node = new_node()
    node.config.write_text(node.config.read_text().replace(str(node.mountpoint), str(node.mountpoint / "deep/er")))
    node.mountpoint = node.mountpoint / "deep/er"
    node.start()
    assert node.is_mounted()
    assert f" mount.mountpoint: made {node.mountpoint}\n" in node.log_text()


def test_a_mountpoint_that_is_no_directory_is_refused(new_node: NewNode) -> None:
    node = new_node()
    node.mountpoint.write_text("a file")
    done = node.command("mount")
    said = f"dsfs: {node.config}: mountpoint: {node.mountpoint} is not a directory\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert (node.command("config", "check").stderr, node.command("mount", "--foreground").stderr) == (said, said)
    assert node.mountpoint.read_text() == "a file"


def test_a_mountpoint_that_is_not_empty_is_refused_without_force(new_node: NewNode, lake: Lake) -> None:
    fill(lake)
    node = new_node()
    node.mountpoint.mkdir()
    (node.mountpoint / "precious").write_text("mine")
    done = node.command("mount")
    assert done.returncode == 1
    assert f"{node.mountpoint} is not empty ('precious', ...)" in done.stderr
    assert "--force" in done.stderr
    node.start("--force")
    assert os.listdir(node.mountpoint) == ["photos"]
    assert node.stop() == 0
    assert (node.mountpoint / "precious").read_text() == "mine"


@pytest.mark.needs("root")
def test_a_mountpoint_where_something_else_is_mounted_is_refused(new_node: NewNode, tmp_path: Path) -> None:
    node = new_node()
    with SmallFilesystem(node.mountpoint, "tmpfs", MIB):
        for options in ((), ("--force",)):
            done = node.command("mount", *options)
            assert done.returncode == 4
            assert re.fullmatch(f"dsfs: {node.mountpoint} is already mounted \\(tmpfs, .*\\)\n", done.stderr)


def test_a_mountpoint_that_a_program_works_in_is_unmounted_all_the_same(background: Node) -> None:
    fd = os.open(background.mountpoint / V, os.O_RDONLY | os.O_DIRECTORY)
    try:
        done = in_background(lambda: background.command("unmount")).result(40)
        assert done.returncode == 0
        assert not background.is_mounted()
    finally:
        os.close(fd)
