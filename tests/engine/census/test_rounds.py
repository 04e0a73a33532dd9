"""The census: what it says is what a recount says, whatever has happened, and a round costs what has changed."""

import errno
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest

from dsfs.model.blocks import PAGE
from dsfs.model.objects import ObjectRef
from dsfs.model.retention import Amount
from dsfs.storage import censusscan, segmentfolder
from dsfs.storage.account import count
from dsfs.storage.catalog_build import build_catalog
from dsfs.storage.censusscan import SAFE_NS
from dsfs.storage.filesystem import mtime_ns
from dsfs.storage.generations import CATALOG, SEGMENTS, SUMMARY, GenerationStore
from dsfs.storage.segmentlist import list_segments
from tests.rig.censused import A, B, Place, identity, ids

OTHER = ("photos", "v2", "cc" * 20)


def test_empty_directory_takes_its_folders(place: Place) -> None:
    scan = place.scan()
    assert scan.since_ns == place.now_ns
    place.assert_right()
    assert [*place.census.generations(), *place.census.trash(), *place.census.orphans()] == []


def test_generations_hold_what_is_there_of_their_segments(place: Place) -> None:
    for number in range(6):
        place.seal(number, pages=number + 1)
    place.fill(6)
    placed = [place.place(key, numbers) for key, numbers in ((A, [0, 1, 2, 90]), (B, [2, 3, 6]), (OTHER, [3, 4]))]
    place.scan()
    place.assert_right()
    first, second, third = place.census.generations()
    assert (first.key, second.key, third.key) == (A, B, OTHER)
    assert (first.is_current, second.is_current, third.is_current) == (False, True, True)
    assert (first.sequence, second.sequence) == (1, 2)
    assert first.size_bytes == placed[0].segment_bytes == 12 * PAGE
    assert first.held == Amount((1 + 2 + 3 + 3) * PAGE, 6)
    assert {s.identity: s.others for s in place.census.segments_of(B)} == {
        identity(2): (A,), identity(3): (OTHER,), identity(6): ()
    }  # fmt: skip
    assert list(place.census.segments_of(("photos", "v1", "dd" * 20))) == []
    catalog = place.backing.generations.joinpath(*A, CATALOG)
    assert first.placed_ns == catalog.stat().st_mtime_ns
    filled_ns = max(place.path(6, suffix).stat().st_mtime_ns for suffix in (".part", ".map"))
    assert {s.used_ns for s in place.census.segments_of(B) if s.identity == identity(6)} == {filled_ns}


def test_names_of_datasets_and_versions_may_begin_with_a_dot(place: Place) -> None:
    """Their segments would be taken for orphans, and leave while they are read."""
    keys = [(".photos", ".v1", "aa" * 20), (".photos", "v2", "bb" * 20), ("photos", ".nfs", "cc" * 20)]
    for number, key in enumerate(keys):
        place.seal(number)
        place.place(key, [number])
    assert place.store.datasets(shared=True) == [".photos", "photos"]
    assert place.store.versions(".photos", shared=True) == [".v1", "v2"]
    for _ in range(2):
        place.scan()
        place.assert_right()
        assert {generation.key for generation in place.census.generations()} == set(keys)
        assert count(place.backing.path) == place.census.total()


def test_quiet_round_reads_nothing(place: Place) -> None:
    place.seal(1)
    place.place(A, [1])
    first = place.scan()
    assert first.read == first.looked > 0
    again = place.scan()
    assert (again.read, again.entries) == (0, again.looked)
    place.seal(2)
    changed = place.scan()
    assert changed.read == 2  # a new folder, and the one above it
    place.assert_right()


def test_what_changes_a_moment_after_the_round_is_seen_by_the_next(place: Place) -> None:
    """Also if the mtime is the same: server clocks have ticks."""
    place.seal(0)
    folder = place.path(0).parent
    place.now_ns = os.stat(folder).st_mtime_ns
    place.scan(hours=0)
    before = os.stat(folder)
    place.seal(5)
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    place.scan()
    place.assert_right()


