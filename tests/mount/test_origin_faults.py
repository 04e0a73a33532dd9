"""What goes wrong on the way to the origin, and what a program that reads through the mount sees of it."""

import errno
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.mount.conftest import BUCKET, Lake, NewNode
from tests.mount.sample import errno_of, read_part
from tests.rig.background import in_background
from tests.rig.daemonlog import unexpected_lines
from tests.rig.fault import Fault, load_faults
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import MIB, Node, Settings
from tests.rig.s3server import S3Server, free_port
from tests.rig.wait import wait_until

V = "photos/v1"
LARGE = Random(11).randbytes(9 * MIB + 4_321)
SMALL = [Random(number).randbytes(20_000 + number) for number in range(12)]
TIMEOUT_S = 3.0  # a fault that stays takes all of it
PATIENT_S = 6.0  # a fault that passes takes some of it
SLACK_S = 3.0  # of a loaded machine


def timeout_of(seconds: float) -> Settings:
    return {"origin": {"timeout": f"{seconds:g}s", "stall_timeout": "500ms", "connect_timeout": "500ms"}}


FAILED = r"fetch failed: |(read|lookup|opendir|open): (EACCES|EIO|ESTALE): |cannot be listed: |more like this"
DRIFTED = r"has drifted: .*|fetch failed: |read: ESTALE: |more like this"


@pytest.fixture(scope="module")
def shared_nodes(
    s3: S3Server, shared_proxy: FaultProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[float, Node]]:
    """Daemons for all faults that pass over them, by their timeout; each test looks at a dataset of its own."""
    with ExitStack() as ends:
        nodes = {}
        for seconds in (TIMEOUT_S, PATIENT_S):
            place, settings = tmp_path_factory.mktemp("shared"), timeout_of(seconds)
            node = Node(place, shared_proxy.endpoint_url, s3.env(), url=f"s3://{BUCKET}", settings=settings)
            nodes[seconds] = ends.enter_context(node)
        yield nodes
        assert [node.stop() for node in nodes.values()] == [0, 0]


@pytest.fixture
def patient(shared_nodes: dict[float, Node], proxy: FaultProxy, request: pytest.FixtureRequest) -> Iterator[Node]:
    yield from judged(shared_nodes[PATIENT_S], request)


@pytest.fixture
def hasty(shared_nodes: dict[float, Node], proxy: FaultProxy, request: pytest.FixtureRequest) -> Iterator[Node]:
    yield from judged(shared_nodes[TIMEOUT_S], request)


def judged(node: Node, request: pytest.FixtureRequest) -> Iterator[Node]:
    """A shared daemon, whose log is read at the end of the test."""
    begin = len(node.log_text())
    yield node
    expected = [regex for mark in request.node.iter_markers("expects_log") for regex in mark.args]
    assert not unexpected_lines(node.log_text()[begin:], expected)


def fill(lake: Lake, version: str = V) -> dict[str, bytes]:
    """A version with a large object and a pack of small ones; its contents by name."""
    contents = {"large": LARGE} | {f"small/{number}": content for number, content in enumerate(SMALL)}
    for name, content in contents.items():
        lake.put(f"{version}/{name}", content, 1_700_000_000)
    return contents


def read_all(node: Node, contents: dict[str, bytes], version: str = V) -> None:
    for name, content in contents.items():
        assert read_part(node.mountpoint / version / name, 0, len(content) + 1) == content


ONCE_AND_AGAIN: dict[str, list[Fault]] = {
    "500": [Fault("status", status=500, times=4)],
    "503 SlowDown": [Fault("status", status=503, code="SlowDown", times=4)],
    "reset before the answer": [Fault("reset", times=3)],
    "reset within the body": [Fault("reset", after_bytes=10_000, times=4)],
    "body cut short": [Fault("cut", after_bytes=10_000, times=4)],
    "body cut by a byte": [Fault("cut", key="*/large", after_bytes=MIB - 1, times=2)],
    "silence": [Fault("stall", times=3)],
    "silence within the body": [Fault("stall", after_bytes=10_000, times=3)],
    "moved range": [Fault("content_range", shift=4096, times=3)],
    "nonsense for a range": [Fault("headers", headers={"Content-Range": "bytes */*"}, times=3)],
    "no ETag": [Fault("headers", drop=("ETag",), times=4)],
    "empty ETag": [Fault("headers", headers={"ETag": '""'}, times=4)],
    "the whole object for a range": [Fault("whole", times=9)],
    "a page of a gateway": [Fault("status", status=502, body="<h1>Bad Gateway</h1>", times=4)],
    "a bad day": load_faults("flaky"),
}


