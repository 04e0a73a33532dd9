"""The residency index: lost, damaged, full, or refused by the disk, it costs a rebuild and never a reader."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from random import Random

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsfs.model.errors import BackingError
from dsfs.storage import residency
from dsfs.storage.residency import ResidencyIndex, SegmentRecord, bitmap_of
from tests.engine.backing_sample import indexed_bytes
from tests.engine.stopping import DiedError, stopping_at

ROOT = Path(__file__).parents[2]
WAIT_S = 30
CLUSTER = "one"
made_anew = pytest.mark.expects_log("residency index cannot be used and is made anew")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "residency.mdb"


def record(number: int, blocks: int = 40) -> SegmentRecord:
    presence = bytes(block % 3 != number % 3 for block in range(blocks))
    resident = presence.count(1)
    return SegmentRecord(f"{number:040x}", False, resident * 4096, resident, blocks, bitmap_of(presence))


def sealed_record(number: int) -> SegmentRecord:
    return SegmentRecord(f"{number:040x}", True, 8192, 2, 2, used_hour=500_000 + number)


def gone(number: int) -> SegmentRecord:
    return SegmentRecord(f"{number:040x}", False, 0, 0, 40)


def written(path: Path, records: list[SegmentRecord], *, clean: bool = True) -> None:
    index = ResidencyIndex(path, CLUSTER)
    index.put(records)
    index.close(clean=clean)


# ---------------------------------------------------------------- what is put is got


@settings(max_examples=50)
@given(st.binary(max_size=100).map(lambda raw: bytes(byte % 3 for byte in raw)))
def test_bitmap_has_a_bit_for_each_present_block(presence: bytes) -> None:
    bitmap = bitmap_of(presence)
    found = SegmentRecord("", False, 0, 0, len(presence), bitmap)
    assert len(bitmap) == -(-len(presence) // 8)
    assert [found.has(block) for block in range(len(presence))] == [state != 0 for state in presence]


def test_sealed_segment_has_every_block() -> None:
    assert sealed_record(1).has(0)
    assert sealed_record(1).has(1)


def test_records_are_found_again_after_a_restart(path: Path) -> None:
    index = ResidencyIndex(path, CLUSTER)
    assert (index.was_lost, index.was_unclean) == (True, False)
    records = [record(1), sealed_record(2), record(3)]
    index.put(records)
    for _ in range(2):
        assert [index.get(entry.identity) for entry in records] == records
        assert list(index.get_many([record(3).identity, "ff" * 20, sealed_record(2).identity])) == [
            record(3), None, sealed_record(2),
        ]  # fmt: skip
        assert indexed_bytes(index) == sum(entry.resident_bytes for entry in records)
        assert sorted(index.identities()) == [entry.identity for entry in records]
        index.close()
        index = ResidencyIndex(path, CLUSTER)
        assert (index.was_lost, index.was_unclean) == (False, False)
    index.close()


def test_record_without_a_resident_block_is_removed(path: Path) -> None:
    index = ResidencyIndex(path, CLUSTER)
    index.put([record(1), record(2)])
    index.put([gone(1), gone(3)])
    assert index.get(record(1).identity) is None
    assert index.identities() == [record(2).identity]
    index.close()


def test_index_that_was_not_closed_in_order_says_so_and_keeps_its_records(path: Path) -> None:
    written(path, [record(1)], clean=False)
    index = ResidencyIndex(path, CLUSTER)
    assert (index.was_lost, index.was_unclean) == (False, True)
    assert index.get(record(1).identity) == record(1)
    index.close()
    index = ResidencyIndex(path, CLUSTER)
    assert not index.was_unclean
    index.close()


def test_index_of_many_puts_and_removals_is_whole(path: Path) -> None:
    """LMDB may leave its file shorter or longer than its pages: neither is damage."""
    random = Random(3)
    expected: dict[str, SegmentRecord] = {}
    for _ in range(30):
        index = ResidencyIndex(path, CLUSTER)
        assert {identity: index.get(identity) for identity in index.identities()} == expected
        assert not index.was_lost or not expected
        batch = [record(random.randrange(300), random.randrange(1, 9_000)) for _ in range(40)]
        batch += [gone(random.randrange(300)) for _ in range(30)]
        index.put(batch)
        for entry in batch:
            expected.pop(entry.identity, None)
            if entry.resident_blocks:
                expected[entry.identity] = entry
        index.close(clean=bool(random.randrange(2)))


# ---------------------------------------------------------------- lost and damaged


def assert_made_anew(path: Path) -> None:
    index = ResidencyIndex(path, CLUSTER)
    assert (index.was_lost, index.was_unclean) == (True, False)
    assert index.identities() == []
    index.put([record(7)])
    index.close()
    index = ResidencyIndex(path, CLUSTER)
    assert not index.was_lost
    assert index.get(record(7).identity) == record(7)
    index.close()


@pytest.mark.parametrize("suffixes", [[""], ["", "-lock"], ["", "-lock", ".state"]])
@pytest.mark.parametrize("clean", [True, False])
def test_removed_index_is_made_anew_without_ado(path: Path, suffixes: list[str], *, clean: bool) -> None:
    written(path, [record(1)], clean=clean)
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()
    assert_made_anew(path)


@made_anew
def test_index_of_which_nothing_tells_how_it_was_closed_is_not_trusted(path: Path) -> None:
    written(path, [record(1)])
    path.with_name(path.name + ".state").unlink()
    assert_made_anew(path)


@made_anew
def test_index_that_lived_through_a_stop_of_the_machine_is_not_trusted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, [record(1)], clean=False)
    monkeypatch.setattr(residency, "_boot_id", lambda: "after the power came back")
    assert_made_anew(path)


@made_anew
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("content", [b"", b"x", bytes(4096), bytes(100_000), Random(0).randbytes(50_000)], ids=len)
def test_garbage_in_place_of_the_index_is_replaced(path: Path, content: bytes, *, clean: bool) -> None:
    written(path, [record(1)], clean=clean)
    path.write_bytes(content)
    assert_made_anew(path)


@made_anew
def test_unknown_format_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(residency, "FORMAT", b"dsfs residency 99")
        written(path, [record(1)])
    assert_made_anew(path)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.expects_log("made anew: it describes another backing directory, cluster id 'one' instead of 'two'")
def test_index_of_another_backing_directory_counts_as_lost(path: Path, *, clean: bool) -> None:
    written(path, [record(1)], clean=clean)
    index = ResidencyIndex(path, "two")
    assert (index.was_lost, index.was_unclean) == (True, False)
    assert index.identities() == []
    index.put([record(2)])
    index.close()
    index = ResidencyIndex(path, "two")
    assert (index.was_lost, index.was_unclean) == (False, False)
    assert index.identities() == [record(2).identity]
    index.close()


@made_anew
def test_record_that_is_none_is_not_believed(path: Path) -> None:
    written(path, [record(1)], clean=False)
    with lmdb.open(str(path), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(bytes.fromhex(record(2).identity), b"short")
    assert_made_anew(path)


DAMAGE_ALL = """
import logging, sys
from pathlib import Path
from dsfs.storage.residency import ResidencyIndex
logging.getLogger("dsfs").setLevel(logging.CRITICAL)
path, clean = Path(sys.argv[1]), sys.argv[2] == "clean"
state = path.with_name(path.name + ".state")
whole, mark = path.read_bytes(), state.read_bytes()
expected = 200
sizes = {page + by for page in range(0, len(whole), 4096) for by in (-1, 0, 1, 2048)}
damaged = [whole[:size] for size in sorted(sizes) if 0 <= size < len(whole)]
if clean:  # else LMDB cannot tell, and nobody promises it
    for page in range(0, len(whole), 4096):
        damaged.append(whole[:page] + bytes(4096) + whole[page + 4096:])
        damaged.append(whole[:page + 99] + bytes([whole[page + 99] ^ 1]) + whole[page + 100:])