def test_file_system_that_tells_only_later_what_a_file_takes_is_asked_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.place(A, [1])
    place.scan()
    place.seal(1, pages=9)
    place.now_ns = os.stat(place.path(1)).st_ctime_ns + SAFE_NS
    with monkeypatch.context() as patched:
        patched.setattr(segmentfolder, "room_of", lambda found: Amount(512, 1))
        place.scan(hours=0)
    place.scan()
    place.assert_right()
    assert place.scan().read == 0


def test_segment_that_grows_is_seen_although_its_folder_does_not_change(place: Place) -> None:
    place.fill(1)
    place.place(A, [1])
    place.scan()
    place.scan()
    place.fill(1, pages=9)
    scan = place.scan()
    assert (scan.read, scan.entries) == (0, scan.looked + 1)
    place.assert_right()
    place.seal(1, pages=9)
    place.scan()
    place.assert_right()


def test_segment_that_was_used_is_known_to_be_within_a_day(place: Place) -> None:
    for number in (0, 5):
        place.seal(number)
    place.place(A, [0, 5])
    place.scan()
    used_ns = place.now_ns + SAFE_NS
    os.utime(place.path(5, ".sum"), ns=(used_ns, used_ns))
    place.scan(hours=25)
    filled_ns = max(place.path(0, suffix).stat().st_mtime_ns for suffix in ("", ".sum"))
    assert [segment.used_ns for segment in place.census.segments_of(A)] == [filled_ns, used_ns]


def test_event_log_that_grows_is_seen_within_a_day(place: Place) -> None:
    log = place.backing.events / "one.1.jsonl"
    log.write_bytes(b"x")
    place.scan()
    with log.open("ab") as file:
        file.write(bytes(10 * PAGE))
    place.scan(hours=24)
    place.assert_right()


def test_generation_that_comes_back_is_current_in_the_next_round(place: Place) -> None:
    for key in (A, B):
        place.place(key, [1])
    place.scan()
    place.place(A, [1])
    place.scan()
    first, second = place.census.generations()
    assert (first.is_current, second.is_current) == (True, False)


def test_bounded_rounds_come_round_to_everything(place: Place) -> None:
    for number in range(40):
        place.seal(number)
    for key in (A, B, OTHER):
        place.place(key, list(range(40)))
    rounds = 0
    while place.scan(most_entries=10).since_ns is None:
        rounds += 1
    assert 5 < rounds < 60
    place.assert_right()
    since = place.now_ns
    while (place.scan(most_entries=5).since_ns or 0) <= since:
        rounds += 1
    assert rounds < 80


def test_orphan_is_what_no_generation_has_for_an_hour(place: Place) -> None:
    for number in range(3):
        place.seal(number)
    place.place(A, [0])
    place.scan()
    assert list(place.census.orphans()) == []
    place.scan(hours=0.5)
    place.place(B, [1])
    place.scan(hours=0.6)
    assert ids(place.census.orphans()) == [identity(2)]
    (orphan,) = place.census.orphans()
    assert Amount(orphan.size_bytes, orphan.inodes) == Amount(3 * PAGE, 2)
    place.reopen()
    place.scan()
    assert ids(place.census.orphans()) == [identity(2)]
    place.drop(2)
    place.scan()
    assert list(place.census.orphans()) == []


def test_nothing_is_an_orphan_while_not_all_generations_were_seen(place: Place) -> None:
    place.seal(1)
    place.place(A, [2])
    place.scan()
    queue = place.scan(hours=3, most_entries=1)
    assert queue.since_ns is not None
    assert list(place.census.orphans()) == []
    place.scan()
    assert ids(place.census.orphans()) == [identity(1)]


def test_segment_that_is_being_filled_is_no_orphan(place: Place) -> None:
    """By a node whose catalog did not get into the backing directory."""
    place.fill(1)
    place.scan()
    later_ns = place.now_ns + 3 * 3600 * 10**9
    os.utime(place.path(1, ".part"), ns=(later_ns, later_ns))
    place.scan(hours=3)
    assert list(place.census.orphans()) == []


# ---------------------------------------------------------------- generations of other making


