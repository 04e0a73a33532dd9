"""Trash: what is hidden nobody opens, and who has it open reads on; a crash leaves waste that is found again."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.blocks import PAGE
from dsfs.model.errors import BlockLostError
from dsfs.model.retention import NOTHING, Amount
from dsfs.model.trashname import TrashedFile, stamp_in, trash_name
from dsfs.storage import faultpoint
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.census import Census
from dsfs.storage.rebuild import rebuild
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.segment import SegmentFile, State
from dsfs.storage.taken import room_now
from dsfs.storage.tidy import tidy
from dsfs.storage.trash import Trash
from tests.engine.segment_sample import IDENTITY, TABLES, Sample
from tests.engine.stopping import fault_or_death, stopping_at
from tests.rig.segmentdir import age
from tests.rig.smallfs import SmallFilesystem

MIB = 1024 * 1024
WAIT_S = 10
STAMP_NS = 1_764_156_000_123_456_789
FOLDER = f"segments/{IDENTITY[:2]}"
SEALED = f"{IDENTITY}.trash-{STAMP_NS}"
FILLING = f"{IDENTITY}.part.trash-{STAMP_NS}"

Make = Callable[[Sample], SegmentFile]


def unsealed(sample: Sample) -> SegmentFile:
    """As a crash leaves it in the middle of a seal: sealed, and under its old names too."""
    file = sample.partly_filled()
    content = sample.beside(".map").read_bytes()
    sample.complete(file)
    os.link(sample.path, sample.beside(".part"))
    sample.beside(".map").write_bytes(content)
    return file


MADE: dict[str, Make] = {"sealed": Sample.sealed, "filling": Sample.partly_filled, "in the middle of a seal": unsealed}


@pytest.fixture
def backing(tmp_path: Path) -> BackingDirectory:
    return BackingDirectory(tmp_path / "backing")


@pytest.fixture
def sample(backing: BackingDirectory) -> Iterator[Sample]:
    made = Sample(backing.path / "segments", TABLES["large"])
    yield made
    made.close()


def test_name_tells_what_it_was_and_when_it_was_taken_away() -> None:
    assert trash_name(IDENTITY, STAMP_NS) == SEALED
    assert stamp_in(SEALED) == stamp_in(FILLING) == STAMP_NS
    for name in (IDENTITY, f"{IDENTITY}.part", f"{IDENTITY}.trash-", f"{IDENTITY}.trash-1x", ".trash-1", "a.trash-٣"):
        assert stamp_in(name) is None


@pytest.mark.parametrize(("how", "name"), [("sealed", SEALED), ("filling", FILLING)])
def test_hidden_segment_is_read_on_by_who_has_it_open_and_by_nobody_else(
    backing: BackingDirectory, sample: Sample, how: str, name: str
) -> None:
    file = MADE[how](sample)
    resident = [block for block in range(len(sample.blocks)) if file.presence[block]]
    hidden = Trash(backing).hide(IDENTITY, STAMP_NS)
    assert sample.names() == {name.removeprefix(IDENTITY)}
    taken = Amount(os.stat(backing.path / FOLDER / name).st_blocks * 512, 1)
    assert hidden == TrashedFile(f"{FOLDER}/{name}", STAMP_NS, taken)
    for block in resident:
        assert sample.read(file, block, block + 1) == sample.bytes_of(block)
    assert sample.file().state is State.ABSENT


@pytest.mark.parametrize(("how", "name"), [("sealed", SEALED), ("filling", FILLING)])
def test_deleted_segment_frees_what_it_took_and_is_a_miss_for_who_has_it_open(
    backing: BackingDirectory, sample: Sample, how: str, name: str
) -> None:
    file = MADE[how](sample)
    trash = Trash(backing)
    hidden = trash.hide(IDENTITY, STAMP_NS)
    assert hidden is not None
    assert trash.delete(f"{FOLDER}/{name}") == hidden.taken
    assert sample.names() == set()
    assert trash.delete(f"{FOLDER}/{name}") == NOTHING
    assert trash.hide(IDENTITY, STAMP_NS) is None
    if how == "sealed":
        with pytest.raises(BlockLostError):
            file.read_sealed(0, 1)
    file.look_again(anew=True)
    assert file.state is State.ABSENT


@pytest.mark.parametrize("is_dropped_first", [False, True])
def test_what_was_hidden_while_it_was_sealed_is_freed_with_its_last_name(
    backing: BackingDirectory, sample: Sample, is_dropped_first: bool
) -> None:
    """The one has renamed what was being filled, the other has given that its final name."""
    file, trash = sample.sealed(), Trash(backing)
    os.link(sample.path, backing.path / FOLDER / FILLING)
    data, sums = (room_now(path) for path in (sample.path, sample.beside(".sum")))
    if is_dropped_first:
        assert file.drop() == sums
        assert trash.delete(f"{FOLDER}/{FILLING}") == data
    else:
        assert trash.delete(f"{FOLDER}/{FILLING}") == NOTHING
        assert file.drop() == data + sums
    assert sample.names() == set()


def test_segment_is_filled_anew_beside_its_trash_which_stays(backing: BackingDirectory, sample: Sample) -> None:
    sample.sealed()
    trash = Trash(backing)
    hidden = trash.hide(IDENTITY, STAMP_NS)
    assert hidden is not None
    again = sample.sealed()
    assert tidy(backing) == 0
    backing.remove_segment(IDENTITY)
    assert sample.names() == {SEALED.removeprefix(IDENTITY)}
    assert trash.delete(f"{FOLDER}/{SEALED}") == hidden.taken
    again.look_again()
    assert again.state is State.ABSENT


def test_trash_is_neither_waste_nor_resident(backing: BackingDirectory, sample: Sample, tmp_path: Path) -> None:
    for how, stamp_ns in (("sealed", STAMP_NS), ("filling", STAMP_NS + 1)):
        MADE[how](sample)
        Trash(backing).hide(IDENTITY, stamp_ns)
    names = sample.names()
    assert len(names) == 2
    for path in (backing.path / FOLDER).iterdir():
        os.utime(path, (0, 0))
    assert tidy(backing) == 0
    index = ResidencyIndex(tmp_path / "residency.mdb", backing.cluster)
    assert rebuild(index, backing) == 0
    index.close()
    assert sample.names() == names


def test_file_with_another_name_frees_nothing(backing: BackingDirectory, sample: Sample) -> None:
    """As by who hid a filling while another node sealed it."""
    sample.sealed()
    os.link(sample.path, backing.path / FOLDER / FILLING)
    assert Trash(backing).delete(f"{FOLDER}/{FILLING}") == NOTHING
    assert sample.file().state is State.SEALED


@pytest.mark.needs("mkfs.ext4")
def test_segments_are_hidden_also_where_the_folder_has_no_room_for_a_longer_name(tmp_path: Path) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", 8 * MIB) as small:
        backing = BackingDirectory(small.path)
        identities = [f"3f{number:038x}" for number in range(40)]
        paths = [backing.segment_path(identity) for identity in identities]
        paths[0].parent.mkdir(parents=True)
        for path in paths:
            path.write_bytes(b"x" * PAGE)
            path.with_name(f"{path.name}.sum").write_bytes(b"y" * PAGE)
        small.fill_to_the_last_block()
        trash = Trash(backing)
        for identity in identities:
            assert trash.hide(identity, STAMP_NS)
        assert sorted(os.listdir(paths[0].parent)) == [trash_name(identity, STAMP_NS) for identity in identities]


@pytest.mark.parametrize("name", ["dsfs.json", f"{FOLDER}/{IDENTITY}", f"segments/../{FOLDER}/{SEALED}", "segments"])
def test_only_what_was_taken_away_is_deleted(backing: BackingDirectory, sample: Sample, name: str) -> None:
    sample.sealed()
    with pytest.raises(ValueError, match="taken away"):
        Trash(backing).delete(name)
    assert sample.file().state is State.SEALED


@pytest.mark.parametrize("how", MADE)
@fault_or_death
def test_hiding_that_stops_at_any_step_leaves_nothing_wrong_and_is_done_by_the_next(
    tmp_path: Path, how: str, error: BaseException
) -> None:
    for step in count(1):
        backing = BackingDirectory(tmp_path / str(step))
        sample = Sample(backing.path / "segments", TABLES["pack"])
        MADE[how](sample).close()
        census = Census(tmp_path / f"{step}.mdb", backing)
        now_ns = os.stat(backing.path).st_mtime_ns
        census.scan(now_ns)
        trash = Trash(backing)
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(OSError):
            trash.hide(IDENTITY, STAMP_NS)
        if step % 2:  # somebody opens it first, or nobody does
            sample.assert_right_or_lost(sample.file())
        trash.hide(IDENTITY, STAMP_NS + 1)
        assert sample.file().state is State.ABSENT
        age(backing.path)
        tidy(backing)
        assert [name for name in sample.names() if ".trash-" not in name] == []
        census.scan(now_ns)
        for trashed in census.trash():
            with stopping_at(1 + step % 3, type(error)(*error.args)), suppress(OSError):
                trash.delete(trashed.name)
        census.scan(now_ns)
        for trashed in census.trash():
            assert trash.delete(trashed.name) == trashed.taken
        assert sample.names() == set()
        census.close()
        sample.close()
        if not stop.was_reached:
            assert step > 10
            break


# ---------------------------------------------------------------- readers in the middle of it


@pytest.mark.parametrize("point", ["segment.open_sealed", "segment.open_records", "segment.read_map"])
@pytest.mark.parametrize("then", ["hidden", "hidden and sealed anew"])
def test_segment_that_is_taken_away_while_it_is_opened_is_a_miss_and_no_damage(
    backing: BackingDirectory, sample: Sample, monkeypatch: pytest.MonkeyPatch, point: str, then: str
) -> None:
    """Nothing is logged at WARNING.  With both files open, it is read as what was open before is."""
    sample.sealed().close()
    file = sample.closed_file()

    def take_away(reached: str) -> None:
        if reached == point:
            monkeypatch.setattr(faultpoint, "hook", None)
            Trash(backing).hide(IDENTITY, STAMP_NS)
            if then != "hidden":
                sample.sealed()

    monkeypatch.setattr(faultpoint, "hook", take_away)
    file.open()
    is_miss = then == "hidden" and point != "segment.read_map"
    assert file.state is (State.ABSENT if is_miss else State.SEALED)
    sample.assert_right_or_lost(file)


@pytest.mark.parametrize("first", ["the link", "the end of the checksums"])
def test_segment_that_is_hidden_while_it_is_sealed_has_no_name_without_its_checksums(
    backing: BackingDirectory, sample: Sample, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Nothing is logged at WARNING.  `first`: what comes first of those two, when the name of the filling has gone."""
    file = sample.file()
    sample.fill_missing(file)
    is_renamed, is_sealed = threading.Event(), threading.Event()

    def hide() -> None:
        Trash(backing).hide(IDENTITY, STAMP_NS)
        is_renamed.set()

    def meet(point: str) -> None:
        if point == "segment.sum_written":
            hiding.start()
            assert is_renamed.wait(WAIT_S)
        elif point == "trash.hidden" and first == "the link":
            is_renamed.set()
            assert is_sealed.wait(WAIT_S)

    hiding = threading.Thread(target=hide)
    monkeypatch.setattr(faultpoint, "hook", meet)
    file.seal()
    is_sealed.set()
    hiding.join(WAIT_S)
    monkeypatch.undo()
    assert not {"", ".sum"} & sample.names()
    again = sample.file()
    assert again.state is State.ABSENT
    sample.complete(again)


