"""`dsfs doctor` on this machine: a real directory, a real S3 server, and what can be wrong with each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dsfs.doctor.scratch import PREFIX
from tests.rig.consultation import FAIL, NOTE, OK, UNKNOWN, WARN, Report
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import AS_NOBODY, PATIENT, Node
from tests.rig.reading import SourceVersion
from tests.rig.s3server import S3Server, free_port
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]

MIB = 1024 * 1024


def doctor(node: Node, *words: str) -> Report:
    return Report(node.command("doctor", "--json", *words))


def scratch_of(place: Path) -> list[str]:
    return [name for name in os.listdir(place) if name.startswith(".")]


def test_all_is_well_with_a_running_daemon(node: Node, version: SourceVersion) -> None:
    node.start()
    report = doctor(node)
    nfs = dict.fromkeys(report.named("nfs"), UNKNOWN)
    assert report.other_than_ok() == nfs
    assert report.code in (0, 5)
    assert all("not on NFS" in report.measured(name) for name in nfs)
    assert scratch_of(node.backing) == []


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallFilesystem]:
    with SmallFilesystem(tmp_path / "small", "ext4", 32 * MIB) as mounted:
        yield mounted


@pytest.fixture
def lonely(small: SmallFilesystem, tmp_path: Path, s3: S3Server) -> Node:
    """A node without an origin, and without the room to measure how fast the disk is: its doctor is quick."""
    return Node(tmp_path / "lonely", f"http://127.0.0.1:{free_port()}", s3.env(), backing=small.path / "backing")


def test_a_directory_that_is_not_there_yet_is_looked_at_where_it_will_be(lonely: Node) -> None:
    report = doctor(lonely)
    assert [report[f"directory.{name}"] for name in ("mark", "mode", "owner")] == [NOTE, UNKNOWN, OK]
    assert report["node.daemon"] == NOTE
    text = lonely.command("doctor").stdout
    assert "NFS client\n  not checked: " in text
    assert "\norigin s3://lake/datasets\n  origin.reach        fail " in text
    assert not lonely.backing.exists()
    assert scratch_of(lonely.backing.parent) == []


def test_a_directory_whose_file_system_is_not_mounted_is_a_failure(new_node: NewNode, tmp_path: Path) -> None:
    report = doctor(new_node(backing=tmp_path / "not" / "mounted"))
    others = report.named("directory") - {"directory.answers", "directory.mark", "directory.folders"}
    assert {report[name] for name in others} == {UNKNOWN}
    assert (report["directory.answers"], report.code) == (FAIL, 6)
    assert "is it mounted?" in report.measured("directory.answers")


def test_a_directory_of_somebody_else_and_one_of_another_format_are_failures(lonely: Node) -> None:
    lonely.backing.mkdir()
    (lonely.backing / "thesis.doc").touch()
    report = doctor(lonely)
    assert (report["directory.mark"], report.code) == (FAIL, 6)
    assert "thesis.doc" in report.measured("directory.mark")
    (lonely.backing / "dsfs.json").write_text('{"format": 99, "cluster": "0a"}')
    assert "format 99" in doctor(lonely).measured("directory.mark")


def test_what_dead_runs_have_left_is_removed(lonely: Node) -> None:
    lonely.backing.mkdir()
    old, fresh = (lonely.backing / f"{PREFIX}{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    doctor(lonely)
    assert scratch_of(lonely.backing) == [fresh.name]


def test_a_small_file_system_and_one_that_is_read_only(lonely: Node, small: SmallFilesystem) -> None:
    report = doctor(lonely)
    assert report["directory.room"] == WARN
    assert [report[f"directory.{name}"] for name in ("write_speed", "read_speed", "space_return")] == [UNKNOWN] * 3
    assert report["directory.names"] == OK
    small.remount("ro")
    report = doctor(lonely)
    assert "Read-only file system" in report.measured("directory.owner")
    assert [report[f"directory.{name}"] for name in ("owner", "locks", "room")] == [FAIL, UNKNOWN, WARN]


@pytest.fixture
def silent(proxy: FaultProxy) -> Iterator[FaultProxy]:
    proxy.add(Fault("stall", method="*"))
    yield proxy
    proxy.release()


def test_a_silent_origin_is_a_failure_within_its_time(
    lonely: Node, silent: FaultProxy, s3: S3Server, tmp_path: Path
) -> None:
    node = Node(tmp_path / "node", silent.endpoint_url, s3.env(), backing=lonely.backing)
    started = time.monotonic()
    report = doctor(node)
    assert time.monotonic() - started < 60
    assert (report["origin.reach"], report["origin.list"], report.code) == (FAIL, UNKNOWN, 6)


def test_an_origin_that_nothing_listens_at_is_told_from_one_that_refuses(
    lonely: Node, s3: S3Server, tmp_path: Path, version: SourceVersion
) -> None:
    report = doctor(lonely)
    assert (report["origin.reach"], report["origin.credentials"]) == (FAIL, UNKNOWN)
    assert "refused" in report.measured("origin.reach")

    env = {**s3.env(), "AWS_SECRET_ACCESS_KEY": "wrong"}
    stranger = Node(tmp_path / "stranger", s3.endpoint_url, env, backing=lonely.backing)
    report = doctor(stranger)
    assert [report[f"origin.{name}"] for name in ("reach", "credentials", "list", "first_byte")] == [
        OK, OK, FAIL, UNKNOWN,
    ]  # fmt: skip
    assert "403" in report.measured("origin.list")


def test_credentials_that_are_missing_are_a_failure(lonely: Node, s3: S3Server, tmp_path: Path) -> None:
    env = {name: value for name, value in s3.env().items() if "KEY" not in name}
    report = doctor(Node(tmp_path / "node", s3.endpoint_url, env, backing=lonely.backing))
    assert report["origin.credentials"] == FAIL
    assert "unsigned = true" in report.measured("origin.credentials")


def test_an_aws_profile_that_is_not_there_is_a_failure(lonely: Node, s3: S3Server, tmp_path: Path) -> None:
    env = {**s3.env(), "AWS_PROFILE": "nobody"}
    report = doctor(Node(tmp_path / "node", s3.endpoint_url, env, backing=lonely.backing))
    assert (report["origin.reach"], report["origin.list"], report.code) == (FAIL, UNKNOWN, 6)
    assert "nobody" in report.measured("origin.reach")


def test_each_bucket_is_looked_at_once(new_node: NewNode, s3: S3Server, lonely: Node) -> None:
    s3.bucket("other")
    more = '\n[[dataset]]\nname = "a"\nurl = "s3://other/a"\n[[dataset]]\nname = "b"\nurl = "s3://other/b"\n'
    done = new_node(more=more, backing=lonely.backing).command("doctor", "--json")
    origins = {check["area"] for check in json.loads(done.stdout)["checks"] if check["check"] == "origin.list"}
    assert origins == {"origin s3://lake/datasets", "origin s3://other/a"}


@pytest.mark.needs("setpriv")
def test_an_ordinary_user_is_told_what_was_not_checked(node: Node, version: SourceVersion) -> None:
    node.start()
    node.backing.chmod(0o755)
    report = Report(node.command("doctor", "--json", through=AS_NOBODY))
    assert report["node.passthrough"] == UNKNOWN
    assert report.measured("node.passthrough") == "needs root"
    assert "as root or as the daemon's user" in report.measured("directory.owner")
    assert [report[f"directory.{name}"] for name in ("owner", "locks", "clock")] == [UNKNOWN] * 3
    assert [report[f"directory.{name}"] for name in ("mark", "mode", "inodes")] == [OK] * 3


def test_an_interrupted_run_leaves_nothing(node: Node) -> None:
    node.backing.mkdir()  # with the room for checks that take a while
    process = subprocess.Popen(
        [sys.executable, "-m", "dsfs", "doctor", "--config", str(node.config)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr:
        wait_until(lambda: scratch_of(node.backing), what="the doctor at work")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""
    assert scratch_of(node.backing) == []


def as_host(node: Node, hostname: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run `dsfs doctor WORDS` on a machine of that name."""
    script = 'hostname "$1"; shift; exec "$@"'
    command = [sys.executable, "-m", "dsfs", "doctor", "--json", "--config", str(node.config), *words]
    return node.machine.run("unshare", "--uts", "sh", "-ec", script, "sh", hostname, *command)