def real_generation(place: Place, tmp_path: Path) -> tuple[Path, int]:
    """With a real catalog of a pack and a large object, in the backing directory; and how much its segments take."""
    built = tmp_path / "built.mdb"
    objects = [ObjectRef("d/v/large", 5_000_000, "e1", 1), ObjectRef("d/v/small", 10, "e2", 1)]
    summary = build_catalog(iter(objects), prefix="d/v/", origin_id="o", path=built)
    segments = list_segments(built)
    assert len(segments) == 2
    assert segments.size_bytes == (1221 + 2) * PAGE + (1 + 2) * PAGE  # with their checksums
    store = GenerationStore(
        tmp_path / "other", place.backing.generations, place.backing.file_system, lambda size: nullcontext()
    )
    placed = store.add("d", "v", built, {"generation": summary.generation}, segments)
    store.share("d", "v", placed)
    return place.backing.generations / "d" / "v" / placed.generation, segments.size_bytes


@pytest.mark.parametrize("how", ["missing", "cut", "other bytes", "summary without"])
def test_list_that_is_no_good_is_made_from_the_catalog(place: Place, tmp_path: Path, how: str) -> None:
    path, size_bytes = real_generation(place, tmp_path)
    if how == "missing":
        (path / SEGMENTS).unlink()
    elif how == "cut":
        os.truncate(path / SEGMENTS, 20)
    elif how == "other bytes":
        (path / SEGMENTS).write_bytes(bytes(40))
    else:
        summary = json.loads((path / SUMMARY).read_text())
        del summary["segment_bytes"], summary["segments_digest"]
        (path / SUMMARY).write_text(json.dumps(summary))
    assert place.scan().unknown == ()
    (generation,) = place.census.generations()
    assert (generation.key, generation.size_bytes) == (("d", "v", path.name), size_bytes)
    assert [name for name in os.listdir(place.state) if "catalog" in name and name != "catalogs"] == []


@pytest.mark.parametrize("how", ["no summary", "no list and the catalog cut", "no list and no catalog"])
def test_generation_that_cannot_be_understood_is_told_and_nothing_is_an_orphan(
    place: Place, tmp_path: Path, how: str
) -> None:
    path, _ = real_generation(place, tmp_path)
    place.seal(1)
    if how == "no summary":
        (path / SUMMARY).unlink()
    else:
        (path / SEGMENTS).unlink()
        if "cut" in how:
            os.truncate(path / CATALOG, PAGE)
        else:
            (path / CATALOG).unlink()
    place.scan()
    assert place.scan(hours=3).unknown == (f"versions/d/v/{path.name}",)
    assert list(place.census.orphans()) == []
    shutil.rmtree(path)
    assert place.scan().unknown == ()
    assert ids(place.census.orphans()) == [identity(1)]


# ---------------------------------------------------------------- clocks and faults


def test_bounded_rounds_come_round_to_everything_also_after_the_clock_was_set_back(place: Place) -> None:
    for number in range(40):
        place.seal(number)
    place.scan(hours=24)
    before = place.now_ns - 24 * 3600 * 10**9
    place.now_ns = before
    for number in range(40, 80):
        place.seal(number)
    for _ in range(40):
        place.scan(most_entries=10)
    assert max(folder.seen_ns for folder in place.census._file.folders.values()) <= place.now_ns
    place.assert_right()


def test_folder_that_is_away_for_a_moment_is_not_taken_for_empty(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS server may call it stale while it is moved to another controller."""
    place.seal(1)
    place.place(A, [1])
    place.scan()
    folder = str(place.path(1).parent)
    asked = mtime_ns

    def stale(path: Path) -> int:
        if str(path) == folder:
            raise OSError(errno.ESTALE, "Stale file handle")
        return asked(path)

    monkeypatch.setattr(censusscan, "mtime_ns", stale)
    assert place.scan().since_ns is None
    monkeypatch.setattr(censusscan, "mtime_ns", asked)
    assert place.scan().since_ns is not None
    place.assert_right()


def test_file_whose_mtime_is_centuries_ahead_is_counted(place: Place) -> None:
    place.seal(0)
    place.place(A, [0])
    os.utime(place.path(0, ".sum"), (0, 10**10))  # in 2286, in ns more than 64 bits hold
    place.scan()
    place.assert_right()