def test_what_two_evictors_delete_at_once_is_freed_once(
    backing: BackingDirectory, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.sealed()
    hidden = Trash(backing).hide(IDENTITY, STAMP_NS)
    assert hidden is not None
    freed: list[Amount] = []

    def reached(point: str) -> None:
        if point == "trash.delete" and not freed:  # this one has looked at it
            freed.append(NOTHING)
            freed.append(Trash(backing).delete(f"{FOLDER}/{SEALED}"))

    monkeypatch.setattr(faultpoint, "hook", reached)
    freed.append(Trash(backing).delete(f"{FOLDER}/{SEALED}"))
    assert freed == [NOTHING, hidden.taken, NOTHING]


def test_what_two_nodes_drop_at_once_is_freed_once(
    backing: BackingDirectory, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.sealed()
    freed: list[Amount] = []

    def reached(point: str) -> None:
        if point == "segment.remove" and not freed:
            freed.append(NOTHING)
            freed.append(backing.remove_segment(IDENTITY))

    monkeypatch.setattr(faultpoint, "hook", reached)
    freed.append(backing.remove_segment(IDENTITY))
    assert [amount.inodes for amount in freed] == [0, 2, 0]


def test_link_with_such_a_name_is_deleted_and_not_what_it_leads_to(backing: BackingDirectory, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    (backing.path / "segments" / "00").mkdir()
    link = backing.path / "segments" / "00" / f"00.trash-{STAMP_NS}"
    link.symlink_to(tmp_path / "other")
    Trash(backing).delete(f"segments/00/{link.name}")
    assert not link.is_symlink()
    assert (tmp_path / "other" / "file").exists()


@pytest.mark.parametrize("summary", ["", "[]", '{"sequence": "x"}'])
def test_generation_whose_summary_is_damaged_stays(backing: BackingDirectory, summary: str) -> None:
    path = backing.generations / "d" / "v" / "0f"
    path.mkdir(parents=True)
    (path / "summary.json").write_text(summary)
    assert Trash(backing).hide_generation(("d", "v", "0f"), STAMP_NS) == NOTHING
    assert path.exists()


def test_hidden_segment_that_is_open_is_missing_when_it_is_looked_at_again(
    backing: BackingDirectory, sample: Sample
) -> None:
    """A warm is to fill it anew, and not to take it for resident until it is deleted."""
    file = sample.sealed()
    file.look_again()
    assert file.is_complete
    Trash(backing).hide(IDENTITY, STAMP_NS)
    file.look_again()
    assert file.state is State.ABSENT