@pytest.mark.parametrize("name", ONCE_AND_AGAIN)
def test_a_fault_that_passes_costs_time_and_not_a_byte(patient: Node, lake: Lake, proxy: FaultProxy, name: str) -> None:
    contents = fill(lake, "v1")
    version = f"{lake.prefix}/v1"
    wait_until(lambda: lake.prefix in os.listdir(patient.mountpoint), what="the new dataset")
    os.listdir(patient.mountpoint / version)
    retries = patient.metric("dsfs_origin_retries_total")
    proxy.add(*ONCE_AND_AGAIN[name])
    read_all(patient, contents, version)
    assert any(request.fault for request in proxy.requests)
    assert patient.metric("dsfs_origin_retries_total") > retries
    proxy.clear()
    read_all(patient, contents, version)


FOR_EVER: dict[str, tuple[Fault, int]] = {
    "500": (Fault("status", status=500), errno.EIO),
    "reset": (Fault("reset"), errno.EIO),
    "silence": (Fault("stall"), errno.EIO),
    "silence within the body": (Fault("stall", after_bytes=100), errno.EIO),
    "short body": (Fault("cut", after_bytes=0), errno.EIO),
    "no ETag": (Fault("headers", drop=("ETag",)), errno.EIO),
    "moved range": (Fault("content_range", shift=1), errno.EIO),
    "403": (Fault("status", status=403, code="AccessDenied"), errno.EACCES),
    "401": (Fault("status", status=401, code="Unauthorized"), errno.EACCES),
    "expired token": (Fault("status", status=400, code="ExpiredToken"), errno.EACCES),
    "bucket gone": (Fault("status", status=404, code="NoSuchBucket"), errno.EIO),
    "object gone": (Fault("status", status=404, code="NoSuchKey"), errno.ESTALE),
    "precondition": (Fault("status", status=412, code="PreconditionFailed"), errno.ESTALE),
    "other ETag": (Fault("headers", headers={"ETag": '"other"'}), errno.ESTALE),
    "other size": (Fault("content_range", grow=1), errno.ESTALE),
}


@pytest.mark.expects_log(FAILED, DRIFTED)
@pytest.mark.parametrize("name", FOR_EVER)
def test_a_fault_that_stays_gives_its_errno_in_time_and_passes_with_its_cause(
    hasty: Node, lake: Lake, proxy: FaultProxy, name: str
) -> None:
    fault, expected = FOR_EVER[name]
    contents = fill(lake, "v1")
    version = f"{lake.prefix}/v1"
    wait_until(lambda: lake.prefix in os.listdir(hasty.mountpoint), what="the new dataset")
    large = hasty.mountpoint / version / "large"
    read_part(large, 8 * MIB, 4096)
    wait_until(lambda: hasty.ask("why", path=f"{version}/large")["blocks"]["resident"], what="filling a block")
    proxy.add(fault)
    began = time.monotonic()
    assert errno_of(read_part, large, 0, 1) == expected
    assert time.monotonic() - began < TIMEOUT_S + SLACK_S
    assert read_part(large, 8 * MIB, 4096) == LARGE[8 * MIB : 8 * MIB + 4096]
    assert hasty.ask("why", path=f"{version}/large")["last_error"]["message"]
    state = hasty.ask("status")["origins"][0]["state"]
    assert state == ("ok" if expected == errno.ESTALE else "failing")
    proxy.clear()
    proxy.release()
    wait_until(lambda: _reads(large), what="reading when the fault has passed")
    read_all(hasty, contents, version)
    assert hasty.ask("status")["origins"][0]["state"] == "ok"


