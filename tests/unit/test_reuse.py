"""What tells an epoch from a scan."""

from itertools import count
from random import Random

import pytest

from dsfs.model.blocks import BLOCK
from dsfs.model.reuse import AGAIN, HALF_LIFE_S, ONE_USE_S, WATCHED, Reading, Sample, another_use, is_reused, worth_ns

TIB = 2**40


def noted(*passes: range) -> Sample:
    """The sample after blocks were read in passes, one block a second."""
    sample, now_s = Sample(), 0.0
    for blocks in passes:
        for block in blocks:
            sample.note(block * 0x9E3779B1 % 2**32, now_s)
            now_s += 1
    return sample


def test_more_bytes_than_there_are_were_read_again_by_whomever() -> None:
    assert not is_reused(TIB, TIB, 0)
    assert is_reused(TIB, 2 * TIB, 0)


def test_one_pass_reads_nothing_again_however_long() -> None:
    assert noted(range(20_000)).again == 0


@pytest.mark.parametrize("blocks", [100, 1000, 20_000])
def test_second_pass_over_a_part_shows_in_its_first_third(blocks: int) -> None:
    sample = noted(range(blocks), range(blocks // 3))
    assert is_reused(TIB, 0, sample.again)
    assert noted(range(blocks), range(blocks)).again <= 64


def test_blocks_read_in_pieces_are_read_once() -> None:
    sample = Sample()
    for block in range(1000):
        for piece in range(4):
            sample.note(block * 0x9E3779B1 % 2**32, block + piece * ONE_USE_S / 4)
    assert sample.again == 0


def test_again_counts_members_of_the_sample_only() -> None:
    chance, sample, now_s = Random(1), Sample(), 0.0
    for _ in range(50):
        sample.note(chance.randrange(2**31, 2**32), now_s)
    assert noted(range(100), range(100)).again == 64
    for size in (2**31, 2**30, 2**20):  # ever smaller hashes take the places of those that were read again
        for _ in range(64):
            block = chance.randrange(size // 2, size)
            sample.note(block, now_s)
            sample.note(block, now_s + ONE_USE_S)
        now_s += ONE_USE_S
        assert AGAIN <= sample.again <= 64
    for block in range(64):
        sample.note(block, now_s)
    assert sample.again == 0


@pytest.mark.parametrize("read_bytes", [4096, BLOCK, 8 * BLOCK, 10 * BLOCK + 1])
def test_reading_counts_bytes_and_blocks_read_again_however_they_are_asked_for(read_bytes: int) -> None:
    reading, now_s, size = Reading(), 0.0, 200 * BLOCK

    def read_all(step: int) -> None:
        for offset in range(0, size, step):
            reading.note("s1", 0, offset, min(step, size - offset), lambda: now_s)

    read_all(read_bytes)
    assert (reading.read_bytes, reading.sample.again) == (size, 0)
    now_s += ONE_USE_S
    read_all(BLOCK)
    assert (reading.read_bytes, reading.sample.again) == (2 * size, WATCHED)


def test_reading_tells_segments_and_files_of_a_pack_apart() -> None:
    reading, clock = Reading(), count(0.0, ONE_USE_S)
    for segment in ("s1", "s2"):
        for start in range(0, 400 * 4096, 4096):
            reading.note(segment, start, 0, 1000, lambda: next(clock))
    assert (reading.read_bytes, reading.sample.again) == (800_000, 0)
    reading.note("s1", 0, 0, 0, lambda: next(clock))  # behind the end of a file
    assert reading.sample.again == 0


def test_clock_is_asked_for_members_of_the_sample_only() -> None:
    reading, asked = Reading(), 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return 0.0

    for block in range(100_000):
        reading.note("s1", 0, block * BLOCK, BLOCK, clock)
    assert WATCHED <= asked < 1_000  # WATCHED * (1 + log(100,000 / WATCHED)) = 534, give or take 22


def test_two_uses_are_worth_as_much_as_one_a_half_life_later() -> None:
    assert another_use(0, 10**9) == 1
    assert another_use(1, HALF_LIFE_S) == 1.5
    assert worth_ns(0, 2) == worth_ns(round(HALF_LIFE_S * 1e9), 1)
    assert worth_ns(5, 0) == worth_ns(5, 1) == 5