@pytest.mark.needs("unshare", "hostname")
def test_two_nodes_meet(new_node: NewNode, tmp_path: Path, version: SourceVersion) -> None:
    one, two = (new_node(backing=tmp_path / "backing", settings=PATIENT) for _ in range(2))
    with ThreadPoolExecutor() as pool:
        running = [
            pool.submit(as_host, node, me, "--with", other)
            for node, me, other in ((one, "one.example.org", "two"), (two, "two", "one"))
        ]
        reports = [Report(done.result()) for done in running]
    not_nfs = {"pair.mounts": UNKNOWN, "pair.client_ids": UNKNOWN}
    for report in reports:
        verdicts = {name: report[name] for name in report.named("pair")}
        assert verdicts == {**dict.fromkeys(verdicts, OK), **not_nfs}
    assert sum(report.checks["pair.links"]["value"]["here"] for report in reports) == 20
    assert scratch_of(tmp_path) == []


def test_a_node_that_does_not_come_is_a_failure_and_one_cannot_meet_oneself(lonely: Node) -> None:
    report = doctor(lonely, "--with", "nobody-else", "--wait", "1s")
    assert (report["pair.met"], report["pair.locks"], report.code) == (FAIL, UNKNOWN, 6)
    done = lonely.command("doctor", "--with", os.uname().nodename)
    assert (done.returncode, done.stdout) == (2, "")
    assert "that is this node" in done.stderr
