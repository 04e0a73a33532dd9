"""A segment from its first block to its seal, on one node and on two."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from dsfs.model.blocks import pages
from dsfs.model.errors import BlockLostError
from dsfs.storage import faultpoint
from dsfs.storage.opening import USE_TOLD_EVERY_S as DAY_S
from dsfs.storage.segment import State
from tests.engine.faults import Faults
from tests.engine.segment_sample import TABLES, Sample, flip, medium, page_aligned

changed = pytest.mark.expects_log("segment .* (was changed after|block .* is not what|was removed)")


@pytest.fixture(params=["disk", "tmpfs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with medium(request.param, tmp_path) as place:
        yield place


@pytest.fixture(params=sorted(TABLES))
def sample(request: pytest.FixtureRequest, folder: Path) -> Iterator[Sample]:
    made = Sample(folder, TABLES[request.param])
    yield made
    made.close()


def test_absent_segment_has_no_block_and_makes_no_file(sample: Sample) -> None:
    file = sample.file()
    assert file.state is State.ABSENT
    assert (file.presence.resident, file.resident_bytes, file.is_complete) == (0, 0, False)
    assert not file.seal()
    assert not sample.names()


@pytest.mark.parametrize("seed", range(5))
def test_blocks_filled_in_any_order_are_read_back_and_sealed(sample: Sample, seed: int) -> None:
    file = sample.file()
    order = list(range(len(sample.blocks)))
    Random(seed).shuffle(order)
    for number, block in enumerate(order, 1):
        assert not file.seal()
        sample.fill(file, block, block + 1)
        assert file.presence.resident == number
        sample.assert_right_or_lost(file)
        assert file.presence.resident == number
    assert file.resident_bytes == sum(pages(sample.blocks.length(block)) for block in order)
    assert file.seal()
    assert file.state is State.SEALED
    assert sample.path.read_bytes() == sample.content
    assert sample.names() == {"", ".sum"}
    sample.assert_right_or_lost(file)
    assert file.is_complete


def test_blocks_written_in_one_run_are_read_in_any_run(sample: Sample) -> None:
    file = sample.file()
    count = len(sample.blocks)
    sample.fill(file, 0, count)
    for first in range(count):
        for end in range(first + 1, count + 1):
            start = sample.blocks.offset(first)
            got = sample.read(file, first, end)
            assert got == sample.content[start : start + len(got)]


def test_filling_segment_is_taken_up_again_after_a_restart(sample: Sample) -> None:
    sample.partly_filled()
    sample.close()
    file = sample.file()
    assert file.state is State.FILLING
    assert file.presence.resident == len(sample.blocks) - 1
    sample.assert_right_or_lost(file)
    assert file.presence.resident == len(sample.blocks) - 1
    sample.complete(file)


def test_sealed_segment_is_trusted_after_a_restart(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.sealed()
    sample.close()
    points: list[str] = []
    monkeypatch.setattr(faultpoint, "hook", points.append)
    file = sample.file()
    assert file.state is State.SEALED
    assert "segment.read" not in points  # nothing was read to find that out
    assert file.read_sealed(1, 3000) == sample.content[1:3001]


@pytest.mark.parametrize(("ago_s", "is_told"), [(3 * DAY_S, True), (60, False), (-3 * DAY_S, True)])
def test_use_of_a_sealed_segment_is_told_to_the_day_by_the_mtime_of_its_checksums(
    sample: Sample, ago_s: int, is_told: bool
) -> None:
    sample.sealed()
    sample.close()
    sums = sample.path.with_suffix(".sum")
    before_ns = sums.stat().st_mtime_ns - ago_s * 10**9
    os.utime(sums, ns=(before_ns, before_ns))
    assert sample.file().state is State.SEALED
    assert (sums.stat().st_mtime_ns != before_ns) == is_told
    assert not is_told or abs(sums.stat().st_mtime - time.time()) < 60


@pytest.mark.parametrize(("open_s", "is_told"), [(2 * DAY_S, True), (60, False)])
def test_use_of_a_segment_that_was_open_for_days_is_told_when_it_is_closed(
    sample: Sample, open_s: int, is_told: bool
) -> None:
    file = sample.sealed()
    assert file._sealed is not None
    file._sealed.opened_s -= open_s
    sums = sample.path.with_suffix(".sum")
    before_ns = sums.stat().st_mtime_ns - open_s * 10**9
    os.utime(sums, ns=(before_ns, before_ns))
    sample.close()
    assert (sums.stat().st_mtime_ns != before_ns) == is_told


def test_use_that_cannot_be_told_is_no_fault(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.sealed()
    sample.close()
    faults = Faults(monkeypatch)
    faults.fail("segment.tell_use", errno.EROFS)
    file = sample.file()
    assert "segment.tell_use" in faults.reached
    assert file.read_sealed(1, 3000) == sample.content[1:3001]


def test_missing_block_is_lost_and_not_zeros(sample: Sample) -> None:
    file = sample.partly_filled()
    with pytest.raises(BlockLostError):
        sample.read(file, 0, 1)
    with pytest.raises(BlockLostError):
        sample.read(file, 0, 2)
    with pytest.raises(BlockLostError):
        file.read_sealed(0, 1)


def test_write_to_a_sealed_segment_leaves_it_alone(sample: Sample) -> None:
    file = sample.sealed()
    before = os.stat(sample.path)
    sample.fill(file, 0, 1)
    assert os.stat(sample.path).st_mtime_ns == before.st_mtime_ns
    assert file.seal()


def test_reader_who_came_before_the_seal_is_served_after_it(sample: Sample) -> None:
    file = sample.sealed()
    length = sample.blocks.length(0)
    buffer = page_aligned(length)
    file.read_filling(0, 1, buffer)
    assert bytes(buffer[:length]) == sample.bytes_of(0)


def test_reply_out_of_the_page_cache_is_right_or_none(sample: Sample) -> None:
    file = sample.sealed()
    assert file.read_sealed(5, 100) == sample.content[5:105]
    got = file.read_sealed(5, 100, cached_only=True)
    assert got is None or bytes(got) == sample.content[5:105]


def test_closed_segment_is_opened_again_by_a_late_write(sample: Sample) -> None:
    file = sample.partly_filled()
    file.close()
    sample.fill(file, 0, 1)
    assert file.is_complete
    sample.complete(file)


def test_dropped_segment_leaves_no_file_and_can_be_filled_again(sample: Sample) -> None:
    for file in (sample.sealed(), sample.partly_filled()):
        file.drop()
        file.check()
        assert file.state is State.ABSENT
        assert not sample.names()
    sample.complete(file)


def test_write_that_is_overtaken_by_a_drop_says_so(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sample.partly_filled()
    monkeypatch.setattr(faultpoint, "hook", lambda point: file.drop() if point == "segment.data" else None)
    with pytest.raises(BlockLostError):
        sample.fill(file, 0, 1)
    assert not file.presence.resident
    assert not sample.names()


@pytest.mark.parametrize("point", ["segment.data", "segment.map"])
def test_write_to_a_file_that_is_stale_loses_its_blocks_and_is_no_fault_of_the_medium(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """As with NFSv3 when another node has just sealed the segment: its map has no name any more."""
    file = sample.partly_filled()
    before = file.presence.resident

    def stale(reached: str) -> None:
        if reached == point:
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(faultpoint, "hook", stale)
    with pytest.raises(BlockLostError):
        sample.fill(file, before, before + 1)
    assert file.presence.resident == before


def test_seal_that_finds_the_map_stale_is_no_fault_of_the_medium(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node was first."""
    file = sample.partly_filled()
    sample.fill(file, 0, 1)

    def stale(reached: str) -> None:
        if reached == "rangelock.lock":
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(faultpoint, "hook", stale)
    assert not file.seal()
    monkeypatch.setattr(faultpoint, "hook", None)
    assert file.seal()