def _reads(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


# -- an origin that is not there when the daemon starts ------------------------------------------------------


@pytest.mark.expects_log(FAILED)
@pytest.mark.parametrize("trouble", ["unreachable", "no S3", "bucket missing", "refused", "silent"])
def test_without_its_origin_the_mount_starts_and_gives_what_is_resident(
    new_node: NewNode, lake: Lake, proxy: FaultProxy, s3: S3Server, trouble: str
) -> None:
    contents = fill(lake)
    node = new_node(timeout_of(TIMEOUT_S)).start()
    os.listdir(node.mountpoint / "photos")
    read_all(node, {"small/3": SMALL[3]})
    read_part(node.mountpoint / V / "large", 0, 4096)
    assert node.stop() == 0
    proxy.add(*_no_origin(trouble))
    node.start()
    assert os.listdir(node.mountpoint) == ["photos"]
    assert os.listdir(node.mountpoint / "photos") == ["v1"]
    read_all(node, {"small/3": SMALL[3]})
    assert read_part(node.mountpoint / V / "large", 0, 4096) == LARGE[:4096]
    expected = errno.EACCES if trouble == "refused" else errno.EIO
    for absent in ("photos/v2", "other"):
        began = time.monotonic()
        assert errno_of(os.listdir, node.mountpoint / absent) == expected
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
    began = time.monotonic()
    assert errno_of(read_part, node.mountpoint / V / "large", 8 * MIB, 1) == expected
    assert time.monotonic() - began < TIMEOUT_S + SLACK_S
    told = {"bucket missing": "NoSuchBucket", "refused": "AccessDenied", "no S3": "404", "silent": "no answer in time"}
    cause = told.get(trouble, "connection")
    origin = node.ask("status")["origins"][0]
    assert origin["state"] == "failing"
    assert cause in origin["error"]
    assert cause in node.command("status").stdout
    assert cause in node.log_text()
    proxy.clear()
    proxy.release()
    wait_until(lambda: _reads(node.mountpoint / V / "large"), what="reading once the origin is there")
    read_all(node, contents)


def _no_origin(trouble: str) -> list[Fault]:
    actions: dict[str, Fault] = {
        "unreachable": Fault("reset", "*"),
        "no S3": Fault("status", "*", status=404, body="<html><body>It works!</body></html>"),
        "bucket missing": Fault("status", "*", status=404, code="NoSuchBucket"),
        "refused": Fault("status", "*", status=403, code="AccessDenied"),
        "silent": Fault("stall", "*"),
    }
    return [actions[trouble]]


@pytest.mark.expects_log(FAILED)
def test_a_port_where_nobody_listens_is_named_and_the_mount_is_there(new_node: NewNode) -> None:
    port = free_port()
    node = new_node(timeout_of(TIMEOUT_S), endpoint_url=f"http://127.0.0.1:{port}").start()
    began = time.monotonic()
    assert errno_of(os.listdir, node.mountpoint / "photos") == errno.EIO
    assert time.monotonic() - began < TIMEOUT_S + SLACK_S
    assert errno_of(os.listdir, node.mountpoint) == errno.EIO
    assert node.ask("status")["origins"][0]["state"] == "failing"
    assert f"127.0.0.1:{port}/lake/" in node.command("status").stdout


@pytest.mark.expects_log(FAILED)
def test_without_credentials_reads_are_refused_and_the_log_tells_why(new_node: NewNode, lake: Lake) -> None:
    fill(lake)
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "HOME": "/nonexistent"}
    node = new_node(env=nobody | {"AWS_SHARED_CREDENTIALS_FILE": os.devnull}).start()
    assert errno_of(os.listdir, node.mountpoint / V) == errno.EACCES
    assert "there are no AWS credentials" in node.log_text()
    assert "there are no AWS credentials" in node.ask("status")["origins"][0]["error"]


# -- objects that change -------------------------------------------------------------------------------------

OTHER = Random(12).randbytes(len(LARGE))
CHANGES = {
    "changed": OTHER,
    "shorter": LARGE[: 5 * MIB],
    "longer": LARGE + b"1",
    "deleted": None,
}


