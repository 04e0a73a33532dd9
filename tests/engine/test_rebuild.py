"""The index made again from what lies in the backing directory: never ahead of it, and never older than a fill."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from crc32c import crc32c

from dsfs.model.blocks import BLOCK, BlockTable, PackBlocks, UniformBlocks, extent, pages
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.rebuild import BATCH, rebuild, recover
from dsfs.storage.residency import ResidencyIndex, SegmentRecord, bitmap_of, hour_of
from dsfs.storage.segment import SegmentFile, State
from tests.engine.backing_sample import indexed_bytes
from tests.engine.segment_sample import page_aligned

LARGE: BlockTable = UniformBlocks(3 * BLOCK + 100)
PACK: BlockTable = PackBlocks([1, 4096, 5000, 60_000])


@pytest.fixture
def backing(tmp_path: Path) -> BackingDirectory:
    return BackingDirectory(tmp_path / "backing")


@pytest.fixture
def index(tmp_path: Path, backing: BackingDirectory) -> Iterator[ResidencyIndex]:
    made = ResidencyIndex(tmp_path / "residency.mdb", backing.cluster)
    yield made
    made.close()


def identity(number: int) -> str:
    return f"{number:02x}" * 20


def filled(backing: BackingDirectory, number: int, table: BlockTable, end: int) -> SegmentRecord:
    """A segment with its first blocks, sealed if that is all; returns what is resident of it."""
    file = backing.segment(identity(number), table)
    file.open()
    if end:
        length = extent(table, 0, end)[1]
        buffer = page_aligned(length)
        buffer[:length] = Random(number).randbytes(length)
        checksums = [
            crc32c(buffer[table.offset(block) : table.offset(block) + table.length(block)]) for block in range(end)
        ]
        file.write(0, checksums, buffer)
        file.seal()
    record = record_of(file)
    file.close()
    return record


def record_of(file: SegmentFile) -> SegmentRecord:
    sealed = file.state is State.SEALED
    bitmap = b"" if sealed else bitmap_of(file.presence)
    data = file.path if sealed else file.path.with_suffix(".part")
    hour = hour_of(data.stat().st_mtime) if file.presence.resident else 0
    return SegmentRecord(
        file.identity, sealed, file.resident_bytes, file.presence.resident, len(file.blocks), bitmap, hour
    )


def paths_of(backing: BackingDirectory, number: int) -> Path:
    return backing.path / "segments" / identity(number)[:2] / identity(number)


def test_rebuilt_index_says_what_open_segments_say(backing: BackingDirectory, index: ResidencyIndex) -> None:
    records = [
        filled(backing, 1, LARGE, 4),
        filled(backing, 2, LARGE, 2),
        filled(backing, 3, PACK, 4),
        filled(backing, 4, UniformBlocks(4096), 1),
    ]
    partly = filled(backing, 5, PACK, 2)
    assert rebuild(index, backing) == 5
    assert list(index.get_many(record.identity for record in records)) == records
    found = index.get(partly.identity)
    assert found is not None
    # The bytes of a pack's blocks stand in the catalog: an estimate until somebody opens the segment.
    assert (found.sealed, found.resident_blocks, found.bitmap) == (False, 2, partly.bitmap)
    assert 0 < found.resident_bytes <= pages(PACK.size)


def test_rebuild_removes_what_is_no_longer_there(backing: BackingDirectory, index: ResidencyIndex) -> None:
    kept, gone = filled(backing, 1, LARGE, 4), filled(backing, 2, LARGE, 1)
    index.put([kept, gone])
    backing.remove_segment(gone.identity)
    assert rebuild(index, backing) == 1
    assert index.identities() == [kept.identity]
    assert indexed_bytes(index) == kept.resident_bytes


def test_last_use_that_is_known_outlives_a_rebuild(backing: BackingDirectory, index: ResidencyIndex) -> None:
    sealed, partly = filled(backing, 1, LARGE, 4), filled(backing, 2, LARGE, 2)
    used = [replace(record, used_hour=record.used_hour + 5) for record in (sealed, partly)]
    index.put(used)
    rebuild(index, backing)
    assert list(index.get_many(record.identity for record in used)) == used
    long_ago = [replace(record, used_hour=7) for record in used]
    index.put(long_ago)
    rebuild(index, backing)
    assert [index.get(record.identity) for record in used] == [sealed, partly]  # it was filled later than that


def test_rebuild_of_more_segments_than_a_batch_takes_them_all(
    backing: BackingDirectory, index: ResidencyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BATCH > 1
    monkeypatch.setattr("dsfs.storage.rebuild.BATCH", 3)
    records = [filled(backing, number, UniformBlocks(100 + number), 1) for number in range(10)]
    assert rebuild(index, backing) == 10
    assert list(index.get_many(record.identity for record in records)) == records


def test_what_a_crash_left_half_is_not_resident(backing: BackingDirectory, index: ResidencyIndex) -> None:
    filled(backing, 1, LARGE, 2)
    paths_of(backing, 1).with_suffix(".part").unlink()  # a map without data
    filled(backing, 2, LARGE, 2)
    paths_of(backing, 2).with_suffix(".map").unlink()  # data without a map
    filled(backing, 3, LARGE, 4)
    paths_of(backing, 3).unlink()  # checksums without a sealed file
    filled(backing, 4, LARGE, 4)
    paths_of(backing, 4).with_suffix(".sum").unlink()  # a sealed file without checksums
    assert rebuild(index, backing) == 0
    assert index.identities() == []


@pytest.mark.expects_log("is left out of the index|segment ")
@pytest.mark.parametrize("suffix", ["", ".sum", ".part", ".map"])
@pytest.mark.parametrize("size", [0, 10, 5000])
def test_segment_with_a_cut_file_is_never_ahead_of_what_its_open_finds(
    backing: BackingDirectory, index: ResidencyIndex, suffix: str, size: int
) -> None:
    for number, table in enumerate([LARGE, PACK]):
        filled(backing, number, table, len(table) if suffix in ("", ".sum") else 3)
        path = paths_of(backing, number)
        os.truncate(path.with_name(path.name + suffix), size)
    rebuild(index, backing)
    for number, table in enumerate([LARGE, PACK]):
        record = index.get(identity(number))
        file = backing.segment(identity(number), table)
        file.open()
        assert all(record is None or not record.has(block) or file.presence[block] for block in range(len(table)))
        file.close()


@pytest.mark.expects_log("is left out of the index")
def test_foreign_and_damaged_files_are_passed_over(backing: BackingDirectory, index: ResidencyIndex) -> None:
    good = filled(backing, 1, LARGE, 4)
    folder = paths_of(backing, 1).parent
    (folder / "note.txt").write_text("not ours")
    (folder / "garbage.map").write_bytes(b"x" * 10_000)
    (folder / "empty.sum").write_bytes(b"")
    filled(backing, 8, LARGE, 4)
    for suffix in ("", ".sum"):  # under another name it is no segment
        paths_of(backing, 8).with_suffix(suffix).rename((folder / identity(9)).with_suffix(suffix))
    (folder / ".nfs0001").write_bytes(b"silly")
    (backing.path / "segments" / "stray").write_bytes(b"")
    (folder / "folder.map").mkdir()
    assert rebuild(index, backing) == 1
    assert index.identities() == [good.identity]


def test_drop_during_a_rebuild_is_not_undone(
    backing: BackingDirectory, index: ResidencyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map was read before the drop, its record would be written after it."""
    record = filled(backing, 1, LARGE, 4)
    index.put([record])

    dropped: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr("dsfs.storage.rebuild.BATCH", 1)
        put_found = index.put_found

        def overtaken(records: list[SegmentRecord]) -> None:
            if not dropped:
                dropped.append(True)
                backing.remove_segment(record.identity)
                index.put([SegmentRecord(record.identity, False, 0, 0, 4)])
            put_found(records)

        patch.setattr(index, "put_found", overtaken)
        rebuild(index, backing)
    assert dropped
    assert index.get(record.identity) is None
    assert indexed_bytes(index) == 0


