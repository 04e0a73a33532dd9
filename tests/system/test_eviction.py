"""The evictor of a real daemon: what is stale leaves in two steps and comes back, and what is used stays."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from dsfs.model.errors import DaemonUnreachableError
from dsfs.model.retention import NOTHING
from dsfs.model.trashname import stamp_in
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.trash import Trash
from tests.rig.aged import DAY_S, set_back_version
from tests.rig.background import in_background
from tests.rig.faultproxy import FaultProxy
from tests.rig.filler import allocated_below
from tests.rig.lake import MIB
from tests.rig.node import AS_NOBODY, PATIENT, Node
from tests.rig.reading import SourceVersion, make_version
from tests.rig.s3server import S3Server
from tests.rig.segmentdir import files_below
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until
from tests.system.conftest import TIME_LIMIT_S
from tests.system.test_crashes import wait_killed

NewNode = Callable[..., Node]
Versions = Mapping[str, SourceVersion]

BUCKET = "eviction"
STALE_DAYS = 8
# What leaves is deleted as soon as every node has told what it has open: that takes three of its beats.
SETTINGS = {**PATIENT, "retention": {"stale_after": "7d", "keep_newest": 0, "grace": "0s"}}
SOON_S = 30.0
SMALL_BYTES = 64 * MIB
READING_S = 12.0
ALL_ROOM = "7372MiB"  # that there is below the high watermark of 8 GiB


@pytest.fixture(scope="module")
def versions(s3: S3Server) -> Versions:
    """Four of one dataset, each of two packs and an object of a few runs: about 9 MB."""
    bucket, sizes = s3.bucket(BUCKET), [7 * MIB + 12_345]
    return {
        name: make_version(bucket, f"photos/{name}", small_files=40, large_sizes_bytes=sizes, seed=seed)
        for seed, name in enumerate(("v1", "v2", "v3", "v4"))
    }


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallFilesystem]:
    with SmallFilesystem(tmp_path / "small", "ext4", SMALL_BYTES) as mounted:
        yield mounted


@pytest.fixture
def make_node(new_node: NewNode) -> NewNode:
    """Makes nodes that look at these versions."""

    def make(**options: object) -> Node:
        return new_node(**{"url": f"s3://{BUCKET}/datasets", "settings": SETTINGS, **options})

    return make


def read(node: Node, *versions: SourceVersion) -> None:
    """All of them, until they are resident."""
    for version in versions:
        assert version.wrong_files(node.mountpoint) == []
    for version in versions:
        wait_until(lambda v=version: node.version(v.name)["resident_bytes"] == v.size_bytes, what="all fills")  # type: ignore[misc]


def make_old(node: Node, *versions: SourceVersion) -> Node:
    """Nobody has used these since STALE_DAYS ago.  The daemon is down then: as long as it runs it tells of uses.

    What it knows of when they were listed it must learn anew.
    """
    assert node.stop() == 0
    for path in node.state_dir.glob("census.mdb*"):
        path.unlink()
    for version in versions:
        set_back_version(node.backing, version.name, STALE_DAYS * DAY_S)
    return node


def hidden(node: Node) -> list[str]:
    return [name for name in files_below(node.backing) if any(stamp_in(part) is not None for part in Path(name).parts)]


def present(node: Node) -> set[str]:
    """The files of segments that are found by whoever looks for them."""
    return {name for name in files_below(node.backing / "segments") if stamp_in(name) is None}


def rounds_until(node: Node, condition: Callable[[], bool], what: str) -> None:
    """A round of the evictor with every beat of the node, until the condition is true behind one."""
    heartbeats: list[int] = []

    def is_true() -> bool:
        nonlocal heartbeats
        before, heartbeats = heartbeats, [path.stat().st_mtime_ns for path in node.backing.glob("nodes/*/heartbeat")]
        if heartbeats == before:
            return False
        node.ask("evict")
        return condition()

    wait_until(is_true, SOON_S, what)


def wait_deleted(node: Node) -> None:
    rounds_until(node, lambda: not hidden(node), "what is hidden being deleted")


def wait_counted(node: Node) -> None:
    """Until `used_bytes` is what is there, to 1 %: what a dead daemon has freed it may not have told."""

    def is_close() -> bool:
        there_bytes = allocated_below(node.backing)
        return bool(abs(node.ask("status")["backing"]["used_bytes"] - there_bytes) <= there_bytes / 100)

    if not is_close():
        rounds_until(node, is_close, "used_bytes being what is there")


def verdicts(answer: Mapping[str, Any], which: str) -> dict[str, str]:
    """The rule for each version that leaves, or stays."""
    return {verdict["version"]: verdict["rule"] for verdict in answer[which]}


def wait_told_open(node: Node) -> None:
    """Until a node has told that it uses some version."""
    is_told = lambda: any(verdict["nodes"] for verdict in node.ask("evict_plan")["stays"])  # noqa: E731
    wait_until(is_told, SOON_S, "what is open being told")


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.needs("mkfs.ext4")
def test_stale_version_leaves_in_two_steps_and_comes_back_with_the_next_read(
    small: SmallFilesystem, make_node: NewNode, proxy: FaultProxy, versions: Versions
) -> None:
    empty_bytes = small.used_bytes
    node, stale, used = make_node(backing=small.path).start(), versions["v1"], versions["v2"]
    read(node, stale, used)
    make_old(node, stale).start()

    before = present(node)
    shown = node.command("evict", "--dry-run")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r" 1 photos/v1 [\d.]+ MiB \d+ 8d ago stale ", words(shown.stdout)), shown.stdout
    assert re.search(r" photos/v2 [\d.]+ MiB [^/]* in use ", words(shown.stdout)), shown.stdout
    assert (present(node), hidden(node)) == (before, [])

    done = node.command("evict")
    assert (done.returncode, done.stderr) == (0, "")
    assert "are hidden, and will be deleted once" in done.stdout
    assert len(hidden(node)) >= 2
    assert present(node) < before
    wait_deleted(node)
    taken_bytes = small.used_bytes - empty_bytes
    assert taken_bytes < used.size_bytes + 3 * MIB
    assert abs(node.ask("status")["backing"]["used_bytes"] - taken_bytes) <= taken_bytes / 100
    df = os.statvfs(node.mountpoint)
    assert abs((df.f_blocks - df.f_bfree) * df.f_frsize - taken_bytes) <= taken_bytes / 100

    assert re.search(r"\nv1/ .*\nv2/ ", node.command("ls", "photos").stdout)
    proxy.reset()
    assert used.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes == 0
    assert stale.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes == stale.size_bytes
    wait_until(lambda: present(node) == before, what="the version being there again")
    assert re.search(r"photos/v1 evicted [\d.]+ MiB \(stale\)", wait_until_told(node, "evicted"))
    assert node.stop() == 0


def wait_until_told(node: Node, what: str) -> str:
    """The text of `dsfs events`, once that is in it."""
    told = lambda: words(node.command("events").stdout)  # noqa: E731
    wait_until(lambda: what in told(), SOON_S, f"the event {what}")
    return told()


def test_pinned_version_and_one_in_use_stay_and_the_table_says_why(
    make_node: NewNode, proxy: FaultProxy, versions: Versions
) -> None:
    node = make_node().start()
    pinned, held, idle = (versions[name] for name in ("v1", "v2", "v3"))
    read(node, pinned, held, idle)
    node.command("pin", pinned.name, "--until", "2100-01-01")
    make_old(node, pinned, held, idle).start()
    with (held.tree(node.mountpoint) / held.large[0]).open("rb"):
        wait_told_open(node)
        answer = json.loads(node.command("evict", "--need", ALL_ROOM, "--json").stdout)
        assert verdicts(answer, "leaves") == {"v3": "stale"}
        done = node.command("evict", "--need", ALL_ROOM)
        assert done.returncode == 1
        text = words(done.stdout)
        assert re.search(r"photos/v1 [\d.]+ MiB 8d ago pinned until 2100-01-02 00:00", text), text
        assert re.search(r"photos/v2 [\d.]+ MiB now in use by \S+ since \d+m?s", text), text
        assert "cannot be had: the rest stays for the reasons above" in text
        proxy.reset()
        for version in (pinned, held):
            assert version.wrong_files(node.mountpoint) == []
        assert proxy.count("GET") == 0


# Maps the file, and for each line that it is told says the digest of so much of it.
MAPPED = """
import hashlib, mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
for line in sys.stdin:
    print(hashlib.sha256(mapped[:int(line)]).hexdigest(), flush=True)