@pytest.mark.expects_log(DRIFTED)
@pytest.mark.parametrize("change", CHANGES)
def test_an_object_replaced_in_the_middle_of_a_read_gives_estale_and_never_mixed_bytes(
    node: Node, lake: Lake, proxy: FaultProxy, change: str
) -> None:
    fill(lake)
    path = node.mountpoint / V / "large"
    got = bytearray()
    with path.open("rb", buffering=0) as file:
        proxy.add(Fault("stall", key="*/large", range="bytes=[4-9]??????-*"))  # what lies behind 4 MB waits
        outcome = in_background(lambda: _read_to_the_end(file.fileno(), got))
        wait_until(lambda: proxy.stalled and len(got) > 0, what="reading the first part")
        _replace(lake, CHANGES[change])
        proxy.clear()
        proxy.release()
        assert outcome.result(30) == errno.ESTALE
    assert len(got) < len(LARGE)
    assert got == LARGE[: len(got)]
    assert node.version(V)["state"] == "drifted"
    assert node.version(V)["drifted"] == [f"{lake.prefix}/{V}/large"]
    assert f"dsfs refresh {V}" in node.command("status").stdout
    assert read_part(node.mountpoint / V / "small/1", 0, 100_000) == SMALL[1]
    assert node.ask("refresh", target=V)["changed"]
    assert node.version(V)["state"] == "ready"
    new = CHANGES[change]
    if new is None:
        wait_until(lambda: "large" not in os.listdir(node.mountpoint / V), what="the new listing")
    else:
        wait_until(lambda: path.stat().st_size == len(new) and _is(path, new), what="the new content")


def _replace(lake: Lake, content: bytes | None) -> None:
    if content is None:
        lake.delete(f"{V}/large")
    else:
        lake.put(f"{V}/large", content)


def _is(path: Path, content: bytes) -> bool:
    try:
        return path.read_bytes() == content
    except OSError as error:
        return error.errno != errno.ESTALE and not pytest.fail(str(error))


def _read_to_the_end(fd: int, got: bytearray) -> int:
    """Read piece by piece; the errno that ended it, 0 at the end of the file."""
    for offset in itertools.count(0, 64 * 1024):
        try:
            piece = os.pread(fd, 64 * 1024, offset)
        except OSError as error:
            return error.errno or 0
        if not piece:
            break
        got += piece
    return 0


@pytest.mark.expects_log(DRIFTED)
def test_a_small_object_that_changed_gives_estale_and_its_neighbours_are_read(node: Node, lake: Lake) -> None:
    contents = fill(lake)
    os.listdir(node.mountpoint / V)
    lake.put(f"{V}/small/5", b"x" * len(SMALL[5]))
    lake.delete(f"{V}/small/7")
    for name in ("small/5", "small/7"):
        assert errno_of(read_part, node.mountpoint / V / name, 0, 1) == errno.ESTALE
        del contents[name]
    read_all(node, contents)
    assert sorted(node.version(V)["drifted"]) == [f"{lake.prefix}/{V}/small/{number}" for number in (5, 7)]


@pytest.mark.expects_log("fetch failed: ", "read: ESTALE: ")
def test_a_file_that_was_open_before_a_refresh_does_not_mark_what_the_refresh_found(node: Node, lake: Lake) -> None:
    fill(lake)
    new = OTHER
    with (node.mountpoint / V / "large").open("rb", buffering=0) as old:
        _replace(lake, new)
        assert node.ask("refresh", target=V)["changed"]
        assert errno_of(os.pread, old.fileno(), 4096, 8 * MIB) == errno.ESTALE
        assert node.version(V)["state"] == "ready"
        assert node.version(V)["drifted"] == []
        wait_until(lambda: _is(node.mountpoint / V / "large", new), what="the new content")


def test_unmount_and_sigterm_do_not_wait_for_a_silent_origin(node: Node, lake: Lake, proxy: FaultProxy) -> None:
    fill(lake)
    os.listdir(node.mountpoint / V)
    proxy.add(Fault("stall"))
    waiting = [in_background((node.mountpoint / V / name).read_bytes) for name in ("large", "small/1", "small/2")]
    wait_until(lambda: proxy.stalled >= 3, what="reads that wait")
    began = time.monotonic()
    assert node.command("unmount", "--now").returncode == 0
    assert time.monotonic() - began < 10
    assert node.wait() == 0
    assert all(isinstance(outcome.exception(10), OSError) for outcome in waiting)
