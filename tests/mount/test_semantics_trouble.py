"""What programs may rely on when something is wrong: the later sentences of README "Semantics"."""

import errno
import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from dsfs.model.printable import printable
from dsfs.storage.account import count
from dsfs.storage.mounts import detach
from tests.mount.conftest import Lake, NewNode
from tests.mount.sample import BLOCK, LARGE, OTHER, V, errno_of, read_part, walk
from tests.rig.background import in_background
from tests.rig.canned import CannedOrigin, etag
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import MIB, Node
from tests.rig.reader import ReaderProcess
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until


@pytest.mark.expects_log("fetch failed", "read: (EACCES|EIO)")
def test_s13_a_refusal_gives_eacces_and_silence_eio_within_the_timeout(
    new_node: NewNode, lake: Lake, proxy: FaultProxy
) -> None:
    timeout_s = 3.0
    node = new_node({"origin": {"timeout": f"{timeout_s:g}s", "stall_timeout": "1s"}}).start()
    versions = ("refused/v1", "silent/v1")
    for name in versions:
        lake.put(f"{name}/large", LARGE)
        lake.put(f"{name}/small", b"1")
    for name in versions:
        os.listdir(node.mountpoint / name)
    proxy.load("forbidden")
    for name in ("large", "small"):
        assert errno_of((node.mountpoint / "refused/v1" / name).read_bytes) == errno.EACCES
    proxy.clear()
    proxy.add(Fault("stall"))
    began = time.monotonic()
    silent = [node.mountpoint / "silent/v1" / name for name in ("large", "small")]
    waiting = [in_background(partial(errno_of, path.read_bytes)) for path in silent]
    assert [outcome.result(30) for outcome in waiting] == [errno.EIO] * 2
    assert time.monotonic() - began < timeout_s + 3  # of a loaded machine
    proxy.clear()
    proxy.release()
    for name in ("refused/v1/small", "silent/v1/large"):
        wait_until(partial(_reads, node.mountpoint / name), what="reading again")


