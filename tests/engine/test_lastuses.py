"""When versions were last used: by the file server's clock, seen by all, and not for ever."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from dsfs.model.document import encode
from dsfs.model.lastuse import FORGOTTEN_AFTER_S, FORMAT, TOLD_EVERY_S, LastUse, VersionNames
from dsfs.model.retention import ACTIVE_S
from dsfs.model.reuse import HALF_LIFE_S
from dsfs.model.versionname import name_of
from dsfs.storage import lastuses
from dsfs.storage.filesystem import file_system_of, open_plain
from dsfs.storage.lastuses import LastUses
from tests.engine.faults import Faults

NOW_NS = 1_800_000_000 * 10**9
V1, V2 = ("photos", "v1"), ("photos", "v2")
LONG = ("\udcff" * 255, "v" * 255)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "uses"
    path.mkdir()
    return path


def node_at(place: Path) -> LastUses:
    """One that knows nothing yet."""
    return LastUses(place, file_system_of(place))


@pytest.fixture
def uses(place: Path) -> LastUses:
    return node_at(place)


def versions(uses: LastUses) -> list[tuple[str, str]]:
    """Those of which uses are known."""
    return [(use.dataset, use.version) for use in uses.all()]


def test_use_is_seen_by_all_with_the_time_of_the_server(uses: LastUses, place: Path) -> None:
    other = node_at(place)
    assert other.all() == []
    assert other.of([V1]) == {}
    for names in (V1, LONG):
        uses.begin(*names, 0)
    for seen in (uses, other):
        assert set(versions(seen)) == {V1, LONG}
        assert seen.of([V1, V2, LONG]).keys() == {V1, LONG}
    assert sorted(path.name for path in place.iterdir())[1] == "photos,v1"  # an administrator can read it


def test_using_it_again_is_one_request_and_changes_nothing_but_the_time(
    uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses.begin(*V1, 0)
    (path,) = place.iterdir()
    os.utime(path, ns=(0, 0))
    inode = path.stat().st_ino
    assert uses.all() == [LastUse(*V1, 0, 1.0)]
    faults = Faults(monkeypatch)
    uses.touch(*V1)
    assert faults.reached == ["lastuses.touch"]
    assert uses.of([V1])[V1] > 10**18
    assert path.stat().st_ino == inode


def test_what_is_no_use_file_is_left_alone(uses: LastUses, place: Path) -> None:
    uses.begin(*V1, 0)
    for name in ("README", ".nfs0123", "0" * 40, "photos,v2.0.new-0123456789ab"):
        (place / name).write_text("anything")
    for _ in range(2):
        assert versions(uses) == [V1]


def test_damaged_content_matters_only_where_the_name_does_not_tell(uses: LastUses, place: Path) -> None:
    for names in (V1, LONG):
        uses.begin(*names, 0)
    for path in place.iterdir():
        path.write_bytes(b"\0" * 100)
    fresh = node_at(place)
    assert versions(fresh) == [V1]
    for _ in range(2):
        uses_of = {(use.dataset, use.version): use for use in fresh.all([V1, V2, LONG])}
        assert uses_of.keys() == {V1, LONG}
        assert uses_of[LONG].used_ns == fresh.of([LONG])[LONG]


INSTEAD: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("place_instead", INSTEAD.values(), ids=INSTEAD)
def test_what_lies_in_place_of_a_file_holds_nobody_up(
    uses: LastUses, place: Path, place_instead: Callable[[Path], object]
) -> None:
    uses.begin(*V1, 0)
    place_instead(place / name_of(*V2))
    assert {(use.dataset, use.version): use.uses for use in uses.all()} == {V1: 1.0, V2: 1.0}
    with suppress(OSError):  # it is told, or said so at once
        uses.begin(*V2, NOW_NS)


def test_what_nobody_has_used_for_a_year_is_forgotten(uses: LastUses, place: Path) -> None:
    for names in (V1, V2, LONG):
        uses.begin(*names, 0)
    now_ns = max(uses.of([V1, V2, LONG]).values())
    long_ago_ns = now_ns - round(FORGOTTEN_AFTER_S * 1e9) - 1
    os.utime(place / "photos,v1", ns=(0, long_ago_ns))
    os.utime(place / "photos,v2", ns=(0, long_ago_ns + 10**9))
    left = place / "photos,v1.0.new-0123456789ab"
    left.touch()
    os.utime(left, ns=(0, 0))
    uses.forget(now_ns)
    assert set(versions(uses)) == {V2, LONG}
    assert not left.exists()


def test_nothing_is_written_where_the_folder_is_gone(uses: LastUses, place: Path) -> None:
    place.rmdir()
    with pytest.raises(FileNotFoundError):
        uses.begin(*V1, 0)
    with pytest.raises(FileNotFoundError):
        uses.touch(*V1)
    with pytest.raises(FileNotFoundError):  # and not: never used
        uses.of([V1])
    assert not place.exists()


def test_file_that_vanishes_is_of_no_use(uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uses.begin(*V1, 0)
    names = [*os.listdir(place), "photos,v2"]
    monkeypatch.setattr("dsfs.storage.lastuses.os.listdir", lambda path: names)
    assert versions(uses) == [V1]


def test_first_use_that_cannot_be_told_leaves_nothing(
    uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults(monkeypatch).fail("direct.rename", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        uses.begin(*V1, 0)
    assert list(place.iterdir()) == []


# ---------------------------------------------------------------- how often


def told_at(place: Path, now_ns: int) -> None:
    """The last word of v1 was at that time."""
    os.utime(place / "photos,v1", ns=(0, now_ns))


def counts(uses: LastUses) -> float:
    (use,) = uses.all()
    return use.uses


def test_use_that_begins_after_a_pause_is_another_one_and_an_old_one_counts_half(uses: LastUses, place: Path) -> None:
    uses.begin(*V1, NOW_NS)
    other = node_at(place)
    told_at(place, NOW_NS)
    assert (counts(uses), counts(other)) == (1, 1)
    half_life_ns = round(HALF_LIFE_S * 1e9)
    uses.begin(*V1, NOW_NS + half_life_ns)
    told_at(place, NOW_NS + half_life_ns)
    assert (counts(uses), counts(other)) == (1.5, 1.5)
    for pause_s in (ACTIVE_S, 0, -ACTIVE_S):  # it goes on, perhaps on another node; and a clock that was set back
        other.begin(*V1, NOW_NS + half_life_ns + round(pause_s * 1e9))
        told_at(place, NOW_NS + half_life_ns)
        assert (counts(uses), counts(other)) == (1.5, 1.5)


def test_nodes_that_begin_at_once_count_one_use(uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uses.begin(*V1, NOW_NS)
    told_at(place, NOW_NS)
    later_ns = NOW_NS + round(HALF_LIFE_S * 1e9)
    gate = Faults(monkeypatch).hold("direct.rename")
    with ThreadPoolExecutor() as nodes:
        slow = nodes.submit(uses.begin, *V1, later_ns)
        assert gate.reached.wait(20)  # it has looked, and is about to write
        monkeypatch.undo()
        node_at(place).begin(*V1, later_ns)
        told_at(place, later_ns)
        node_at(place).begin(*V1, later_ns)
        assert counts(uses) == 1.5
        gate.open()
        slow.result(20)
    told_at(place, later_ns)
    assert counts(node_at(place)) == 1.5


def test_file_that_does_not_count_says_one_use(uses: LastUses, place: Path) -> None:
    for content in (encode(VersionNames(*V1), FORMAT), b"torn"):
        (place / "photos,v1").write_bytes(content)
        told_at(place, NOW_NS)
        assert counts(node_at(place)) == 1
        uses.begin(*V1, NOW_NS + round(HALF_LIFE_S * 1e9))
        assert counts(uses) == 1.5


def test_count_is_read_again_only_when_a_use_may_have_begun(
    uses: LastUses, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uses.begin(*V1, NOW_NS)
    told_at(place, NOW_NS)
    assert counts(uses) == 1
    opened: list[Path] = []

    def noted(path: Path) -> BinaryIO:
        opened.append(path)
        return open_plain(path)

    monkeypatch.setattr(lastuses, "open_plain", noted)
    for _ in range(5):  # told again and again while it is in use
        told_at(place, os.stat(place / "photos,v1").st_mtime_ns + round(TOLD_EVERY_S * 1e9))
        assert counts(uses) == 1
    assert opened == []
    told_at(place, NOW_NS)  # the server's clock was set back
    assert counts(uses) == 1
    assert len(opened) == 1
