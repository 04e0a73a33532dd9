"""A segment whose n-th step fails, or is the last one of the process, for every n."""

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.blocks import pages
from dsfs.model.errors import BlockLostError
from dsfs.model.retention import Amount
from dsfs.storage import faultpoint
from dsfs.storage.filesystem import FileSystem
from dsfs.storage.segment import SegmentFile, State
from dsfs.storage.segmentnames import remove_all
from dsfs.storage.taken import room_below
from tests.engine.segment_sample import TABLES, Sample, flip, medium, touch
from tests.engine.stopping import DiedError, stopping_at

Act = Callable[[Sample, SegmentFile], None]


def attempt(step: Callable[[], object]) -> None:
    """As the cache does: a fault ends this step and nothing else."""
    with suppress(OSError, BlockLostError):
        step()


def fill_and_seal(sample: Sample, file: SegmentFile) -> None:
    last = len(sample.blocks)
    attempt(lambda: sample.fill(file, 0, 2))
    attempt(lambda: sample.fill(file, 2, last))
    attempt(file.seal)


def check_and_complete(sample: Sample, file: SegmentFile) -> None:
    attempt(lambda: sample.assert_right_or_lost(file))
    attempt(lambda: sample.fill_missing(file))
    attempt(file.seal)


def drop_and_fill(sample: Sample, file: SegmentFile) -> None:
    attempt(file.drop)
    attempt(lambda: sample.fill(file, 0, 1))


def opened_and(act: Act, sample: Sample) -> SegmentFile:
    file = sample.closed_file()
    attempt(file.open)
    act(sample, file)
    return file


def nothing(sample: Sample) -> None:
    """The segment is absent."""


def part_with_a_bad_block(sample: Sample) -> None:
    sample.partly_filled()
    flip(sample.beside(".part"), sample.blocks.offset(2))


def touched(sample: Sample) -> None:
    sample.sealed()
    touch(sample.path)


def flipped(sample: Sample) -> None:
    sample.sealed()
    flip(sample.path, 0)


def without_checksums(sample: Sample) -> None:
    sample.sealed()
    sample.beside(".sum").unlink()


def complete_but_not_sealed(sample: Sample) -> None:
    sample.fill(sample.file(), 0, len(sample.blocks))


