"""What is fetched beyond the wanted bytes: streams are followed, random reads are left alone."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.blocks import BLOCK, RUN
from dsfs.model.readahead import BEHIND, GAP, MIB, Advice, Stream, stripe_bytes

LIMIT = 32 * RUN
GIB = 1024 * MIB

reads = st.lists(
    st.tuples(st.one_of(st.integers(0, GIB), st.integers(0, 64).map(lambda n: n * BLOCK)), st.integers(1, MIB)),
    max_size=60,
)


def follow(stream: Stream, offsets: list[int], limit: int = LIMIT, size: int = BLOCK) -> list[Advice]:
    """READs at these offsets, each advice carried out."""
    given_advice = []
    for offset in offsets:
        advice = stream.observe(offset, size, limit)
        if advice.until > advice.ahead:
            stream.reached(advice.until)
        given_advice.append(advice)
    return given_advice


@given(reads, st.integers(0, 64).map(lambda runs: runs * RUN))
def test_window_and_advice_stay_within_their_bounds(reads: list[tuple[int, int]], limit: int) -> None:
    stream = Stream()
    for offset, size in reads:
        advice = stream.observe(offset, size, limit)
        assert stream.window == 0 or RUN <= stream.window <= max(limit, RUN)
        assert advice.run_bytes <= RUN
        if advice.until > advice.ahead:
            assert advice.ahead >= stream.end
            assert advice.until <= stream.end + stream.window
            stream.reached(advice.until)
        else:
            assert (advice.ahead, advice.until) == (0, 0)


@given(reads)
def test_random_access_asks_only_for_what_is_wanted(reads: list[tuple[int, int]]) -> None:
    """Far from what came before, whatever that was."""
    stream = Stream()
    for offset, size in reads:
        is_far = offset > stream.end + GAP or offset < stream.end - max(stream.window, BEHIND)
        advice = stream.observe(offset, size, LIMIT)
        if is_far:
            assert advice == Advice(size, 0, 0)
            assert stream.window == 0


def test_peek_at_the_header_starts_no_stream() -> None:
    assert Stream().observe(0, 4096, LIMIT) == Advice(4096, 0, 0)


def test_whole_block_at_the_start_starts_a_stream() -> None:
    advice = Stream().observe(0, BLOCK, LIMIT)
    assert (advice.ahead, advice.until) == (BLOCK, BLOCK + RUN)


def test_sequential_stream_grows_to_its_limit_and_skips_nothing() -> None:
    stream = Stream()
    reached = 0
    for offset in range(0, 128 * MIB, BLOCK):
        advice = stream.observe(offset, BLOCK, LIMIT)
        if advice.until > advice.ahead:
            assert advice.ahead == max(reached, offset + BLOCK)
            reached = advice.until
            stream.reached(reached)
        assert reached >= offset + BLOCK
    assert stream.window == LIMIT
    assert reached - 128 * MIB > LIMIT - 2 * RUN


def test_old_stream_asks_for_whole_runs_on_their_grid() -> None:
    advised = [advice for advice in follow(Stream(), list(range(0, 64 * MIB, BLOCK))) if advice.until > advice.ahead]
    for advice in advised[4:]:
        assert advice.run_bytes == RUN
        assert advice.until % RUN == 0
        assert advice.until - advice.ahead >= RUN


@given(st.integers(0, 2**32), st.integers(1, 8))
def test_stream_whose_reads_come_out_of_order_keeps_its_window(seed: int, parallel: int) -> None:
    random = Random(seed)
    offsets = [*range(0, 16 * MIB, BLOCK)]
    shuffled = []
    for start in range(0, len(offsets), parallel):
        group = offsets[start : start + parallel]
        random.shuffle(group)
        shuffled += group
    stream = Stream()
    windows = []
    for offset in shuffled:
        follow(stream, [offset])
        windows.append(stream.window)
    assert windows == sorted(windows)
    assert windows[0] >= RUN
    assert windows[-1] == LIMIT


def test_stream_that_reads_again_what_lies_in_its_window_keeps_it() -> None:
    stream = Stream()
    follow(stream, list(range(0, 64 * MIB, BLOCK)))
    window = stream.window
    assert follow(stream, [64 * MIB - window + BLOCK])[0].until == 0
    assert stream.window == window


def test_jump_ends_a_stream_and_the_next_reads_start_another() -> None:
    stream = Stream()
    follow(stream, list(range(0, 32 * MIB, BLOCK)))
    assert follow(stream, [500 * MIB]) == [Advice(BLOCK, 0, 0)]
    advice = follow(stream, [500 * MIB + BLOCK])[0]
    assert stream.window == RUN
    assert (advice.ahead, advice.until) == (500 * MIB + 2 * BLOCK, 500 * MIB + 2 * BLOCK + RUN)


def test_what_was_refused_for_want_of_memory_is_asked_for_again_once_it_is_near() -> None:
    stream = Stream()
    advice = stream.observe(0, BLOCK, LIMIT)
    stream.reached(advice.ahead + MIB)
    later = [stream.observe(offset, BLOCK, LIMIT) for offset in range(BLOCK, 2 * MIB, BLOCK)]
    assert any(advice.until for advice in later)


def test_stripe_grows_with_evidence() -> None:
    assert stripe_bytes(0, previous_in_use=False) == stripe_bytes(1, previous_in_use=False) == MIB
    assert stripe_bytes(2, previous_in_use=False) == 0  # all of the pack
    assert stripe_bytes(1, previous_in_use=True) == 0