def test_drop_that_fails_says_so(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sample.sealed()

    def refuse(path: Path) -> None:
        raise PermissionError(1, "no", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(PermissionError):
            file.drop()
    assert file.state is State.SEALED
    sample.assert_right_or_lost(file)


# ---------------------------------------------------------------- two nodes


def test_two_nodes_fill_one_segment_and_both_have_it_sealed(sample: Sample) -> None:
    one, two = sample.file(), sample.file()
    count = len(sample.blocks)
    sample.fill(one, 0, 2)
    sample.fill(two, 2, count)  # joins the files of the first
    sample.fill_missing(one)
    assert one.seal()
    sample.fill_missing(two)
    assert two.seal()
    for file in (one, two):
        assert file.state is State.SEALED
        assert file.read_sealed(0, sample.blocks.size) == sample.content
    assert sample.names() == {"", ".sum"}


def test_second_seal_takes_the_file_of_the_first(sample: Sample) -> None:
    one, two = sample.file(), sample.file()
    sample.fill(one, 0, len(sample.blocks))
    sample.fill(two, 0, len(sample.blocks))
    assert one.seal()
    assert two.seal()
    assert two.read_sealed(0, sample.blocks.size) == sample.content


def test_seal_that_loses_the_race_for_the_name_takes_the_winner(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other node's file, not ours, gets the name between our last look and our link."""
    file = sample.file()
    sample.fill(file, 0, len(sample.blocks))
    other = Sample(sample.path.parents[1] / "other", sample.blocks)
    other.complete(other.file())
    other.close()

    def overtake(point: str) -> None:
        if point == "segment.seal":
            os.link(other.path, sample.path)
            os.unlink(other.path)
            os.rename(other.beside(".sum"), sample.beside(".sum"))

    with monkeypatch.context() as patch:
        patch.setattr(faultpoint, "hook", overtake)
        assert file.seal()
    sample.complete(file)


@changed
def test_node_whose_files_were_dropped_by_another_begins_again(sample: Sample) -> None:
    one, two = sample.file(), sample.file()
    sample.fill(one, 1, len(sample.blocks))
    two.drop()
    sample.fill(one, 0, 1)
    assert one.presence.resident == 1
    sample.complete(one)


@changed
def test_node_that_has_a_sealed_segment_open_sees_it_taken_back(sample: Sample) -> None:
    one = sample.sealed()
    two = sample.file()
    flip(sample.path, 0)
    sample.assert_right_or_lost(one)
    sample.assert_right_or_lost(two)
    sample.complete(one)
    sample.assert_right_or_lost(two)
    sample.complete(two)
