"""Where blocks lie, and which of them share a run."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsfs.model.blocks import BLOCK, PAGE, RUN, BlockTable, PackBlocks, UniformBlocks, extent, pages

SMALL_MAX = 4 * 1024 * 1024  # bytes; larger objects have a segment of their own

sizes = st.one_of(
    st.integers(1, 20 * RUN),
    st.builds(
        lambda count, unit, by: count * unit + by, st.integers(1, 9), st.sampled_from([BLOCK, RUN]), st.integers(-1, 1)
    ),
)
lengths = st.one_of(
    st.integers(1, SMALL_MAX),
    st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1, RUN // 2, RUN // 2 + 1, SMALL_MAX - PAGE, SMALL_MAX - 1, SMALL_MAX]),
)
large = st.builds(UniformBlocks, sizes)
packs = st.builds(PackBlocks, st.lists(lengths, min_size=1, max_size=40))
tables = st.one_of(large, packs)


def runs_of(blocks: BlockTable) -> list[tuple[int, int]]:
    """All blocks, in the runs that a reader from the start would cause."""
    runs, first = [], 0
    while first < len(blocks):
        runs.append((first, blocks.run_limit(first)))
        first = runs[-1][1]
    return runs


@pytest.mark.parametrize(("length", "expected"), [(0, 0), (1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE)])
def test_pages_rounds_up(length: int, expected: int) -> None:
    assert pages(length) == expected


@given(tables)
def test_blocks_cover_the_segment_in_order_and_only_padding_lies_between(blocks: BlockTable) -> None:
    assert blocks.offset(0) == 0
    for block in range(len(blocks)):
        assert blocks.offset(block) % PAGE == 0
        assert blocks.length(block) > 0
        end = blocks.offset(block) + blocks.length(block)
        following = blocks.offset(block + 1) if block + 1 < len(blocks) else blocks.size
        assert following in (end, pages(end))


@given(large)
def test_large_segment_is_as_long_as_its_object(blocks: UniformBlocks) -> None:
    assert sum(blocks.length(block) for block in range(len(blocks))) == blocks.size


@given(packs)
def test_pack_is_whole_pages(blocks: PackBlocks) -> None:
    assert blocks.size == sum(pages(blocks.length(block)) for block in range(len(blocks)))


@given(tables)
def test_at_finds_the_block_of_its_first_and_last_byte(blocks: BlockTable) -> None:
    for block in range(len(blocks)):
        assert blocks.at(blocks.offset(block)) == block
        assert blocks.at(blocks.offset(block) + blocks.length(block) - 1) == block


@given(tables)
@example(PackBlocks([PAGE, SMALL_MAX, SMALL_MAX, 1]))
@example(PackBlocks([RUN - PAGE + 1, PAGE]))
def test_run_holds_its_first_block_and_never_more_than_a_slot(blocks: BlockTable) -> None:
    for first in range(len(blocks)):
        limit = blocks.run_limit(first)
        assert first < limit <= len(blocks)
        offset, length = extent(blocks, first, limit)
        assert offset == blocks.offset(first)
        assert 0 < length <= pages(length) <= RUN


@given(tables)
def test_runs_from_the_start_take_every_block_once(blocks: BlockTable) -> None:
    runs = runs_of(blocks)
    assert runs[0][0] == 0
    assert runs[-1][1] == len(blocks)
    assert all(end == first for (_, end), (first, _) in pairwise(runs))


@given(large, st.data())
def test_runs_of_a_large_segment_end_on_the_same_grid_wherever_they_begin(
    blocks: UniformBlocks, data: st.DataObject
) -> None:
    first = data.draw(st.integers(0, len(blocks) - 1))
    limit = blocks.run_limit(first)
    assert limit == len(blocks) or limit * BLOCK % RUN == 0
    assert limit in {end for _, end in runs_of(blocks)}


@given(packs)
def test_run_of_a_pack_ends_only_where_the_next_block_is_beyond_the_grid_or_the_slot(blocks: PackBlocks) -> None:
    for first in range(len(blocks)):
        limit = blocks.run_limit(first)
        if limit < len(blocks):
            start, following = blocks.offset(first), blocks.offset(limit)
            is_next_cell = following // RUN > start // RUN
            assert is_next_cell or following + blocks.length(limit) > start + RUN


@given(tables, st.data())
def test_extent_ends_with_the_last_byte_of_the_last_block(blocks: BlockTable, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(blocks) - 1))
    end = data.draw(st.integers(first + 1, len(blocks)))
    offset, length = extent(blocks, first, end)
    assert offset == blocks.offset(first)
    assert offset + length == blocks.offset(end - 1) + blocks.length(end - 1)
    assert offset + length <= blocks.size