def _reads(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_s14_while_one_read_waits_for_the_origin_the_others_go_on(node: Node, lake: Lake, proxy: FaultProxy) -> None:
    lake.put(f"{V}/slow", LARGE)
    lake.put(f"{V}/slow-and-small", b"1")
    lake.put(f"{V}/quick", LARGE)
    lake.put("photos/v2/file", b"2")
    os.listdir(node.mountpoint / V)
    proxy.add(Fault("stall", key="*/slow*"))
    waiting = [in_background((node.mountpoint / V / "slow").read_bytes) for _ in range(20)]
    waiting.append(in_background((node.mountpoint / V / "slow-and-small").read_bytes))
    wait_until(lambda: proxy.stalled >= 2, what="both fetches under way")
    assert in_background((node.mountpoint / V / "quick").read_bytes).result(10) == LARGE
    assert in_background((node.mountpoint / "photos/v2/file").read_bytes).result(10) == b"2"
    assert node.command("ls", V).returncode == 0
    assert node.command("status").returncode == 0
    assert not any(outcome.done() for outcome in waiting)
    proxy.clear()
    proxy.release()
    assert [outcome.result(30) for outcome in waiting] == [LARGE] * 20 + [b"1"]


@pytest.mark.expects_log(
    "segment .* was (changed|cut short|removed)", "is not what was written|has no usable|could not be used"
)
def test_s15_damage_is_noticed_and_what_was_damaged_is_fetched_again(node: Node, lake: Lake, proxy: FaultProxy) -> None:
    lake.put(f"{V}/large", LARGE)
    lake.put(f"{V}/small", LARGE[:70_000])
    version = node.mountpoint / V

    def read_all() -> None:
        for name, content in (("large", LARGE), ("small", LARGE[:70_000])):
            assert read_part(version / name, 0, len(content)) == content

    read_all()
    for damage in (flip_a_byte, cut_short, Path.unlink):
        for while_running in (True, False):
            wait_until(lambda: len(node.segment_files()) == 2, what="sealing")
            sealed = node.segment_files()
            node.restart()  # what was fetched is then no longer in memory
            if while_running:
                read_part(version / "large", 0, 1)
                read_part(version / "small", 0, 1)
            else:
                node.stop()
            for file in sealed:
                damage(file)
            if not while_running:
                node.start()
            proxy.reset()
            read_all()
            assert proxy.count("GET") > 0


def flip_a_byte(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(50_000)
        byte = opened.read(1)[0]
        opened.seek(50_000)
        opened.write(bytes([byte ^ 1]))


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.needs("root")
@pytest.mark.expects_log(
    "a (fill|claim) failed|cannot be (sealed|opened|taken back)|was removed while|could not be used|dropped"
)
@pytest.mark.parametrize("trouble", ["full", "read-only", "gone"])
def test_s16_trouble_with_the_backing_directory_costs_no_reader_anything(
    new_node: NewNode, lake: Lake, tmp_path: Path, trouble: str
) -> None:
    for name in ("before", "after"):
        lake.put(f"{V}/{name}", LARGE)
    lake.put(f"{V}/small", b"1")
    with SmallFilesystem(tmp_path / "medium", "tmpfs", 20 * MIB) as medium:
        node = new_node(backing=medium.path / "dsfs").start()
        version = node.mountpoint / V
        assert read_part(version / "before", 0, len(LARGE)) == LARGE
        wait_until(lambda: len(node.segment_files()) == 1, what="sealing")
        if trouble == "read-only":
            node.restart()  # the kernel refuses while a file is open for writing
            medium.remount("ro")
        elif trouble == "gone":
            medium.detach()
        for name in ("after", "before"):
            assert read_part(version / name, 0, len(LARGE)) == LARGE
        assert read_part(version / "small", 0, 10) == b"1"
        wait_until(lambda: node.ask("status")["backing"]["state"] == "paused", what="telling that nothing is filled")
        backing = node.ask("status")["backing"]
        assert backing["reason"]
        assert backing["unfilled_bytes"] > 0
        assert node.stop() == 0


def test_s17_keys_no_path_can_hold_are_left_out_and_named_and_a_directory_wins(new_node: NewNode) -> None:
    bad = [f"a/v1/{name}" for name in ("/e", "./dot", "../up", "nul\0", "n" * 256, "full/", "x")]
    objects = dict.fromkeys(["a/v1/good", "a/v1/x/y", *bad], b"1")
    with CannedOrigin(objects) as canned, FaultProxy(canned.endpoint_url) as proxy:
        node = new_node(endpoint_url=proxy.endpoint_url, url="s3://lake").start()
        top = node.mountpoint / "a/v1"
        assert sorted(str(path.relative_to(top)) for path in walk(top)) == ["good", "x", "x/y"]
        assert (top / "x/y").read_bytes() == b"1"
        facts = node.version("a/v1")
        assert facts["left_out"] == len(bad)
        assert sorted(key for key, _ in facts["left_out_examples"]) == sorted(bad)
        shown = node.command("status").stdout
        assert all(printable(f"{key}: {reason}") in shown for key, reason in facts["left_out_examples"])
        node.stop()


def test_s18_a_version_without_objects_does_not_exist(new_node: NewNode) -> None:
    with CannedOrigin({"a/v1/file": b"1", "a/v2/": b""}) as canned, FaultProxy(canned.endpoint_url) as proxy:
        node = new_node(endpoint_url=proxy.endpoint_url, url="s3://lake").start()
        for name in ("a/v2", "a/v3", "b/v1", "b"):
            assert errno_of(os.listdir, node.mountpoint / name) == errno.ENOENT
        assert os.listdir(node.mountpoint / "a/v1") == ["file"]
        node.stop()


def test_s19_extended_attributes_tell_where_a_file_comes_from(node: Node, lake: Lake, proxy: FaultProxy) -> None:
    lake.put(f"{V}/a b+c", LARGE)
    path = node.mountpoint / V / "a b+c"
    names = [f"user.dsfs.{name}" for name in ("object", "etag", "resident", "generation")]
    assert sorted(os.listxattr(path)) == sorted(names)
    blocks = -(-len(LARGE) // BLOCK)
    place = f"s3+{proxy.endpoint_url}/lake/{lake.prefix}/{V}/a b+c"
    expected = [place, etag(LARGE), f"0/{blocks}", node.version(V)["generation"]]
    assert [os.getxattr(path, name).decode() for name in names] == expected
    path.read_bytes()
    wait_until(lambda: os.getxattr(path, "user.dsfs.resident").decode() == f"{blocks}/{blocks}", what="filling")
    assert errno_of(os.getxattr, path, "user.dsfs.other") == errno.ENODATA
    assert os.getxattr(path.parent, "user.dsfs.generation").decode() == expected[3]


def test_s20_df_shows_the_limit_and_what_lies_in_the_backing_directory(new_node: NewNode, lake: Lake) -> None:
    node = new_node({"backing": {"limit": "64MiB"}}).start()
    lake.put(f"{V}/large", LARGE)
    facts = os.statvfs(node.mountpoint)
    assert facts.f_blocks * facts.f_frsize == 64 * MIB
    (node.mountpoint / V / "large").read_bytes()
    wait_until(lambda: node.segment_files(".sum"), what="the seal")

    def used_bytes() -> int:
        facts = os.statvfs(node.mountpoint)
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize

    there = count(node.backing)
    assert there is not None
    assert there.size_bytes > len(LARGE)
    wait_until(lambda: abs(used_bytes() - there.size_bytes) < 64 * MIB / 100, what="what was filled being told")


@pytest.mark.expects_log("read: |fetch failed")
def test_s21_sigterm_with_open_files_and_running_reads_ends_with_exit_code_0(
    node: Node, lake: Lake, proxy: FaultProxy
) -> None:
    for name in ("open", "stalled"):
        lake.put(f"{V}/{name}", LARGE)
    version = node.mountpoint / V
    with ReaderProcess() as holder, ReaderProcess() as waiting:
        holder.ask("hold", version / "open")
        assert holder.ask("read held", 0, 1000) == LARGE[:1000]
        proxy.add(Fault("stall", key="*/stalled"))
        waiting.begin("read", version / "stalled", 0, 1000)
        wait_until(lambda: proxy.stalled, what="a read under way")
        assert node.process is not None
        node.process.send_signal(signal.SIGTERM)
        assert node.wait(timeout_s=15) == 0
        assert not node.is_mounted()
        with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's choice
            waiting.answer()


POINTS = ["data", "data_written", "map", "map_written", "seal", "sum_written", "linked"]


@pytest.mark.expects_log("segment .* (was being filled|has no usable|is not what was written|could not be used)")
@pytest.mark.parametrize("point", POINTS)
def test_s22_after_kill_9_the_next_mount_serves_right_bytes(new_node: NewNode, lake: Lake, point: str) -> None:
    node = new_node().start(env={"DSFS_CRASH_AT": f"segment.{point}:2"})
    contents = {"large": LARGE, "other": OTHER, "small": b"1"}
    for name, content in contents.items():
        lake.put(f"{V}/{name}", content)
    for name in contents:
        with suppress(OSError):  # the daemon dies meanwhile
            (node.mountpoint / V / name).read_bytes()
    assert node.wait() == -9
    detach(node.mountpoint)
    node.start()
    for _ in range(2):
        for name, content in contents.items():
            assert read_part(node.mountpoint / V / name, 0, len(content)) == content


@pytest.mark.expects_log("cannot be listed", "opendir: (EACCES|EIO)")
@pytest.mark.parametrize(("trouble", "expected"), [("forbidden", errno.EACCES), ("unreachable", errno.EIO)])
def test_s23_names_that_nobody_can_tell_are_an_error_and_what_is_known_is_listed(
    new_node: NewNode, lake: Lake, proxy: FaultProxy, trouble: str, expected: int
) -> None:
    lake.put(f"{V}/file", b"1")
    listed = new_node(more='[[dataset]]\nname = "listed"\nurl = "s3://lake/elsewhere"\n').start()
    node = new_node().start()
    if trouble == "forbidden":
        proxy.load(trouble)
    else:
        proxy.add(Fault("reset", "*"))
    assert errno_of(os.listdir, node.mountpoint) == expected
    refused = node.command("ls")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert os.listdir(listed.mountpoint) == ["listed"]
    assert errno_of(os.listdir, listed.mountpoint / "listed") == expected
    assert listed.ask("status")["origins"][0]["state"] == "failing"
    proxy.clear()
    wait_until(lambda: _names(node.mountpoint) == ["photos"], what="listing again")
    assert (node.mountpoint / V / "file").read_bytes() == b"1"
    proxy.add(Fault("reset", "*"))
    assert node.restart().is_mounted()
    assert os.listdir(node.mountpoint) == ["photos"]
    assert os.listdir(node.mountpoint / "photos") == ["v1"]


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
