"""The census beside what goes wrong: trash and crashes, a disk or a directory that is lost."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import lmdb
import pytest

from dsfs.model.blocks import PAGE
from dsfs.model.errors import BackingError
from dsfs.model.retention import NOTHING
from dsfs.storage import censusfile, censusnotes
from dsfs.storage.censuschange import Change
from dsfs.storage.censusrecords import SegmentEntry, encode_segment
from dsfs.storage.generations import CATALOG, SUMMARY
from dsfs.storage.trash import Trash
from tests.engine.stopping import DiedError, fault_or_death, stopping_at
from tests.rig.censused import A, B, Place, identity, ids

ROOT = Path(__file__).parents[3]


def test_hidden_segment_is_trash_until_it_is_deleted(place: Place) -> None:
    for number in (1, 2):
        place.seal(number)
    place.fill(3)
    place.place(A, [1, 2, 3])
    place.scan()
    trash = Trash(place.backing)
    hidden = [trash.hide(identity(number), place.now_ns + number) for number in (1, 3)]
    place.scan()
    place.assert_right()
    assert place.census.trash() == hidden
    assert ids(place.census.segments_of(A)) == [identity(2)]
    for each in place.census.trash():
        assert trash.delete(each.name) == each.taken
    place.scan()
    place.assert_right()
    assert place.census.trash() == []


def test_what_this_node_hides_and_deletes_is_known_before_the_folder_is_read_and_what_others_do_after_it(
    place: Place,
) -> None:
    for number in (1, 6, 11):  # in one folder
        place.seal(number)
    place.place(A, [1, 6, 11])
    place.scan()
    trash, seen = Trash(place.backing), place.census.scan(place.now_ns).since_ns
    with suppress(OSError), place.census.noting(place.now_ns) as notes:
        hidden = trash.hide(identity(1), place.now_ns)
        notes.hidden(identity(1), hidden)
        raise OSError("the next one cannot be hidden")
    place.assert_right()
    assert place.census.trash() == [hidden]
    with place.census.noting(place.now_ns) as notes:
        notes.hidden(identity(1), trash.hide(identity(1), place.now_ns + 1))
    place.drop(6)  # by another node
    with place.census.noting(place.now_ns) as notes:
        for each in place.census.trash():
            trash.delete(each.name)
            notes.deleted(each.name)
    assert place.census.trash() == []
    assert ids(place.census.segments_of(A)) == [identity(6), identity(11)]
    assert place.scan().since_ns != seen
    place.assert_right()
    assert ids(place.census.segments_of(A)) == [identity(11)]


def test_many_notes_become_true_bit_by_bit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(censusnotes, "BATCH", 2)
    for number in range(5):
        place.seal(number)
    place.place(A, list(range(5)))
    place.scan()
    with place.census.noting(place.now_ns) as notes:
        for number in range(5):
            notes.hidden(identity(number), Trash(place.backing).hide(identity(number), place.now_ns))
            assert len(place.census.trash()) == (number + 1) // 2 * 2
    place.assert_right()


def test_old_generation_goes_in_two_phases(place: Place) -> None:
    for key in (A, B):
        place.place(key, [1])
    place.scan()
    trash = Trash(place.backing)
    hidden = trash.hide_generation(A, place.now_ns)
    assert hidden.inodes == 4
    place.scan()
    place.assert_right()
    assert [generation.key for generation in place.census.generations()] == [B]
    (trashed,) = place.census.trash()
    assert trashed.taken == hidden
    current = place.store.current(*A[:2])
    assert current is not None
    assert current.generation == B[2]
    assert trash.delete(trashed.name) == hidden
    assert trash.delete(trashed.name) == NOTHING
    place.scan()
    place.assert_right()
    assert place.census.trash() == []


def test_current_generation_does_not_go(place: Place) -> None:
    trash = Trash(place.backing)
    assert trash.hide_generation(A, 1) == NOTHING
    for key in (A, B):
        place.place(key, [1])
    assert trash.hide_generation(B, 1) == NOTHING
    place.place(A, [1])  # it has come back
    assert trash.hide_generation(A, 1) == NOTHING
    assert trash.hide_generation(B, 1) != NOTHING


@pytest.mark.expects_log("is damaged and left out|describes no generation")
@pytest.mark.parametrize("damage", [CATALOG, SUMMARY])
def test_generation_whose_successor_is_damaged_does_not_go(place: Place, damage: str) -> None:
    for key in (A, B):
        place.place(key, [1])
    os.truncate(place.backing.generations.joinpath(*B, damage), 5)
    assert Trash(place.backing).hide_generation(A, 1) == NOTHING


@fault_or_death
def test_generation_that_goes_and_stops_at_any_step_is_wholly_there_or_trash(
    tmp_path: Path, error: BaseException
) -> None:
    for step in count(1):
        place = Place(tmp_path / str(step), tmp_path / f"backing-{step}")
        for key in (A, B):
            place.place(key, [1])
        place.scan()
        trash = Trash(place.backing)
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(OSError, BackingError):
            trash.hide_generation(A, place.now_ns)
            place.scan()
            for trashed in place.census.trash():
                trash.delete(trashed.name)
        place.scan()
        if not place.census.trash() and trash.hide_generation(A, place.now_ns) != NOTHING:
            place.scan()
        for trashed in place.census.trash():
            assert trashed.taken.covers(trash.delete(trashed.name))  # some of it is gone already
        place.scan()
        place.assert_right()
        assert os.listdir(place.backing.generations / "photos" / "v1") == [B[2]]
        place.census.close()
        if not stop.was_reached:
            assert step > 30
            break


# ---------------------------------------------------------------- trouble


def write_record(place: Place, database: bytes, key: bytes, value: bytes) -> None:
    """As damage would, while nobody has the census open."""
    place.census.close()
    with lmdb.open(str(place.file), subdir=False, max_dbs=7) as env, env.begin(write=True) as txn:
        txn.put(key, value, db=env.open_db(database, txn))
    place.reopen_only()


@pytest.mark.expects_log("is damaged; it is made anew by the next start")
@pytest.mark.parametrize(
    ("where", "ask"),
    [
        ((censusfile, "decode_segment"), lambda place: place.scan()),
        ((Change, "put"), lambda place: place.scan()),
        ((censusfile, "decode_segment"), lambda place: list(place.census.segments_of(A))),
        ((censusfile, "decode_time"), lambda place: list(place.census.orphans())),
    ],
    ids=["read in a round", "written in a round", "segments", "orphans"],
)
def test_census_that_proves_to_be_damaged_is_made_anew_by_the_next_start(
    place: Place, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], ask: Callable[[Place], object]
) -> None:
    for number in range(4):
        place.seal(number)
    place.place(A, [0, 1])
    place.scan()
    place.seal(6)  # in the folder of another one

    def damaged(*args: object) -> None:
        raise lmdb.CorruptedError("mdb_get: page 7")

    with monkeypatch.context() as patched:
        patched.setattr(*where, damaged)
        with pytest.raises(BackingError, match=r"census\.mdb: mdb_get"):
            ask(place)
    place.reopen()
    place.scan()
    place.assert_right()


@pytest.mark.expects_log("is damaged; it is made anew by the next start")
@pytest.mark.parametrize(
    "record",
    [b"\xff" * 7, encode_segment(SegmentEntry(PAGE, PAGE, 0, 0, 2, False, (4711,)))],
    ids=["too short", "of a generation that is none"],
)
def test_census_with_a_record_that_cannot_be_is_made_anew_by_the_next_start(place: Place, record: bytes) -> None:
    place.seal(0)
    place.place(A, [0])
    place.scan()
    write_record(place, b"segments", bytes.fromhex(identity(0)), record)
    place.drop(0)
    with pytest.raises(BackingError, match=r"census\.mdb: "):
        place.scan()
    place.reopen()
    place.scan()
    place.assert_right()


SCAN = """
import sys
from pathlib import Path
from tests.rig.censused import DAY_NS, Place
state, backing, now_ns = sys.argv[1:]
Place(Path(state), Path(backing)).census.scan(int(now_ns) + 2 * DAY_NS)
"""


def test_census_whose_page_ends_the_process_is_made_anew_by_the_next_start(place: Place, tmp_path: Path) -> None:
    for number in range(300):
        place.seal(number)
    place.place(A, list(range(300)))
    place.scan()
    place.census.close()
    file = place.file
    content = file.read_bytes()
    first, last = (bytes.fromhex(identity(number)) for number in (5, 295))
    for at in range(0, len(content), PAGE):
        page = content[at : at + PAGE]
        if last in page and first not in page:  # who goes through these segments comes to it from the one before
            content = content[:at] + bytes(PAGE) + content[at + PAGE :]
    file.write_bytes(content)
    command = [sys.executable, "-c", SCAN, str(place.state), str(tmp_path / "backing"), str(place.now_ns)]
    for code in (-signal.SIGABRT, 0):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == code, done.stderr
    place.reopen_only()
    place.assert_right()
    place.scan()
    place.assert_right()


def test_census_outlives_a_process_that_ends_outside_of_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.seal(1)
    place.scan()
    died = place.census
    shutil.copytree(place.state, place.state.with_name("after"))
    place.state = place.state.with_name("after")
    place.reopen_only()
    place.assert_right()
    died.close()
    assert "made anew" not in caplog.text


def test_census_that_is_lost_is_made_anew(place: Place) -> None:
    for number in range(4):
        place.seal(number)
    place.place(A, [1, 2, 3])
    place.scan()
    place.census.close()
    file = place.file
    size = file.stat().st_size
    for content in (None, b"", b"x" * size, file.read_bytes()[: size // 2]):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        place.reopen_only()
        place.scan()
        place.assert_right()
        place.census.close()
    place.reopen_only()


@pytest.mark.parametrize("value", [b"{}", b"[]", b"x"])
@pytest.mark.parametrize("database", [b"folders", b"generations"])
def test_census_with_a_record_that_is_none_is_made_anew(place: Place, database: bytes, value: bytes) -> None:
    place.seal(1)
    place.place(A, [1])
    place.scan()
    write_record(place, database, b"zzzz", value)
    assert place.census.generations() == []
    place.scan()
    place.assert_right()


def test_census_of_another_directory_is_made_anew(tmp_path: Path) -> None:
    one = Place(tmp_path / "one", tmp_path / "backing")
    one.seal(1)
    one.scan()
    one.census.close()
    other = Place(tmp_path / "one", tmp_path / "other")
    other.scan()
    other.assert_right()
    other.census.close()


@fault_or_death
def test_round_that_stops_at_any_step_is_made_up_for_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(censusfile, "BATCH", 2)  # stops lie in the middle of a generation, too
    for step in count(1):
        place = Place(tmp_path / str(step), tmp_path / f"backing-{step}")
        for number in range(5):
            place.seal(number)
        place.place(A, list(range(5)))
        place.scan()
        place.place(B, [1, 2, 3])
        shutil.rmtree(place.backing.generations.joinpath(*A))
        place.drop(1)
        place.fill(7)
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(OSError, BackingError):
            place.scan()
        if isinstance(error, DiedError):
            place.reopen()
        assert place.scan().since_ns == place.now_ns
        place.assert_right()
        place.scan(hours=2)
        assert ids(place.census.orphans()) == [identity(0), identity(7), identity(4)]  # in their order
        place.census.close()
        if not stop.was_reached:
            assert step > 40
            break


def test_directory_that_is_not_at_its_place_is_not_counted(place: Place, tmp_path: Path) -> None:
    place.seal(1)
    place.place(A, [1])
    place.scan()
    away = tmp_path / "away"
    place.backing.path.rename(away)
    for make in (lambda: None, place.backing.path.mkdir):
        make()
        with pytest.raises(OSError, match=r"dsfs\.json is gone"):
            place.scan()
    place.backing.path.rmdir()
    away.rename(place.backing.path)
    place.scan()
    place.assert_right()


def test_folder_that_went_and_came_back_is_found_again(place: Place, tmp_path: Path) -> None:
    """As where it was not mounted for a moment, in the middle of a round."""
    place.seal(1)
    place.place(A, [1])
    place.scan()
    for name in ("segments/01", "segments", "versions/photos/v1", "versions"):
        folder = place.backing.path / name
        above = os.stat(folder.parent)
        folder.rename(tmp_path / "away")
        os.utime(folder.parent, ns=(above.st_atime_ns, above.st_mtime_ns))
        place.scan()
        (tmp_path / "away").rename(folder)
        os.utime(folder.parent, ns=(above.st_atime_ns, above.st_mtime_ns))
        place.scan()
        place.assert_right()


def test_disk_that_takes_no_census_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "one" / "census.mdb").mkdir(parents=True)
    with pytest.raises(BackingError, match="census"):
        Place(tmp_path / "one", tmp_path / "backing")
