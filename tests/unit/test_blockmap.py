"""The codec of `.map` and `.sum`: what was written is read, and nothing else is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.blocks import PAGE
from dsfs.storage.blockmap import (
    CRC,
    HEADER,
    RECORD_SIZE,
    BlockMap,
    DamagedMapError,
    MapHeader,
    decode,
    decode_header,
    encode_header,
    position,
)

IDENTITY = "0123456789" * 4
SIZE = 123_456
checksums = st.integers(0, 2**32 - 1)
records = st.lists(st.one_of(st.none(), checksums), max_size=50)


def map_of(values: list[int | None]) -> BlockMap:
    block_map = BlockMap(len(values))
    for block, checksum in enumerate(values):
        if checksum is not None:
            block_map.set(block, checksum)
    return block_map


def encoded(values: list[int | None], *, inode: int = 0, mtime_ns: int = 0) -> bytes:
    """A whole file: a `.sum` if it names an inode."""
    content = map_of(values).encode(0, len(values))
    header = MapHeader(IDENTITY, len(values), SIZE, inode, mtime_ns)
    return encode_header(header, content if inode else b"") + content


def values_of(block_map: BlockMap) -> list[int | None]:
    return [block_map.checksum(block) for block in range(len(block_map))]


@given(records)
def test_map_says_what_was_set(values: list[int | None]) -> None:
    block_map = map_of(values)
    assert values_of(block_map) == values
    assert block_map.presence(7) == bytes(0 if value is None else 7 for value in values)


@given(records.filter(bool), st.data())
def test_cleared_block_is_not_present_and_the_others_stay(values: list[int | None], data: st.DataObject) -> None:
    block_map = map_of(values)
    block = data.draw(st.integers(0, len(values) - 1))
    block_map.clear(block)
    assert values_of(block_map) == [*values[:block], None, *values[block + 1 :]]


@given(records)
def test_map_file_is_read_as_it_was_written(values: list[int | None]) -> None:
    header, block_map = decode(encoded(values), IDENTITY, len(values), SIZE, sealed=False)
    assert header == MapHeader(IDENTITY, len(values), SIZE)
    assert values_of(block_map) == values


@given(records, st.integers(1, 2**64 - 1), st.integers(-(2**63), 2**63 - 1))
def test_sum_file_is_read_as_it_was_written(values: list[int | None], inode: int, mtime_ns: int) -> None:
    content = encoded(values, inode=inode, mtime_ns=mtime_ns)
    header, block_map = decode(content, IDENTITY, len(values), SIZE, sealed=True)
    assert (header.inode, header.mtime_ns) == (inode, mtime_ns)
    assert values_of(block_map) == values


@given(records.filter(bool), st.data())
def test_records_written_in_place_are_those_of_the_file(values: list[int | None], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(values) - 1))
    end = data.draw(st.integers(first, len(values)))
    content = bytearray(encoded([None] * len(values)))
    content[position(first) : position(end)] = map_of(values).encode(first, end)
    _, block_map = decode(bytes(content), IDENTITY, len(values), SIZE, sealed=False)
    assert values_of(block_map) == [None] * first + values[first:end] + [None] * (len(values) - end)


@given(records.filter(bool), st.data())
def test_map_that_ends_early_has_no_block_behind_its_end(values: list[int | None], data: st.DataObject) -> None:
    size = data.draw(st.integers(PAGE, position(len(values))))
    _, block_map = decode(encoded(values)[:size], IDENTITY, len(values), SIZE, sealed=False)
    whole = (size - PAGE) // RECORD_SIZE
    assert values_of(block_map) == values[:whole] + [None] * (len(values) - whole)


@given(records, st.data())
def test_sum_that_ends_early_is_not_believed(values: list[int | None], data: st.DataObject) -> None:
    content = encoded(values, inode=1)
    with pytest.raises(DamagedMapError):
        decode(content[: data.draw(st.integers(0, len(content) - 1))], IDENTITY, len(values), SIZE, sealed=True)


@given(records.filter(bool), st.data())
def test_sum_with_a_flipped_bit_is_not_believed(values: list[int | None], data: st.DataObject) -> None:
    content = bytearray(encoded(values, inode=1, mtime_ns=2))
    offsets = [*range(HEADER.size + CRC.size), *range(PAGE, len(content))]  # the page's rest says nothing
    offset = data.draw(st.sampled_from(offsets))
    content[offset] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedMapError):
        decode(bytes(content), IDENTITY, len(values), SIZE, sealed=True)


@given(records.filter(bool), st.data())
def test_map_with_a_flipped_bit_never_makes_a_missing_block_present(
    values: list[int | None], data: st.DataObject
) -> None:
    content = bytearray(encoded(values))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        _, block_map = decode(bytes(content), IDENTITY, len(values), SIZE, sealed=False)
    except DamagedMapError:
        return
    assert all(value is None for value, was in zip(values_of(block_map), values, strict=True) if was is None)


@given(st.binary(max_size=3 * PAGE))
def test_garbage_is_no_map(content: bytes) -> None:
    with pytest.raises(DamagedMapError):
        decode_header(content)


@pytest.mark.parametrize(
    ("identity", "count", "size"),
    [("ff" * 20, 3, SIZE), (IDENTITY, 4, SIZE), (IDENTITY, 3, SIZE + 1)],
    ids=["identity", "number of blocks", "size"],
)
@pytest.mark.parametrize("sealed", [False, True])
def test_map_of_another_segment_is_refused(identity: str, count: int, size: int, *, sealed: bool) -> None:
    content = encoded([1, None, 3], inode=int(sealed))
    with pytest.raises(DamagedMapError, match="describes"):
        decode(content, identity, count, size, sealed=sealed)


def test_unknown_format_is_refused() -> None:
    content = bytearray(encoded([1]))
    content[8] += 1
    with pytest.raises(DamagedMapError, match="no known format"):
        decode_header(bytes(content))