def test_fill_during_a_rebuild_is_not_forgotten(
    backing: BackingDirectory, index: ResidencyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segment was not there when its folder was read."""
    index.put([SegmentRecord(identity(1), False, 4096, 1, 4, b"\1")])  # a record that is out of date
    put_found = index.put_found

    def overtaken(records: list[SegmentRecord]) -> None:
        index.put([filled(backing, 1, LARGE, 4)])
        put_found(records)

    with monkeypatch.context() as patch:
        patch.setattr(index, "put_found", overtaken)
        rebuild(index, backing)
    found = index.get(identity(1))
    assert found is not None
    assert found.sealed


def test_missing_segments_folder_means_nothing_is_resident(backing: BackingDirectory, index: ResidencyIndex) -> None:
    index.put([SegmentRecord(identity(1), True, 4096, 1, 1)])
    (backing.path / "segments").rmdir()
    assert rebuild(index, backing) == 0
    assert index.identities() == []


@pytest.mark.expects_log("not rebuilt, the backing directory cannot be read")
def test_backing_directory_that_cannot_be_read_leaves_the_index_to_the_next_start(
    tmp_path: Path, backing: BackingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ResidencyIndex(tmp_path / "residency.mdb", backing.cluster)
    record = filled(backing, 1, LARGE, 4)
    index.put([record])

    def refuse(path: Path) -> Iterator[os.DirEntry[str]]:
        raise OSError(5, "sick", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        recover(index, backing)
    assert index.get(record.identity) == record
    index.close()
    index = ResidencyIndex(tmp_path / "residency.mdb", backing.cluster)
    assert index.was_unclean
    index.close()