for content in damaged:
    path.write_bytes(content)
    state.write_bytes(mark)
    path.with_name(path.name + "-lock").unlink(missing_ok=True)
    index = ResidencyIndex(path, "one")
    found = len(index.identities())
    assert found == (0 if index.was_lost else expected), found
    assert index.was_lost or content == whole
    list(index.get_many(index.identities()))
    index.close()
print(len(damaged))
"""


@pytest.mark.parametrize("mark", ["clean", "unclean"])
def test_cut_or_damaged_index_does_not_end_the_process(path: Path, mark: str) -> None:
    """In a process of its own: what LMDB meets there may end it by SIGBUS or abort."""
    written(path, [record(number) for number in range(200)], clean=mark == "clean")
    done = subprocess.run(
        [sys.executable, "-c", DAMAGE_ALL, path, mark], capture_output=True, text=True, timeout=WAIT_S, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


# ---------------------------------------------------------------- full, or refused


@pytest.mark.expects_log("residency index cannot be written, it is rebuilt at the next start: .*MDB_MAP_FULL")
def test_full_map_costs_a_rebuild_at_the_next_start_which_has_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "MAP_SIZE", 64 * 1024)
    records = [record(number, blocks=8_000) for number in range(100)]
    starts = 0
    index = ResidencyIndex(path, CLUSTER)
    while len(index.identities()) < len(records):
        for entry in records:
            index.put([entry])
        index.close()
        index = ResidencyIndex(path, CLUSTER)
        starts += 1
        assert index.was_unclean == (len(index.identities()) < len(records))
    assert list(index.get_many(entry.identity for entry in records)) == records
    index.close()
    assert 1 < starts < 6


def test_index_may_grow_far_beyond_what_memory_holds_without_taking_disk(path: Path) -> None:
    written(path, [record(1)])
    assert path.stat().st_size < 100_000


@pytest.mark.expects_log("residency index cannot be written, it is rebuilt at the next start")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_write_that_the_disk_refuses_costs_a_rebuild_at_the_next_start(path: Path, number: int) -> None:
    index = ResidencyIndex(path, CLUSTER)
    index.put([record(1)])
    with stopping_at(1, OSError(number, "refused")):
        index.put([record(2)])
    index.put([record(3)])
    index.close()
    index = ResidencyIndex(path, CLUSTER)
    assert index.was_unclean
    assert sorted(index.identities()) == [record(1).identity, record(3).identity]
    index.close()


@pytest.mark.expects_log("residency index cannot be")
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), DiedError(), lmdb.DiskError("sick")], ids=repr)
def test_no_step_that_fails_leaves_an_index_that_is_wrong_unnoticed(tmp_path: Path, error: BaseException) -> None:
    """Whatever is missing or too much in it, this start or the next one knows that it has to be rebuilt."""
    before, after = {record(1).identity, record(2).identity}, {record(2).identity, record(3).identity}
    for step in count(1):
        path = tmp_path / str(step) / "residency.mdb"
        path.parent.mkdir()
        written(path, [record(1), record(2)])
        index = None
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(BackingError, lmdb.Error):
            index = ResidencyIndex(path, CLUSTER)
            index.put([record(3)])
            index.put([gone(1)])
            index.close()
        is_known = index is not None and index.was_lost
        if index is not None:
            index._env.close()
        index = ResidencyIndex(path, CLUSTER)
        is_known = is_known or index.was_lost or index.was_unclean
        assert is_known or set(index.identities()) in (before, after)
        index.close()
        if not stop.was_reached:
            assert step > 10
            break


@pytest.mark.expects_log("residency index cannot be used")
def test_local_disk_that_takes_no_index_is_a_clear_error(path: Path) -> None:
    path.mkdir()
    with pytest.raises(BackingError, match=r"residency index .*residency\.mdb"):
        ResidencyIndex(path, CLUSTER)


# ---------------------------------------------------------------- beside a rebuild


@pytest.fixture
def index(path: Path) -> Iterator[ResidencyIndex]:
    made = ResidencyIndex(path, CLUSTER)
    yield made
    made.close()


def test_found_record_does_not_replace_what_was_put_meanwhile(index: ResidencyIndex) -> None:
    index.put([record(1), record(2)])
    with index.rebuilding():
        index.put([gone(1), sealed_record(3)])
        index.put_found([record(1), record(3), record(4), gone(2)])
    assert index.get(record(1).identity) is None
    assert index.get(record(2).identity) is None
    assert index.get(record(3).identity) == sealed_record(3)
    assert index.get(record(4).identity) == record(4)
    with index.rebuilding():
        index.put_found([record(1)])
    assert index.get(record(1).identity) == record(1)


def test_index_is_closed_only_once_its_records_are_on_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("dsfs.storage.faultpoint.hook", order.append)
    written(path, [record(1)])
    assert order.index("index.sync") < len(order) - 1 - order[::-1].index("file.rename")
    assert os.listdir(path.parent).count("residency.mdb.state") == 1
