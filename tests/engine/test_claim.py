"""Claims on the blocks of one segment, as two nodes ask for them."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK, UniformBlocks
from dsfs.model.errors import BlockLostError
from dsfs.storage.claim import Answer, Claim, claim, look, release, see
from dsfs.storage.segment import SegmentFile, State
from tests.engine.faults import Faults
from tests.engine.segment_sample import Sample
from tests.engine.stopping import stopping_at

BLOCKS = 10


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Sample]:
    sample = Sample(tmp_path / "segments", UniformBlocks(BLOCKS * BLOCK))
    yield sample
    sample.close()


@pytest.fixture
def a(sample: Sample) -> SegmentFile:
    return sample.file()


@pytest.fixture
def b(sample: Sample) -> SegmentFile:
    return sample.file()


def test_block_is_granted_to_one_node_at_a_time(a: SegmentFile, b: SegmentFile) -> None:
    assert claim(a, 0, 4) == Claim(Answer.GRANTED, 4)
    assert claim(b, 0, 4) == Claim(Answer.HELD, 4)
    release(a, 0, 4)
    assert claim(b, 0, 4) == Claim(Answer.GRANTED, 4)


def test_claim_reaches_as_far_as_nobody_else_has_one(a: SegmentFile, b: SegmentFile) -> None:
    claim(a, 3, 5)
    assert claim(b, 0, 8) == Claim(Answer.GRANTED, 3)
    assert claim(b, 3, 8) == Claim(Answer.HELD, 5)
    assert claim(b, 5, 8) == Claim(Answer.GRANTED, 8)


def test_claim_reaches_as_far_as_blocks_are_missing(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    sample.fill(a, 2, 4)
    assert claim(b, 0, 6) == Claim(Answer.GRANTED, 2)
    assert claim(b, 2, 6) == Claim(Answer.RESIDENT, 4)
    assert claim(a, 4, 6) == Claim(Answer.GRANTED, 6), "what was not granted was not kept"


def test_held_block_that_has_been_filled_is_resident(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    claim(a, 0, 2)
    sample.fill(a, 0, 1)
    assert claim(b, 0, 2) == Claim(Answer.RESIDENT, 1)


def test_claims_end_with_the_node(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    claim(a, 0, 4)
    a.close()
    assert claim(b, 0, 4) == Claim(Answer.GRANTED, 4)


def test_claims_of_one_node_do_not_hinder_it(a: SegmentFile) -> None:
    assert claim(a, 0, 4) == Claim(Answer.GRANTED, 4)
    assert claim(a, 2, 6) == Claim(Answer.GRANTED, 6)


def test_looking_makes_and_claims_nothing(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    assert see(a, 0, 4) is None
    assert not sample.names()
    sample.fill(b, 1, 3)
    assert see(a, 0, 4) is None
    assert see(a, 1, 4) == Claim(Answer.RESIDENT, 3)
    assert claim(b, 3, 4) == Claim(Answer.GRANTED, 4)


def test_what_two_nodes_have_filled_between_them_is_complete_to_both(
    sample: Sample, a: SegmentFile, b: SegmentFile
) -> None:
    sample.fill(a, 0, 5)
    sample.fill(b, 5, BLOCKS)
    for file in (a, b):
        look(file)
        assert file.is_complete
    assert a.seal()
    assert b.seal()  # it is
    assert b.state is State.SEALED
    assert sample.names() == {"", ".sum"}


def test_segment_in_which_another_node_has_a_claim_is_not_sealed(
    sample: Sample, a: SegmentFile, b: SegmentFile
) -> None:
    """It may be about to write, because a block was bad there."""
    claim(a, 0, 1)
    sample.fill(b, 0, BLOCKS)
    assert not b.seal()
    release(a, 0, 1)
    assert b.seal()


def test_seal_that_has_to_wait_leaves_the_claims_of_its_node(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    claim(a, 0, 1)
    claim(b, 1, 2)
    sample.fill(a, 0, BLOCKS)
    assert not a.seal()
    with b.in_use() as filling:
        assert filling is not None
        assert filling.locked_by_others(0, BLOCKS) == (0, 1)


def test_claim_on_what_was_sealed_meanwhile_says_resident(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    claim(a, 0, 1)
    release(a, 0, 1)
    sample.fill(b, 0, BLOCKS)
    assert b.seal()
    assert claim(a, 0, 1).answer is Answer.RESIDENT
    assert a.state is State.SEALED


def test_claim_on_what_was_dropped_meanwhile_begins_anew(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    sample.fill(a, 0, 1)
    b.drop()
    assert claim(a, 0, 1) == Claim(Answer.GRANTED, 1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT])
def test_claim_that_is_lost_with_its_file_is_to_be_asked_for_again(
    a: SegmentFile, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    Faults(monkeypatch).fail("rangelock.lock", number)
    with pytest.raises(BlockLostError):
        claim(a, 0, 1)
    assert claim(a, 0, 1) == Claim(Answer.GRANTED, 1)


def test_a_file_whose_claims_are_lost_is_read_on(
    sample: Sample, a: SegmentFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.fill(a, 0, 1)
    Faults(monkeypatch).fail("rangelock.lock", errno.EIO)
    with pytest.raises(BlockLostError):
        claim(a, 1, 2)
    assert a.state is State.FILLING
    assert a.presence[0]
    a.check()
    assert sample.read(a, 0, 1) == sample.bytes_of(0)


def test_fault_at_any_step_leaves_no_claim_that_nobody_knows_of(sample: Sample, a: SegmentFile, b: SegmentFile) -> None:
    claim(a, 0, 1)
    release(a, 0, 1)
    claim(b, 0, 1)
    release(b, 0, 1)
    step = 0
    while True:
        step += 1
        with stopping_at(step, OSError(errno.ENOSPC, "full")) as stop:
            try:
                claim(a, 0, 4)
            except OSError:
                assert claim(b, 0, 4) == Claim(Answer.GRANTED, 4)
                release(b, 0, 4)
        if not stop.was_reached:
            assert step > 3
            break
