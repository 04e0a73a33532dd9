"""Pins in the backing directory: what one node pins is pinned for all, and nothing unreadable makes a version free."""

import errno
import os
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.errors import BackingError
from dsfs.model.pin import EXPIRED_SHOWN_S, Pin
from dsfs.storage import pins
from dsfs.storage.filesystem import FileSystem, bytes_of
from dsfs.storage.pins import PinFolder
from tests.engine.faults import Faults
from tests.engine.stopping import DiedError, stopping_at

LOCAL = FileSystem("ext4")
NOW_NS = 1_800_000_000 * 10**9
LONG = "\udcff" * 255


def pin_of(version: str = "v1", until_ns: int = 0, at_ns: int = NOW_NS, dataset: str = "photos") -> Pin:
    return Pin(dataset, version, at_ns, until_ns, "ann", "gpu1", "for the paper")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "pins"
    path.mkdir()
    return path


@pytest.fixture
def folder(place: Path) -> PinFolder:
    return new_folder(place)


def new_folder(place: Path) -> PinFolder:
    return PinFolder(place, LOCAL, lambda: None)


def pinned(folder: PinFolder) -> list[Pin | None]:
    return [file.pin for files in folder.all().files.values() for file in files]


def test_pin_is_seen_by_all_until_it_is_taken_away(folder: PinFolder, place: Path) -> None:
    other = new_folder(place)
    assert other.all().until_ns("photos", "v1") <= NOW_NS
    folder.place(pin_of())
    folder.place(pin_of(LONG, dataset=LONG))
    for seen in (folder.all(), other.all(), new_folder(place).all()):
        assert seen.until_ns("photos", "v1") > NOW_NS
        assert seen.until_ns(LONG, LONG) > NOW_NS
        assert seen.until_ns("photos", "v2") <= NOW_NS
    assert other.remove("photos", "v1")
    assert not other.remove("photos", "v1")
    assert folder.all().until_ns("photos", "v1") <= NOW_NS
    assert pinned(folder) == [pin_of(LONG, dataset=LONG)]


def test_pinning_again_takes_the_place_of_the_earlier_pin(folder: PinFolder, place: Path) -> None:
    folder.place(pin_of())
    (before,) = place.iterdir()
    renewed = pin_of(until_ns=NOW_NS + 1, at_ns=NOW_NS + 7)
    new_folder(place).place(renewed)
    (after,) = place.iterdir()
    assert pinned(folder) == [renewed]
    assert before.name != after.name  # which no client may take for the old one


def test_a_file_is_read_once(folder: PinFolder, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.place(pin_of())
    folder.all()
    (path,) = place.iterdir()
    opened: list[Path] = []

    def noted(path: Path, most_bytes: int) -> bytes:
        opened.append(path)
        return bytes_of(path, most_bytes)

    monkeypatch.setattr(pins, "bytes_of", noted)
    assert pinned(folder) == [pin_of()]
    assert opened == []
    assert pinned(new_folder(place)) == [pin_of()]
    assert opened == [path]


@pytest.mark.expects_log("cannot be understood, and counts as a pin: ")
def test_pipe_in_the_folder_holds_nobody_up(folder: PinFolder, place: Path) -> None:
    os.mkfifo(place / "photos,v1,0123456789ab.json")
    (file,) = folder.all().files["photos,v1"]
    assert file.pin is None


@pytest.mark.expects_log("cannot be understood, and counts as a pin: ")
@pytest.mark.parametrize("damage", ["empty", "torn", "unreadable", "directory"])
def test_damaged_file_is_a_pin_and_can_be_taken_away(
    folder: PinFolder, place: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.place(pin_of(until_ns=1))
    (path,) = place.iterdir()
    match damage:
        case "empty":
            os.truncate(path, 0)
        case "torn":
            os.truncate(path, 50)
        case "unreadable":
            path.unlink()
            path.symlink_to(path.name)  # ELOOP
        case "directory":
            path.unlink()
            path.mkdir()
    reader = new_folder(place)
    for _ in range(2):
        assert reader.all().until_ns("photos", "v1") > NOW_NS
    assert pinned(reader) == [None]
    assert len([record for record in caplog.records if "counts as a pin" in record.message]) == 1
    reader.forget(reader.all(), 2**62)
    assert os.path.lexists(path)
    if damage != "directory":
        assert reader.remove("photos", "v1")
        assert not reader.all().files


def test_pin_that_is_over_holds_nothing_and_goes_after_a_while(folder: PinFolder, place: Path) -> None:
    folder.place(pin_of("v1", until_ns=NOW_NS))
    folder.place(pin_of("v2", until_ns=NOW_NS + 10**9))
    seen = folder.all()
    assert (seen.until_ns("photos", "v1") > NOW_NS, seen.until_ns("photos", "v2") > NOW_NS) == (False, True)
    folder.forget(seen, NOW_NS)
    assert len(pinned(folder)) == 2
    folder.forget(seen, NOW_NS + round(EXPIRED_SHOWN_S * 1e9))
    assert pinned(folder) == [pin_of("v2", until_ns=NOW_NS + 10**9)]


def test_who_removes_a_pin_that_is_over_leaves_one_that_was_renewed_meanwhile(folder: PinFolder, place: Path) -> None:
    folder.place(pin_of(until_ns=1))
    seen = folder.all()
    new_folder(place).place(pin_of())
    folder.forget(seen, 2**62)
    assert pinned(folder) == [pin_of()]


def test_crash_at_any_step_leaves_the_old_pin_the_new_one_or_both(tmp_path: Path) -> None:
    old, new = pin_of(until_ns=NOW_NS + 10**9), pin_of(at_ns=NOW_NS + 1)
    outcomes = []
    for step in count(1):
        place = tmp_path / str(step)
        place.mkdir()
        new_folder(place).place(old)
        with stopping_at(step, DiedError(), torn=True) as stop:
            new_folder(place).place(new)
        after = new_folder(place)
        assert after.all().until_ns("photos", "v1") > NOW_NS
        outcomes.append(pinned(after))
        if not stop.was_reached:
            break
        after.place(new)
        assert pinned(after) == [new]
    assert outcomes[0] == [old]
    assert outcomes[-1] == [new]
    assert all(outcome in ([old], [new, old], [new]) for outcome in outcomes)


def test_what_a_crash_left_is_removed_when_it_is_old(folder: PinFolder, place: Path) -> None:
    old, young = (place / f"photos,v1,{name}.json.0.new-000000000000" for name in "ab")
    for path in (old, young):
        path.write_text("half")
    os.utime(old, ns=(0, 0))
    folder.forget(folder.all(), NOW_NS)
    assert list(place.iterdir()) == [young]  # of a node that lives, perhaps


def test_no_pins_are_not_taken_for_pins_that_cannot_be_seen(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_away() -> None:
        raise OSError(errno.ESTALE, "dsfs.json is gone, is it still mounted?")

    with pytest.raises(OSError, match="is it still mounted"):
        PinFolder(place, LOCAL, is_away).all()
    Faults(monkeypatch).fail("pins.list", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        new_folder(place).all()
    place.rmdir()
    with pytest.raises(FileNotFoundError):
        new_folder(place).all()
    with pytest.raises(FileNotFoundError):
        new_folder(place).place(pin_of())


def test_number_of_pins_is_bounded(folder: PinFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pins, "MOST", 2)
    for version in ("v1", "v2"):
        folder.place(pin_of(version))
    with pytest.raises(BackingError, match="there are 2 pins already"):
        folder.place(pin_of("v3"))
