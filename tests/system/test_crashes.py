"""kill -9 of the daemon at every named point: right bytes afterwards, only waste lost, and no waste that stays."""

import signal

import pytest

from dsfs.model.blocks import RUN
from dsfs.storage.account import count
from tests.rig.background import in_background
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import Node
from tests.rig.reading import SourceVersion
from tests.rig.segmentdir import age, files_below, recorded_bytes, whole_segments
from tests.rig.wait import wait_until

# What is broken off while a version is listed and read for the first time.  With some, how often the point is passed.
WHILE_READING = [
    "generation.add",
    "generation.describe",
    "generation.copied",
    *(f"generation.{end}:{count}" for end in ("place", "placed") for count in (1, 2)),  # here, and in the backing
    "segment.create",
    *(f"file.create:{count}" for count in (3, 6)),  # the first two are at the start; then maps and checksums
    *(f"file.rename:{count}" for count in (3, 5)),
    *(f"file.link:{count}" for count in (1, 3)),
    "direct.open:4",  # before: the account, a heartbeat, a grant
    "segment.data:7",
    "segment.data_written",
    "segment.map",
    "segment.map_written:7",
    "segment.seal",
    "segment.seal:3",
    "segment.sum_written",
    "segment.linked",
    *(f"file.remove:{count}" for count in (6, 8, 9)),  # five to begin with; then two for each seal
    "index.write:3",  # two are at the start
]
WHILE_DROPPING = [f"segment.remove:{count}" for count in (2, 3)]
READ_TIMEOUT_S = 20


def wait_killed(node: Node) -> None:
    """The daemon has killed itself, a while ago; what it left mounted is taken away."""
    process = node.process
    assert process is not None
    wait_until(lambda: process.poll() is not None, READ_TIMEOUT_S, "the crash")
    assert process.returncode == -signal.SIGKILL
    node.kill()
    age(node.backing)


def forget_requests(proxy: FaultProxy) -> None:
    """Count anew, once nothing is under way that the dead daemon asked for."""
    wait_until(lambda: not proxy.connections, what="the connections of the dead daemon being closed")
    proxy.reset()


def assert_nothing_left_over(node: Node, version: SourceVersion) -> None:
    """Every segment is sealed, and there is no file beside that nobody needs."""
    (catalog,) = node.state_dir.glob(f"catalogs/{version.name}/*/catalog.mdb")
    wait_until(
        lambda: files_below(node.backing / "segments") == whole_segments(catalog),
        what=f"every segment being sealed, with no other file beside: {files_below(node.backing / 'segments')}",
    )
    place = f"versions/{version.name}/{catalog.parent.name}"
    beside = ["account", "dsfs.json", *(f"{place}/{name}" for name in ("catalog.mdb", "segments", "summary.json"))]
    elsewhere = ("segments/", "turns/", "nodes/", "events/", "uses/")  # where nodes tell each other things
    told = {"shares", "standing"}  # by the evictor, if it had a round
    names = [name for name in files_below(node.backing) if not name.startswith(elsewhere)]
    assert [name for name in names if name not in told] == beside
    assert files_below(node.state_dir / "listing") == []
    assert len(list((node.state_dir / "catalogs" / version.name).iterdir())) == 1


def assert_account_agrees(node: Node) -> None:
    """`used_bytes` is what is there, to 1 %: after a crash it is counted, in rounds of the evictor."""

    def is_close() -> bool:
        node.ask("evict")
        there = count(node.backing)
        assert there is not None
        used_bytes = node.ask("status")["backing"]["used_bytes"]
        return bool(abs(used_bytes - there.size_bytes) <= there.size_bytes / 100)

    wait_until(is_close, what="used_bytes being what the directory takes")