SCENARIOS: dict[str, tuple[Callable[[Sample], object], Act]] = {
    "fill and seal": (nothing, fill_and_seal),
    "go on filling": (Sample.partly_filled, check_and_complete),
    "heal a part": (part_with_a_bad_block, check_and_complete),
    "seal after a restart": (complete_but_not_sealed, check_and_complete),
    "check a touched one": (touched, check_and_complete),
    "heal a sealed one": (flipped, check_and_complete),
    "drop one without checksums": (without_checksums, check_and_complete),
    "drop a sealed one": (Sample.sealed, drop_and_fill),
    "drop a part": (Sample.partly_filled, drop_and_fill),
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """On a tmpfs: on a disk each of the thousands of flushes takes its time, and the steps are the same."""
    with medium("tmpfs", tmp_path) as place:
        yield place


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Thousands of expected warnings are not worth their formatting."""
    logging.getLogger("dsfs.storage").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("dsfs.storage").setLevel(logging.NOTSET)


def prepared(folder: Path, step: int, prepare: Callable[[Sample], object]) -> Sample:
    # Packs and large segments by turns: the steps are the same, and there are many.
    sample = Sample(folder / str(step), TABLES["pack" if step % 2 else "large"])
    prepare(sample)
    sample.close()
    return sample


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_death_at_any_step_leaves_no_false_resident_block(folder: Path, scenario: str, *, torn: bool) -> None:
    prepare, act = SCENARIOS[scenario]
    for step in count(1):
        sample = prepared(folder, step, prepare)
        with stopping_at(step, DiedError(), torn=torn) as stop:
            opened_and(act, sample)
        sample.close()
        file = sample.file()
        sample.assert_right_or_lost(file)
        sample.complete(file)
        sample.close()
        sample.complete(sample.file())
        sample.close()
        if not stop.was_reached:
            assert step > 20
            break


def opened(sample: Sample) -> SegmentFile:
    """The open file: who could not look tries again, as the next read does."""
    try:
        return sample.file()
    except OSError:
        return sample.file()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_error_at_any_step_leaves_no_false_resident_block(folder: Path, scenario: str, number: int) -> None:
    prepare, act = SCENARIOS[scenario]
    for step in count(1):
        sample = prepared(folder, step, prepare)
        with stopping_at(step, OSError(number, "refused by the test")) as stop:
            act(sample, opened(sample))
        for file in (sample.file(), sample.file()):  # as a new process sees it, before and after the old one goes on
            sample.assert_right_or_lost(file)
        sample.close()
        file = sample.file()
        sample.complete(file)
        sample.close()
        if not stop.was_reached:
            assert step > 20
            break


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_process_goes_on_after_an_error_at_any_step(folder: Path, scenario: str, number: int) -> None:
    prepare, act = SCENARIOS[scenario]
    for step in count(1):
        sample = prepared(folder, step, prepare)
        with stopping_at(step, OSError(number, "refused by the test")) as stop:
            file = opened(sample)
            act(sample, file)
        file.check()
        sample.assert_right_or_lost(file)
        sample.complete(file)
        sample.close()
        sample.complete(sample.file())
        sample.close()
        if not stop.was_reached:
            break


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ESTALE])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_more_is_made_than_is_told_whatever_step_fails(folder: Path, scenario: str, number: int) -> None:
    """Beside the data, which is told by who fills it, and what was half made and could not be removed, as tidy does."""
    prepare, act = SCENARIOS[scenario]
    for step in count(1):
        sample = prepared(folder, step, prepare)
        with stopping_at(step, OSError(number, "refused by the test")) as stop:
            act(sample, opened(sample))
        sample.close()
        for path in sample.path.parent.glob("*.new-*"):
            path.unlink()
        beside_it = Amount(pages(sample.blocks.size), 1)  # and the folder of the sample
        there = room_below(sample.path.parent.parent)
        assert (sample.made + beside_it).covers(there), (step, there, sample.made)
        if not stop.was_reached:
            break


@pytest.mark.parametrize("prepare", [Sample.sealed, Sample.partly_filled])
def test_segment_that_cannot_be_looked_at_stays_closed_and_loses_nothing(
    folder: Path, prepare: Callable[[Sample], SegmentFile]
) -> None:
    for step in count(1):
        sample = prepared(folder, step, prepare)
        file = sample.closed_file()
        with stopping_at(step, OSError(errno.EIO, "refused by the test")) as stop:
            attempt(file.open)
        file.check()
        file.open()
        assert file.presence.resident == len(sample.blocks) - (prepare is Sample.partly_filled)
        sample.complete(file)
        sample.close()
        if not stop.was_reached:
            assert step > 3
            break


def test_death_while_a_touched_segment_is_taken_back_loses_no_block(folder: Path) -> None:
    for step in count(1):
        sample = prepared(folder, step, touched)
        with stopping_at(step, DiedError()) as stop:
            sample.file()
        sample.close()
        file = sample.file()
        sample.assert_right_or_lost(file)
        assert file.is_complete
        sample.close()
        if not stop.was_reached:
            assert step > 20
            break


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_flush_that_failed_is_not_believed_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The kernel tells of a lost page once only, so what was to be sealed is thrown away."""
    sample = Sample(tmp_path, TABLES["large"])
    complete_but_not_sealed(sample)
    file = sample.file()

    def refuse(fd: int) -> None:
        raise OSError(number, "lost")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(OSError, match="lost"):
            file.seal()
    assert not file.presence.resident
    assert not sample.names()
    sample.complete(file)
    sample.close()


@pytest.mark.parametrize("is_begun_anew", [False, True])
def test_stale_file_of_a_filling_is_a_miss_and_what_is_there_instead_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_begun_anew: bool
) -> None:
    """As NFSv3 says of a file that another node has removed."""
    sample = Sample(tmp_path, TABLES["large"])
    file = sample.partly_filled()
    remove_all(sample.path, FileSystem("ext4"))
    if is_begun_anew:
        sample.fill(sample.file(), 0, 1)

    def is_stale(point: str) -> None:
        if point == "segment.read":
            monkeypatch.setattr(faultpoint, "hook", None)
            raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(faultpoint, "hook", is_stale)
    with pytest.raises(BlockLostError):
        sample.read(file, 1, 2)
    assert file.state is (State.FILLING if is_begun_anew else State.ABSENT)
    assert file.presence.resident == is_begun_anew
    sample.close()
