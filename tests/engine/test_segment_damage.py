"""What other people do to the files of a segment never gives a reader a wrong byte: it costs a fetch."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsfs.model.blocks import PackBlocks
from dsfs.model.errors import BlockLostError
from dsfs.storage import faultpoint
from dsfs.storage.blockmap import position
from dsfs.storage.presence import MISSING, TRUSTED
from dsfs.storage.segment import State
from tests.engine.segment_sample import SUFFIXES, TABLES, Sample, cut, flip, medium, touch

changed = pytest.mark.expects_log("segment .* (was changed after|block .* is not what|was cut short|was removed)")
unusable = pytest.mark.expects_log("segment .* (has no usable checksums|its map cannot be used)")


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with medium(request.param, tmp_path) as place:
        yield place


@pytest.fixture(params=sorted(TABLES))
def sample(request: pytest.FixtureRequest, folder: Path) -> Iterator[Sample]:
    made = Sample(folder, TABLES[request.param])
    yield made
    made.close()


@changed
@pytest.mark.parametrize("restart", [True, False])
def test_flipped_byte_of_a_filling_segment_costs_its_block(sample: Sample, *, restart: bool) -> None:
    file = sample.partly_filled()
    flip(sample.beside(".part"), sample.blocks.offset(2) + 10)
    if restart:
        sample.close()
        file = sample.file()
    sample.assert_right_or_lost(file)
    assert not file.presence[2]
    assert file.presence.resident == len(sample.blocks) - 2
    sample.complete(file)


@changed
def test_flipped_byte_of_an_open_filling_segment_is_found_by_the_seal(sample: Sample) -> None:
    file = sample.partly_filled()
    flip(sample.beside(".part"), sample.blocks.offset(2) + 10)
    sample.fill(file, 0, 1)
    assert file.is_complete
    assert not file.seal()
    assert not file.presence[2]
    sample.complete(file)


@changed
def test_hole_in_an_open_filling_segment_is_found_by_the_seal(sample: Sample) -> None:
    """Cut, then made long again by the last block: the size alone tells nothing."""
    last = len(sample.blocks) - 1
    file = sample.file()
    sample.fill(file, 0, last)
    cut(sample.beside(".part"), sample.blocks.offset(1))
    sample.fill(file, last, last + 1)
    assert not file.seal()
    sample.complete(file)


@changed
def test_block_written_while_somebody_cut_the_file_is_not_trusted(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sample.file()
    sample.fill(file, 1, len(sample.blocks))
    once = iter([True])

    def cut_and_fill_another(point: str) -> None:
        if point == "segment.data_written" and next(once, False):
            cut(sample.beside(".part"), 0)
            sample.fill(file, 1, 2)

    with monkeypatch.context() as patch:
        patch.setattr(faultpoint, "hook", cut_and_fill_another)
        sample.fill(file, 0, 1)
    sample.complete(file)


@changed
@pytest.mark.parametrize("restart", [True, False])
def test_flipped_byte_of_a_sealed_segment_costs_its_block(sample: Sample, *, restart: bool) -> None:
    file = sample.sealed()
    flip(sample.path, sample.blocks.offset(2) + 10)
    if restart:
        sample.close()
        file = sample.file()
    sample.assert_right_or_lost(file)
    assert file.state is State.FILLING
    assert file.presence.resident == len(sample.blocks) - 1
    sample.complete(file)


@changed
@pytest.mark.parametrize("restart", [True, False])
def test_touched_sealed_segment_is_checked_and_sealed_again(sample: Sample, *, restart: bool) -> None:
    file = sample.sealed()
    touch(sample.path)
    if restart:
        sample.close()
        file = sample.file()
    sample.assert_right_or_lost(file)
    assert file.presence.resident == len(sample.blocks)
    assert file.seal()
    sample.complete(file)


@pytest.mark.expects_log("segment ")
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 70_000, -1])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("restart", [True, False])
def test_cut_file_costs_blocks_and_no_wrong_byte(sample: Sample, suffix: str, size: int, *, restart: bool) -> None:
    file = sample.sealed() if suffix in ("", ".sum") else sample.partly_filled()
    path = sample.beside(suffix)
    cut(path, size if size >= 0 else path.stat().st_size - 1)
    if restart:
        sample.close()
        file = sample.file()
    sample.assert_right_or_lost(file)
    sample.complete(file)
    sample.close()
    sample.complete(sample.file())


@pytest.mark.expects_log("segment ")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("restart", [True, False])
def test_removed_file_costs_blocks_and_no_wrong_byte(sample: Sample, suffix: str, *, restart: bool) -> None:
    file = sample.sealed() if suffix in ("", ".sum") else sample.partly_filled()
    sample.beside(suffix).unlink()
    if restart:
        sample.close()
        file = sample.file()
        assert file.state is State.ABSENT
    sample.assert_right_or_lost(file)
    sample.complete(file)
    sample.close()
    sample.complete(sample.file())


def test_sealed_file_that_was_removed_is_missed_by_the_next_read(sample: Sample) -> None:
    """Its bytes could still be read, but its space would never be free and its blocks never be filled again."""
    file = sample.sealed()
    sample.path.unlink()
    with pytest.raises(BlockLostError):
        file.read_sealed(0, 10)
    assert file.state is State.ABSENT
    sample.complete(file)


@pytest.mark.expects_log("segment ")
@pytest.mark.parametrize("suffix", [".map", ".sum"])
def test_flipped_byte_of_the_records_gives_no_wrong_byte(sample: Sample, suffix: str) -> None:
    whole = position(len(sample.blocks))
    for offset in [*range(80), *range(position(0), whole)]:
        file = sample.sealed() if suffix == ".sum" else sample.partly_filled()
        sample.close()
        flip(sample.beside(suffix), offset)
        file = sample.file()
        sample.assert_right_or_lost(file)
        sample.complete(file)
        file.drop()
        sample.close()


@changed
def test_part_replaced_by_zeros_under_its_map_is_no_data(sample: Sample) -> None:
    sample.partly_filled()
    sample.close()
    sample.beside(".part").unlink()
    sample.beside(".part").write_bytes(bytes(sample.blocks.size))
    file = sample.file()
    sample.assert_right_or_lost(file)
    assert not file.presence.resident
    sample.complete(file)


def test_map_without_data_is_no_resident_block(sample: Sample) -> None:
    sample.partly_filled()
    sample.close()
    sample.beside(".part").unlink()
    file = sample.file()
    assert file.state is State.ABSENT
    sample.complete(file)


def test_data_without_map_is_no_resident_block(sample: Sample) -> None:
    sample.partly_filled()
    sample.close()
    sample.beside(".map").unlink()
    file = sample.file()
    assert file.state is State.ABSENT
    sample.complete(file)


@unusable
def test_records_of_another_segment_are_not_believed(sample: Sample) -> None:
    other = Sample(sample.path.parents[1] / "other", PackBlocks([5, 5]))
    other.complete(other.file())
    other.close()
    sample.sealed()
    sample.close()
    sample.beside(".sum").write_bytes(other.beside(".sum").read_bytes())
    file = sample.file()
    assert file.state is State.ABSENT
    sample.complete(file)


@changed
def test_restored_copy_of_a_sealed_segment_is_checked_before_use(sample: Sample) -> None:
    """Same bytes, same mtime, another inode: as after a restore."""
    sample.sealed()
    sample.close()
    before = sample.path.stat()
    copy = sample.beside(".copy")
    copy.write_bytes(sample.content)
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(copy, sample.path)
    file = sample.file()
    assert file.state is State.FILLING
    sample.assert_right_or_lost(file)
    assert file.is_complete
    sample.complete(file)


@pytest.mark.expects_log("was changed after it was sealed", "is not what was written")
@pytest.mark.parametrize("sealer", ["who found it", "another", "another, to whom a map was left"])
def test_damage_in_the_time_of_an_own_write_is_not_sealed(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, sealer: str
) -> None:
    """Somebody goes on while what he has changed is mended: the new mtime looks like that of the write."""
    file = sample.file()
    sample.fill(file, 0, 1)
    left = sample.beside(".map").read_bytes()
    sample.complete(file)
    sample.close()
    if sealer == "another, to whom a map was left":
        sample.beside(".map").write_bytes(left)
    flip(sample.path, sample.blocks.offset(2))
    file = sample.file()
    sample.assert_right_or_lost(file)
    if sealer != "who found it":
        file = sample.file()
        sample.assert_right_or_lost(file)
    assert list(file.presence) == [TRUSTED if block != 2 else MISSING for block in range(len(sample.blocks))]

    def go_on(point: str) -> None:
        if point == "segment.data_written":
            monkeypatch.setattr(faultpoint, "hook", None)
            flip(sample.beside(".part"), 0)

    monkeypatch.setattr(faultpoint, "hook", go_on)
    sample.fill(file, 2, 3)
    assert not file.seal()
    sample.complete(file)