@pytest.mark.parametrize("point", WHILE_READING)
def test_crash_while_reading_costs_only_what_no_record_vouches_for(
    point: str, node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    node.start(env={"DSFS_CRASH_AT": point})
    reading = in_background(lambda: version.wrong_files(node.mountpoint))
    wait_killed(node)
    assert not [name for name in reading.result(READ_TIMEOUT_S) if "wrong bytes" in name]

    catalogs = list(node.state_dir.glob(f"catalogs/{version.name}/*/catalog.mdb"))
    recorded = recorded_bytes(node.backing, catalogs[0]) if catalogs else 0
    forget_requests(proxy)
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.data_bytes == version.size_bytes - recorded
    assert_nothing_left_over(node, version)
    assert_account_agrees(node)
    assert node.stop() == 0


@pytest.mark.parametrize("count", [1, 7])
def test_crash_at_the_nth_record_keeps_the_records_before_it(
    count: int, node: Node, version: SourceVersion
) -> None:
    node.start(env={"DSFS_CRASH_AT": f"segment.map_written:{count}"})
    (name,) = [name for name in version.large if version.size_of(name) > 4 * RUN - 1]
    reading = in_background(lambda: version.wrong_files(node.mountpoint, [name]))
    wait_killed(node)
    assert reading.exception(READ_TIMEOUT_S) is None
    (catalog,) = node.state_dir.glob(f"catalogs/{version.name}/*/catalog.mdb")
    assert recorded_bytes(node.backing, catalog) >= count * min(RUN, 1 << 20)


@pytest.mark.parametrize("point", ["segment.map_written:5", "segment.linked"])
def test_crash_leaves_no_waste_even_if_nobody_reads_again(
    point: str, node: Node, version: SourceVersion
) -> None:
    node.start(env={"DSFS_CRASH_AT": point})
    reading = in_background(lambda: version.wrong_files(node.mountpoint))
    wait_killed(node)
    reading.result(READ_TIMEOUT_S)
    folder = node.backing / "segments"
    for waste in ("ab/" + "ab" * 20 + ".part", "ab/" + "ab" * 20 + ".sum", "ab/" + "ab" * 20 + ".map.new-0123456789ab"):
        (folder / waste).parent.mkdir(exist_ok=True)
        (folder / waste).write_bytes(b"x" * 5_000_000)
    age(node.backing)
    node.start()
    wait_until(lambda: "residency index rebuilt" in node.log_text(), what="the index being rebuilt")
    names = files_below(folder)
    needed = [name for name in names if name.partition(".")[2] in ("part", "map", "", "sum")]
    assert names == needed
    for name in names:
        identity, _, suffix = name.partition(".")
        beside = {"part": f"{identity}.map", "map": f"{identity}.part", "": f"{identity}.sum"}.get(suffix)
        assert beside is None or beside in names
        assert suffix not in ("part", "map") or identity not in names
    assert_account_agrees(node)


@pytest.mark.parametrize("point", WHILE_DROPPING)
def test_crash_within_a_drop_leaves_right_bytes_and_no_waste(
    point: str, node: Node, version: SourceVersion
) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0
    node.start(env={"DSFS_CRASH_AT": point})
    dropping = in_background(lambda: node.ask("drop", target=version.name))
    wait_killed(node)
    assert dropping.exception(READ_TIMEOUT_S) is not None
    node.start()
    wait_until(lambda: "residency index rebuilt" in node.log_text(), what="the index being rebuilt")
    assert_account_agrees(node)
    assert version.wrong_files(node.mountpoint) == []
    assert_nothing_left_over(node, version)


@pytest.mark.expects_log("was changed after it was sealed", "resident bytes could not be used", "not what was written")
@pytest.mark.parametrize("point", ["segment.unseal", "segment.unsealed", "file.rename:2"])
def test_crash_while_a_changed_segment_is_taken_back_leaves_right_bytes(
    point: str, node: Node, version: SourceVersion
) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0
    for sealed in node.segment_files():
        with sealed.open("r+b") as file:
            file.seek(4096)
            file.write(b"not what was there")
    node.start(env={"DSFS_CRASH_AT": point})
    reading = in_background(lambda: version.wrong_files(node.mountpoint))
    wait_killed(node)
    assert not [name for name in reading.result(READ_TIMEOUT_S) if "wrong bytes" in name]
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert_nothing_left_over(node, version)
    assert_account_agrees(node)


@pytest.mark.expects_log("the residency index cannot be used")  # it was not begun
@pytest.mark.parametrize("point", ["file.rename:1", "index.write:1", "index.written:1", "backing.mark_written"])
def test_crash_at_the_start_does_not_keep_the_next_one_from_starting(
    point: str, node: Node, version: SourceVersion
) -> None:
    node.spawn(env={"DSFS_CRASH_AT": point})
    wait_killed(node)
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0
    assert not [name for name in files_below(node.work) if ".new-" in name]


def test_crash_at_the_end_leaves_all_that_was_fetched_resident(
    node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    wait_until(lambda: node.version(version.name)["resident_bytes"] == version.size_bytes, what="all fills")
    process = node.process
    assert process is not None
    process.kill()
    process.wait()
    node.kill()
    forget_requests(proxy)
    node.start()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.count("GET") == 0