"""


def test_mapping_is_read_whatever_becomes_of_its_version(make_node: NewNode, versions: Versions) -> None:
    node, version = make_node().start(), versions["v1"]
    read(node, version)
    make_old(node, version).start()
    name = version.large[0]
    content = (version.source / name).read_bytes()
    command = [sys.executable, "-c", MAPPED, str(version.tree(node.mountpoint) / name)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        wait_told_open(node)
        assert node.ask("evict")["leaves"] == []
        assert node.command("drop", version.name, "--yes").returncode == 4
        for size_bytes in (2 * MIB, len(content)):
            print(size_bytes, file=reader.stdin, flush=True)
            assert reader.stdout.readline().strip() == sha256(content[:size_bytes]).hexdigest()
            assert node.command("drop", version.name, "--yes", "--force").returncode == 0
    assert reader.returncode == 0
    assert node.stop() == 0


# Where the daemon dies: while it hides what is stale, deletes that and an old generation, and tells of it.
POINTS = [
    "trash.map_removed", "trash.hidden:2", "trash.delete:2", "trash.delete_file:2", "trash.delete_directory",
    "direct.rename:6",
]  # fmt: skip


def test_crash_at_any_point_of_an_eviction_leaves_right_bytes_and_later_rounds_end_it(
    s3: S3Server, make_node: NewNode, versions: Versions
) -> None:
    for point in POINTS:
        s3.put(BUCKET, f"datasets/{point}/v1/file", b"old")
    # At once, since most of it is waiting for beats.
    nodes = {point: make_node() for point in POINTS}
    ends = {point: in_background(partial(crash_and_go_on, nodes[point], s3, versions["v1"], point)) for point in POINTS}
    faults = {point: end.exception(TIME_LIMIT_S) for point, end in ends.items()}
    assert faults == dict.fromkeys(POINTS)


def crash_and_go_on(node: Node, s3: S3Server, stale: SourceVersion, point: str) -> None:
    node.start()
    read(node, stale)
    assert (node.mountpoint / point / "v1" / "file").read_bytes() == b"old"
    s3.put(BUCKET, f"datasets/{point}/v1/file", b"another")
    node.ask("refresh", target=f"{point}/v1")
    make_old(node, stale)
    hide_old_generation(node, f"{point}/v1")

    node.start(env={"DSFS_CRASH_AT": point})
    with suppress(DaemonUnreachableError):
        rounds_until(node, lambda: False, "the crash")
    wait_killed(node)

    node.start()
    wait_deleted(node)
    assert [name for name in files_below(node.work) if ".new-" in name] == []
    assert stale.wrong_files(node.mountpoint) == []
    assert (node.mountpoint / point / "v1" / "file").read_bytes() == b"another"
    wait_counted(node)
    assert node.stop() == 0


def hide_old_generation(node: Node, version: str) -> None:
    """As a round does that finds nothing left of it."""
    trash = Trash(BackingDirectory(node.backing))
    dataset, name = version.split("/")
    generations = [path.name for path in node.backing.glob(f"versions/{version}/*")]
    hidden = [trash.hide_generation((dataset, name, each), time.time_ns()) for each in generations]
    assert hidden.count(NOTHING) == 1


@pytest.mark.needs("mkfs.ext4")
def test_limit_holds_while_readers_fill_and_what_they_want_less_leaves(
    small: SmallFilesystem, make_node: NewNode, versions: Versions
) -> None:
    limit = 24 * MIB
    settings = {**SETTINGS, "backing": {"limit": "24MiB"}, "memory": {"limit": "64MiB"}}
    node = make_node(settings=settings, backing=small.path).start()
    old = versions["v1"]
    read(node, old)
    for name in ("v2", "v3", "v4"):  # while there is room: a catalog that finds none is tried again in a minute
        node.ask("ls", target=versions[name].name)
    make_old(node, old).start()

    is_over = threading.Event()

    def read_on() -> list[str]:
        wrong: list[str] = []
        while not is_over.is_set():
            for name in ("v2", "v3", "v4"):
                wrong += versions[name].wrong_files(node.mountpoint, readers=4)
        return wrong

    def look_on() -> int:
        most_bytes = 0
        while not is_over.is_set():
            most_bytes = max(most_bytes, allocated_below(small.path))
        return most_bytes

    reading, looking = in_background(read_on), in_background(look_on)
    end_s = time.monotonic() + READING_S

    def has_left() -> bool:
        events = node.ask("events")["events"]
        evicted = {event["version"] for event in events if event["kind"] == "evicted"}
        return "v1" in evicted and len(evicted) > 1 and time.monotonic() > end_s

    rounds_until(node, has_left, "more leaving than what is stale")
    is_over.set()
    assert reading.result(SOON_S) == []
    assert 0.8 * limit < looking.result(SOON_S) <= limit


@pytest.mark.expects_log("NoSuchKey", "gone/v1 has drifted")
def test_version_deleted_at_the_origin_stays_readable_until_it_leaves(
    s3: S3Server, make_node: NewNode
) -> None:
    version = make_version(s3.bucket(BUCKET), "gone/v1", small_files=5, large_sizes_bytes=[3 * MIB])
    node = make_node().start()
    read(node, version)
    shutil.rmtree(version.source.parent)
    node.restart()
    assert version.wrong_files(node.mountpoint) == []
    make_old(node, version).start()
    (file := version.tree(node.mountpoint) / version.large[0]).stat()
    answer = node.ask("evict")
    assert verdicts(answer, "leaves") == {"v1": "stale"}
    assert "\nv1/ " in node.command("ls", "gone").stdout
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        file.read_bytes()


@pytest.mark.needs("setpriv")
def test_ordinary_user_may_see_what_would_leave_and_have_nothing_leave(make_node: NewNode) -> None:
    node = make_node().start()
    shown, refused = (node.command("evict", *words, through=AS_NOBODY) for words in (["--dry-run"], []))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Nothing would leave." in shown.stdout
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "evict" in refused.stderr
