"""When versions were last used: by the file server's clock, seen by all, and not for ever."""

import errno
import os
from pathlib import Path

import pytest

from dsfs.model.lastuse import FORGOTTEN_AFTER_S, LastUse
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.lastuses import LastUses
from tests.engine.faults import Faults

V1, V2 = ("photos", "v1"), ("photos", "v2")
LONG = ("\udcff" * 255, "v" * 255)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "uses"
    path.mkdir()
    return path


@pytest.fixture
def uses(place: Path) -> LastUses:
    return LastUses(place, file_system_of(place))


def test_use_is_seen_by_all_with_the_time_of_the_server(uses: LastUses, place: Path) -> None:
    other = LastUses(place, file_system_of(place))
    assert other.all() == []
    assert other.of([V1]) == {}
    for names in (V1, LONG):
        uses.touch(*names)
    for seen in (uses, other):
        assert {(use.dataset, use.version) for use in seen.all()} == {V1, LONG}
        assert seen.of([V1, V2, LONG]).keys() == {V1, LONG}
    assert sorted(path.name for path in place.iterdir())[1] == "photos,v1"  # an administrator can read it


def test_using_it_again_is_one_request_and_changes_nothing_but_the_time(
    uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses.touch(*V1)
    (path,) = place.iterdir()
    os.utime(path, ns=(0, 0))
    inode = path.stat().st_ino
    assert uses.all() == [LastUse(*V1, 0)]
    faults = Faults(monkeypatch)
    uses.touch(*V1)
    assert faults.reached == ["lastuses.touch"]
    assert uses.of([V1])[V1] > 10**18
    assert path.stat().st_ino == inode


def test_what_is_no_use_file_is_left_alone(uses: LastUses, place: Path) -> None:
    uses.touch(*V1)
    for name in ("README", ".nfs0123", "0" * 40, "photos,v2.0.new-0123456789ab"):
        (place / name).write_text("anything")
    for _ in range(2):
        assert [(use.dataset, use.version) for use in uses.all()] == [V1]


def test_damaged_content_matters_only_where_the_name_does_not_tell(uses: LastUses, place: Path) -> None:
    for names in (V1, LONG):
        uses.touch(*names)
    for path in place.iterdir():
        path.write_bytes(b"\0" * 100)
    fresh = LastUses(place, file_system_of(place))
    assert [(use.dataset, use.version) for use in fresh.all()] == [V1]
    assert fresh.of([LONG]).keys() == {LONG}


def test_what_nobody_has_used_for_a_year_is_forgotten(uses: LastUses, place: Path) -> None:
    for names in (V1, V2, LONG):
        uses.touch(*names)
    now_ns = max(uses.of([V1, V2, LONG]).values())
    long_ago_ns = now_ns - round(FORGOTTEN_AFTER_S * 1e9) - 1
    os.utime(place / "photos,v1", ns=(0, long_ago_ns))
    os.utime(place / "photos,v2", ns=(0, long_ago_ns + 10**9))
    left = place / "photos,v1.0.new-0123456789ab"
    left.touch()
    os.utime(left, ns=(0, 0))
    uses.forget(now_ns)
    assert {(use.dataset, use.version) for use in uses.all()} == {V2, LONG}
    assert not left.exists()


def test_nothing_is_written_where_the_folder_is_gone(uses: LastUses, place: Path) -> None:
    place.rmdir()
    with pytest.raises(FileNotFoundError):
        uses.touch(*V1)
    with pytest.raises(FileNotFoundError):  # and not: never used
        uses.of([V1])
    assert not place.exists()


def test_file_that_vanishes_is_of_no_use(uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uses.touch(*V1)
    names = [*os.listdir(place), "photos,v2"]
    monkeypatch.setattr("dsfs.storage.lastuses.os.listdir", lambda path: names)
    assert [(use.dataset, use.version) for use in uses.all()] == [V1]


def test_first_use_that_cannot_be_told_leaves_nothing(
    uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults(monkeypatch).fail("direct.rename", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        uses.touch(*V1)
    assert list(place.iterdir()) == []
