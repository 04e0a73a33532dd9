"""However the daemon is told to end, it ends within seconds, unmounted, and what it fetched is right afterwards."""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from dsfs.daemon import DRAIN_S
from dsfs.storage.mounts import detach
from tests.rig.background import in_background
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.held import Hold
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, read_at
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

ROOT = Path(__file__).parents[2]
STOP_S = 10  # an end takes seconds; what a busy machine adds is not its fault
GIVEN_UP_S = DRAIN_S + STOP_S  # and with something that does not come to its end
READ_TIMEOUT_S = 30
MAPPING_READER = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
    print(mapping[0], flush=True)
    sys.stdin.read()
"""


def assert_stops(node: Node, number: int = signal.SIGTERM) -> None:
    process = node.process
    assert process is not None
    process.send_signal(number)
    assert node.wait(STOP_S) == 0, node.log_tail()
    assert not node.is_mounted()
    assert not (node.state_dir / "control.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_daemon(number: int, node: Node, version: SourceVersion) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint, version.large) == []
    assert_stops(node, number)
    assert "WARNING" not in node.log_text().replace("WARNING config", "")


def test_sigterm_ends_a_daemon_with_open_files_mappings_and_running_reads(node: Node, version: SourceVersion) -> None:
    node.start()
    tree = version.tree(node.mountpoint)
    name = version.large[0]
    mapper = subprocess.Popen(
        [sys.executable, "-c", MAPPING_READER, str(tree / name)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    fd = os.open(tree / version.large[1], os.O_RDONLY)
    try:
        assert mapper.stdout is not None
        assert mapper.stdout.readline().strip() == str((version.source / name).read_bytes()[0]).encode()
        reading = in_background(lambda: version.wrong_files(node.mountpoint, version.small))
        wait_until(lambda: node.metric("dsfs_read_requests_total") > 5, what="reads being under way")
        assert_stops(node)
        assert not [wrong for wrong in reading.result(READ_TIMEOUT_S) if "wrong bytes" in wrong]
        with pytest.raises(OSError, match="not connected"):
            os.pread(fd, 4096, version.size_of(version.large[1]) // 2)
    finally:
        os.close(fd)
        mapper.communicate(timeout=STOP_S)


def stalled_reader(node: Node, proxy: FaultProxy, version: SourceVersion) -> "Future[bytes]":
    """A read that waits for an origin which has fallen silent."""
    proxy.add(Fault(action="stall", key="*large*"))
    path = version.tree(node.mountpoint) / version.large[0]
    path.stat()
    reading = in_background(lambda: read_at(path, 0, 4096))
    wait_until(lambda: proxy.stalled > 0, what="the read reaching the origin")
    return reading


@pytest.mark.expects_log("stop", "fetch failed", "read: EIO", "did not come")
def test_sigterm_does_not_wait_for_a_stalled_origin(node: Node, proxy: FaultProxy, version: SourceVersion) -> None:
    node.start()
    reading = stalled_reader(node, proxy, version)
    began = time.monotonic()
    assert_stops(node)
    assert time.monotonic() - began < 8  # 2 s for requests, 2 s for what is being fetched
    assert reading.exception(READ_TIMEOUT_S) is not None


@pytest.mark.expects_log("stop", "fetch failed", "read: EIO", "did not come")
def test_second_sigterm_ends_at_once(node: Node, proxy: FaultProxy, version: SourceVersion) -> None:
    node.start()
    reading = stalled_reader(node, proxy, version)
    process = node.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: "SIGTERM: stopping" in node.log_text(), what="the first signal being heard")
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert node.wait(STOP_S) == 0
    assert time.monotonic() - began < 2
    assert not node.is_mounted()
    assert reading.exception(READ_TIMEOUT_S) is not None


@pytest.mark.expects_log("stop", "listed", "cannot be listed")
def test_sigterm_during_a_listing_ends_the_daemon_and_leaves_nothing(
    node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    proxy.add(Fault(action="stall", method="LIST", query="*photos%2Fv1*"))
    node.start()
    looking = in_background(lambda: os.listdir(version.tree(node.mountpoint)))
    wait_until(lambda: proxy.stalled > 0, what="the listing being under way")
    assert_stops(node)
    assert isinstance(looking.exception(READ_TIMEOUT_S), OSError)
    proxy.clear()
    proxy.release()
    node.start()
    assert version.wrong_files(node.mountpoint, version.large) == []
    assert_stops(node)
    assert list((node.state_dir / "listing").iterdir()) == []


def test_stop_while_fills_are_queued_keeps_what_was_fetched_or_fetches_it_again(
    node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert_stops(node)  # the last bytes came a moment ago
    proxy.reset()
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes == 0  # there was time to fill them all
    assert "rebuilt" not in node.log_text().partition("SIGTERM")[2]
    assert_stops(node)


def test_stop_does_not_wait_for_a_seal_for_ever_which_is_done_later_and_leaves_the_index_as_it_is(
    node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    hold = Hold(node, "segment.seal")
    name = version.large[0]
    assert version.wrong_files(node.mountpoint, [name]) == []
    hold.wait_reached()
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    assert node.wait(GIVEN_UP_S) == 0
    assert node.segment_files() == []
    hold.end()
    proxy.reset()
    node.start()
    assert version.wrong_files(node.mountpoint, [name]) == []
    wait_until(node.segment_files, what="the seal")
    assert proxy.data_bytes == 0
    assert "rebuilt" not in node.log_text().partition("SIGTERM")[2]
    assert_stops(node)


@pytest.mark.expects_log("was being filled", "slow")
def test_hurried_stop_while_fills_are_queued_never_leaves_wrong_bytes(node: Node, version: SourceVersion) -> None:
    for _ in range(3):
        node.start()
        reading = in_background(lambda: version.wrong_files(node.mountpoint))
        wait_until(lambda: node.metric("dsfs_read_bytes_total") > 5_000_000, what="reads being under way")
        process = node.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        assert node.wait(STOP_S) == 0
        assert not [wrong for wrong in reading.result(READ_TIMEOUT_S) if "wrong bytes" in wrong]
    node.start()
    assert version.wrong_files(node.mountpoint) == []


def test_lazy_unmount_from_outside_ends_the_daemon_in_order(
    node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    detach(node.mountpoint)
    assert node.wait(STOP_S) == 0
    proxy.reset()
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes == 0
    assert "rebuilt" not in node.log_text().partition("stopped")[2]


# libfuse says so where the mount ends in the moment in which the last request is read.
@pytest.mark.expects_log("fuse: reading device: Software caused connection abort")
def test_lazy_unmount_from_outside_lets_those_who_have_files_open_go_on(node: Node, version: SourceVersion) -> None:
    node.start()
    name = version.large[0]
    with (version.tree(node.mountpoint) / name).open("rb", buffering=0) as file:
        detach(node.mountpoint)
        assert not node.is_mounted()
        assert file.readall() == (version.source / name).read_bytes()
        assert node.process is not None
        assert node.process.poll() is None
    assert node.wait(STOP_S) == 0


def test_daemon_starts_again_right_after_it_stopped(node: Node, version: SourceVersion) -> None:
    for _ in range(4):
        node.start()
        assert (version.tree(node.mountpoint) / version.small[0]).stat().st_size == version.size_of(version.small[0])
        assert_stops(node)


def test_daemon_runs_in_an_empty_environment(node: Node, s3: S3Server, version: SourceVersion, tmp_path: Path) -> None:
    # Credentials from the environment are what this daemon lacks: they are in files that it is told of.
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[default]\naws_access_key_id={s3.access_key}\naws_secret_access_key={s3.secret_key}\n")
    words = ["env", "-i", f"AWS_SHARED_CREDENTIALS_FILE={credentials}", sys.executable, "-m", "dsfs", "mount"]
    outcome = subprocess.run(
        [*words, "--config", str(node.config)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert outcome.returncode == 0, outcome.stderr
    pid = node.ask("status")["daemon"]["pid"]
    try:
        assert version.wrong_files(node.mountpoint, version.large) == []
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not node.is_mounted() and not Path(f"/proc/{pid}").exists(), what="its end")


def test_daemon_runs_with_its_standard_streams_closed(node: Node, s3: S3Server, version: SourceVersion) -> None:
    script = 'exec "$0" -m dsfs mount --foreground --config "$1" <&- >&- 2>&-'
    process = subprocess.Popen(
        ["sh", "-c", script, sys.executable, str(node.config)],
        cwd=ROOT,
        env={**os.environ, **s3.env()},
    )
    try:
        wait_until(node.is_mounted, 30, "the mount")
        assert version.wrong_files(node.mountpoint) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0
        assert not node.is_mounted()
    finally:
        process.kill()
        process.wait()


def test_second_daemon_is_refused_by_name_and_pid(
    node: Node, new_node: Callable[..., Node], version: SourceVersion
) -> None:
    node.start()
    same = subprocess.run(
        [sys.executable, "-m", "dsfs", "mount", "--foreground", "--config", str(node.config)],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert same.returncode == 4
    assert f"{node.state_dir} is in use by another dsfs daemon (pid {node.pid})" in same.stderr
    other = new_node(settings=PATIENT)
    other.config.write_text(other.config.read_text().replace(str(other.mountpoint), str(node.mountpoint)))
    refused = other.command("mount", "--foreground")
    assert refused.returncode == 4
    assert f"{node.mountpoint} is already mounted by another dsfs daemon (pid {node.pid})" in refused.stderr
    assert "Traceback" not in same.stderr + refused.stderr
    assert version.wrong_files(node.mountpoint, version.large) == []
    assert_stops(node)


def test_readers_of_a_mapping_keep_the_pages_they_had(node: Node, version: SourceVersion) -> None:
    node.start()
    name = version.small[0]
    assert version.wrong_files(node.mountpoint, version.small[1:2]) == []  # after the first close none asks the daemon
    with (
        (version.tree(node.mountpoint) / name).open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping,
    ):
        expected = file.read()  # before the mapping is touched: a page fault would stop the proxy, too
        assert mapping[:] == expected
        assert_stops(node)
        assert mapping[:] == expected
