"""The rig itself: real clients of a real server that can be cut off, slowed down, filled up, and counted."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.rig.fault import Fault
from tests.rig.lake import MIB
from tests.rig.nfs.client import VERSIONS, NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer, export_path
from tests.rig.wait import wait_until

LARGE = export_path("large")
ASK_SERVER = ("stat", "--file-system", str(LARGE))  # one request, whatever is cached
GOES_ON_S = 60  # after a fault; clients wait longer and longer before they try again
HOUR_S = 3600
UNSIGNED = 400  # what the S3 server says to a request without a signature


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def seconds_to_ask() -> float:
    started = time.monotonic()
    os.statvfs(LARGE)
    return time.monotonic() - started


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def running_programs() -> set[str]:
    return {path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm")}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_node_reads_what_another_has_written(a: NfsClient, b: NfsClient, server: NfsServer, version: str) -> None:
    for client in (a, b):
        client.mount("large", version)
    a.check("sh", "-c", f"echo 'a was here' >{LARGE}/note")
    assert b.check("cat", f"{LARGE}/note") == "a was here\n"
    assert server.check("cat", f"{LARGE}/note") == "a was here\n"


def test_a_mount_has_the_options_it_was_asked_for(a: NfsClient) -> None:
    a.mount("large", "3", "actimeo=7,lookupcache=positive")
    mounted = a.check("findmnt", "--noheadings", "--output", "OPTIONS", str(LARGE))
    assert {"vers=3", "acregmin=7", "lookupcache=pos"} <= set(mounted.strip().split(","))


def test_a_node_that_is_cut_off_waits_and_goes_on_when_its_cable_is_mended(
    a: NfsClient, b: NfsClient, tmp_path: Path
) -> None:
    a.cut()
    waiting = a.start(*ASK_SERVER, log=tmp_path / "log")
    b.check(*ASK_SERVER)
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    a.mend()
    assert waiting.wait(GOES_ON_S) == 0


def test_a_node_without_storage_still_reaches_the_origin_and_the_other_way_round(a: NfsClient, rig: NfsRig) -> None:
    a.cut("storage")
    assert a.call(status_of, rig.origin.endpoint_url) == UNSIGNED
    a.mend("storage")
    a.cut("origin")
    with pytest.raises(urllib.error.URLError):
        a.call(status_of, rig.origin.endpoint_url)
    a.check(*ASK_SERVER)


def test_clients_go_on_when_the_server_was_stopped_and_started(a: NfsClient, server: NfsServer, tmp_path: Path) -> None:
    server.stop_nfs()
    waiting = a.start(*ASK_SERVER, log=tmp_path / "log")
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(1)
    server.start_nfs()
    assert waiting.wait(GOES_ON_S) == 0


def test_the_small_export_runs_full(a: NfsClient, server: NfsServer) -> None:
    done = a.run("dd", "if=/dev/zero", f"of={export_path('small')}/file", "bs=1M", "count=100", "oflag=direct")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert server.free_bytes("small") < MIB


def test_an_export_can_be_made_read_only(a: NfsClient, server: NfsServer) -> None:
    server.set_read_only("large", True)
    assert "Read-only file system" in a.run("touch", f"{LARGE}/new").stderr
    server.set_read_only("large", False)
    a.check("touch", f"{LARGE}/new")


def test_requests_on_the_wire_are_counted(a: NfsClient, b: NfsClient) -> None:
    a.check("dd", "if=/dev/zero", f"of={LARGE}/file", "bs=1M", "count=4", "oflag=direct")
    written = a.mount_stats()
    assert (written.operations["WRITE"], written.bytes["written_direct"]) == (4, 4 * MIB)

    b.mount("large", options="nocto")  # anew, so with empty caches
    b.check("cat", f"{LARGE}/file")
    once = b.mount_stats()
    assert once.operations["READ"] >= 4
    assert once.bytes["received"] == 4 * MIB
    b.check("cat", f"{LARGE}/file")
    again = b.mount_stats() - once
    assert again.operations["READ"] == 0
    assert again.bytes["read"] == 4 * MIB


def test_a_slow_network_delays_each_request(a: NfsClient) -> None:
    a.delay(milliseconds=300)
    assert a.call(seconds_to_ask) >= 0.3


def test_the_clock_of_a_node_can_be_wrong_but_not_that_of_its_files(a: NfsClient) -> None:
    a.set_clock(-HOUR_S)
    a.check("touch", f"{LARGE}/file")
    wrong = int(a.check("date", "+%s"))
    a.set_clock(0)
    right = int(a.check("date", "+%s"))
    assert HOUR_S <= right - wrong < HOUR_S + 60
    assert 0 <= right - int(a.check("stat", "--format=%Y", f"{LARGE}/file")) < 60


def test_a_process_on_a_node_can_be_stopped_and_killed(a: NfsClient, tmp_path: Path) -> None:
    process = a.start("sleep", "600", log=tmp_path / "log")
    process.send_signal(signal.SIGSTOP)
    assert a.call(state_of, process.pid) == "T"
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL


def test_a_program_that_takes_too_long_is_killed(a: NfsClient) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        a.run("sh", "-c", "sleep 600 & wait", timeout_s=1)
    wait_until(lambda: "sleep" not in a.call(running_programs), what="its child being gone, too")


def test_an_exception_of_a_function_on_a_node_is_raised_here(a: NfsClient) -> None:
    with pytest.raises(FileNotFoundError):
        a.call(os.stat, LARGE / "nothing")


def test_the_origin_can_be_counted_and_broken(a: NfsClient, rig: NfsRig) -> None:
    url = f"{rig.origin.endpoint_url}/lake/some/key"
    rig.origin.proxy.add(Fault("status", status=503, times=1))
    assert [a.call(status_of, url), a.call(status_of, url)] == [503, UNSIGNED]
    assert [(r.method, r.key, r.status) for r in rig.origin.proxy.requests] == [
        ("GET", "some/key", 503),
        ("GET", "some/key", UNSIGNED),
    ]
