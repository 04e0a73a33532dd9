"""One segment used by many threads at once, as the backing pool uses it."""

import errno
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.blocks import BLOCK, RUN, BlockTable, PackBlocks, UniformBlocks
from dsfs.model.errors import BlockLostError
from dsfs.storage import blockmap, faultpoint
from dsfs.storage.filesystem import DirectFile
from dsfs.storage.presence import TRUSTED
from dsfs.storage.segment import SegmentFile, State
from tests.engine.segment_sample import Sample, flip, medium, page_aligned, touch

TABLES: dict[str, BlockTable] = {
    "large": UniformBlocks(7 * BLOCK + 77),
    "pack": PackBlocks([100, 5000, 4096, 60_000, 1, 8192, 12_345, 4095]),
}
ROUNDS = 15
WAIT_S = 30


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=sorted(TABLES))
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sample]:
    with medium("tmpfs", tmp_path) as folder:
        made = Sample(folder, TABLES[request.param])
        yield made
        made.close()


def together(*works: Callable[[], object]) -> None:
    """Run them at once, each in a thread of its own; the first error is raised."""
    barrier = threading.Barrier(len(works))

    def start(work: Callable[[], object]) -> None:
        barrier.wait(WAIT_S)
        work()

    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(start, work) for work in works]:
            future.result(WAIT_S)


def fill_and_try_to_seal(sample: Sample, file: SegmentFile, first: int, end: int) -> None:
    sample.fill(file, first, end)
    file.seal()


def read_all(sample: Sample, file: SegmentFile) -> None:
    """Whatever counts as resident is right, whatever state the segment comes to meanwhile."""
    for block in range(len(sample.blocks)):
        if file.presence[block]:
            try:
                got = sample.read(file, block, block + 1)
            except BlockLostError:
                continue
            assert got == sample.bytes_of(block)


def test_concurrent_fills_and_reads_end_in_one_right_seal(sample: Sample) -> None:
    count = len(sample.blocks)
    for _ in range(ROUNDS):
        file = sample.file()
        fills = [partial(fill_and_try_to_seal, sample, file, block, block + 2) for block in range(0, count, 2)]
        together(*fills, *[partial(read_all, sample, file)] * 4)
        assert file.state is State.SEALED  # the last of the writers sealed it
        assert file.read_sealed(0, sample.blocks.size) == sample.content
        file.drop()


def test_same_blocks_filled_twice_at_once_are_sealed_right_and_trusted(sample: Sample) -> None:
    """A forced fetch writes what another run wrote already: its late write must not break the seal."""
    count = len(sample.blocks)
    for _ in range(ROUNDS):
        file = sample.file()
        sample.fill(file, 1, count)
        together(*[partial(fill_and_try_to_seal, sample, file, 0, 3)] * 4, file.seal)
        assert file.state is State.SEALED
        sample.close()
        file = sample.file()
        assert file.state is State.SEALED  # and not: "was changed after it was sealed"
        file.drop()


@pytest.mark.expects_log("was changed after it was sealed")
@pytest.mark.parametrize("is_first", [True, False])
def test_seal_leaves_alone_what_another_node_has_taken_back_in_the_middle_of_it(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    """Somebody wrote late to what was just sealed, by this node or by another that was first."""
    file = sample.file()
    sample.fill(file, 0, len(sample.blocks))

    def interfere(point: str) -> None:
        if point == "segment.sum_written" and not is_first:  # as where the file system has no locks
            sample.path.hardlink_to(sample.beside(".part"))
            sample.beside(".map").unlink()
            sample.beside(".part").unlink()
        if point == "segment.linked":
            monkeypatch.setattr(faultpoint, "hook", None)
            touch(sample.path)
            assert sample.file().state is State.FILLING

    monkeypatch.setattr(faultpoint, "hook", interfere)
    file.seal()
    assert sample.names() == {".part", ".map"}
    sample.close()
    file = sample.file()
    assert file.is_complete
    assert file.seal()
    assert file.read_sealed(0, sample.blocks.size) == sample.content


@pytest.mark.parametrize("point", ["segment.read_map", "segment.open_map"])
@pytest.mark.parametrize("is_begun", [True, False])
def test_filling_that_another_node_seals_while_it_is_opened_is_no_fault_of_the_medium(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, point: str, *, is_begun: bool
) -> None:
    """Over NFSv3 what is open is stale then, and a fault would have all fills pause."""
    if is_begun:
        sample.partly_filled()
        sample.close()
    file = sample.closed_file()

    def be_stale(reached: str) -> None:
        if reached == point:
            monkeypatch.setattr(faultpoint, "hook", None)
            raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(faultpoint, "hook", be_stale)
    with suppress(BlockLostError):  # a miss, if nothing was there before
        sample.fill(file, 0, 1)
    assert faultpoint.hook is None
    sample.complete(file)


@pytest.mark.expects_log("has no usable checksums")
def test_seal_whose_checksums_another_node_removes_costs_no_block(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It unseals the file, and comes to the removal of the `.sum` only when this node has sealed it once more."""
    file = sample.file()
    sample.fill(file, 0, len(sample.blocks))

    def interfere(point: str) -> None:
        if point == "segment.linked":
            monkeypatch.setattr(faultpoint, "hook", None)
            sample.beside(".sum").unlink()

    monkeypatch.setattr(faultpoint, "hook", interfere)
    assert not file.seal()
    assert sample.names() == {".part", ".map"}
    assert file.is_complete
    sample.complete(file)


@pytest.mark.expects_log("was changed after it was sealed")
def test_what_is_taken_back_is_recorded_also_in_a_map_that_somebody_left(sample: Sample) -> None:
    """A node that found nothing, made an empty map, and ended when it saw the sealed file."""
    file = sample.partly_filled()
    header = sample.beside(".map").read_bytes()[: blockmap.position(0)]
    empty = header.ljust(blockmap.position(len(sample.blocks)), b"\0")
    sample.complete(file)
    sample.beside(".map").write_bytes(empty)
    touch(sample.path)
    assert sample.file().is_complete
    sample.close()
    file = sample.file()  # as after a crash
    assert file.is_complete
    sample.complete(file)


@pytest.mark.expects_log("was changed after it was sealed")
def test_what_two_nodes_take_back_at_once_is_not_lost(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.sealed()
    touch(sample.path)

    def be_first(point: str) -> None:
        if point == "segment.unseal":
            monkeypatch.setattr(faultpoint, "hook", None)
            sample.file()

    monkeypatch.setattr(faultpoint, "hook", be_first)
    file = sample.file()
    assert file.is_complete
    sample.complete(file)


def test_seal_waits_for_a_write_that_has_begun(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sample.file()
    sample.fill(file, 0, len(sample.blocks))
    answers: list[bool] = []

    def try_to_seal(point: str) -> None:
        if point == "segment.data" and not answers:
            answers.append(file.seal())

    with monkeypatch.context() as patch:
        patch.setattr(faultpoint, "hook", try_to_seal)
        sample.fill(file, 0, 1)
    assert answers == [False]
    assert file.seal()


def test_drops_among_fills_and_reads_leave_a_segment_that_can_be_completed(sample: Sample) -> None:
    def fill(file: SegmentFile, first: int) -> None:
        with suppress(BlockLostError):  # dropped under it
            fill_and_try_to_seal(sample, file, first, first + 2)

    for _ in range(ROUNDS):
        file = sample.file()
        fills = [partial(fill, file, block) for block in range(0, len(sample.blocks), 2)]
        together(*fills, file.drop, partial(read_all, sample, file), file.drop)
        file.check()
        read_all(sample, file)
        sample.complete(file)
        file.drop()


@pytest.mark.expects_log("segment .* was (changed after|removed)")
def test_sealed_segment_changed_under_many_readers_is_taken_back_once(
    sample: Sample, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(ROUNDS):
        file = sample.file()
        sample.complete(file)
        caplog.clear()
        touch(sample.path)
        together(*[partial(read_all, sample, file)] * 6)
        assert len([line for line in caplog.messages if "was changed after" in line]) == 1
        assert file.is_complete
        sample.complete(file)
        file.drop()


def test_readers_are_served_while_a_seal_checks_blocks(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """To check a large segment takes minutes: not under the lock."""
    sample.fill(sample.file(), 0, len(sample.blocks))
    sample.close()
    file = sample.file()
    checking, go_on = threading.Event(), threading.Event()
    sealer = threading.Thread(target=file.seal)

    def hold(point: str) -> None:
        if point == "segment.read" and threading.current_thread() is sealer:
            checking.set()
            assert go_on.wait(WAIT_S)

    monkeypatch.setattr(faultpoint, "hook", hold)
    sealer.start()
    assert checking.wait(WAIT_S)
    assert sample.read(file, 1, 2) == sample.bytes_of(1)
    sample.fill(file, 0, 1)
    assert file.presence[0] == TRUSTED
    go_on.set()
    sealer.join(WAIT_S)
    assert file.state is State.SEALED
    assert file.read_sealed(0, sample.blocks.size) == sample.content


def test_block_is_present_in_every_moment_of_a_seal(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds it missing would fetch it again."""
    file = sample.file()
    sample.fill(file, 0, len(sample.blocks))
    seen: list[bool] = []
    monkeypatch.setattr(faultpoint, "hook", lambda point: seen.append(file.is_complete))
    assert file.seal()
    assert len(seen) > 10
    assert all(seen)


def test_read_that_was_overtaken_by_the_seal_is_served(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sample.file()
    sample.fill(file, 0, len(sample.blocks))
    length = sample.blocks.length(1)
    buffer = page_aligned(length)

    def seal(point: str) -> None:
        if point == "segment.read":
            monkeypatch.setattr(faultpoint, "hook", None)
            assert file.seal()

    monkeypatch.setattr(faultpoint, "hook", seal)
    file.read_filling(1, 2, buffer)
    assert bytes(buffer[:length]) == sample.bytes_of(1)


# ---------------------------------------------------------------- while a seal checks blocks


@pytest.fixture
def long(tmp_path: Path) -> Iterator[Sample]:
    """Complete but not checked, and so long that a seal checks it in two reads."""
    with medium("tmpfs", tmp_path) as folder:
        made = Sample(folder, UniformBlocks(RUN + BLOCK))
        for first, end in ((0, RUN // BLOCK), (RUN // BLOCK, RUN // BLOCK + 1)):
            made.fill(made.file(), first, end)
        made.close()
        yield made
        made.close()


def after_read(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], object]) -> None:
    """Do something when the n-th read of data is done, but what it got is not judged yet."""
    read = DirectFile.read
    numbers = count(1)

    def reading(data: DirectFile, buffer: memoryview, length: int, offset: int) -> int:
        got = read(data, buffer, length, offset)
        if next(numbers) == number:
            what()
        return got

    monkeypatch.setattr(DirectFile, "read", reading)


@pytest.mark.expects_log("segment .* block 0 is not what was written")
@pytest.mark.parametrize("is_noticed", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_block_flipped_after_it_was_checked_is_not_sealed(
    long: Sample, monkeypatch: pytest.MonkeyPatch, number: int, *, is_noticed: bool
) -> None:
    file = long.file()

    def spoil() -> None:
        flip(long.beside(".part"), 10)
        if is_noticed:  # by a write of another thread, which goes on with the changed file
            long.fill(file, RUN // BLOCK, RUN // BLOCK + 1)

    after_read(monkeypatch, number, spoil)
    assert not file.seal()
    assert not file.seal()
    assert not file.presence[0]
    long.complete(file)


@pytest.mark.expects_log("segment .* block 0 is not what was written")
def test_block_that_was_bad_when_it_was_read_and_is_filled_again_when_it_is_judged_stays(
    long: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nobody would fetch it: its reader has had it, and the segment would be sealed at the next read only."""
    file = long.file()
    flip(long.beside(".part"), 10)

    def fetch_again() -> None:
        with pytest.raises(BlockLostError):
            long.read(file, 0, 1)
        long.fill(file, 0, 1)

    after_read(monkeypatch, 1, fetch_again)
    assert not file.seal()
    assert file.is_complete
    assert file.seal()
    long.complete(file)


def test_write_that_begins_while_a_seal_checks_keeps_it_from_sealing(
    long: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = long.file()
    writing, go_on = threading.Event(), threading.Event()
    writer = threading.Thread(target=long.fill, args=(file, 0, 1))

    def hold(point: str) -> None:
        if point == "segment.data" and threading.current_thread() is writer:
            writing.set()
            assert go_on.wait(WAIT_S)

    def begin_to_write() -> None:
        writer.start()
        assert writing.wait(WAIT_S)

    monkeypatch.setattr(faultpoint, "hook", hold)
    after_read(monkeypatch, 2, begin_to_write)
    assert not file.seal()
    go_on.set()
    writer.join(WAIT_S)
    assert file.seal()
    long.complete(file)
