"""Recorded traces: what is taken from strace's lines, and that the recordings of bench/simulate are what they say."""

from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from bench.errors import BenchError
from bench.simulate.cases import CASES
from bench.simulate.record import RECORDED, finished
from bench.simulate.recorded import FOLDER, FileRead, Recording, load, place, read, write

# Of tar, xargs and cat: strace 6.1 with the options of the recorder; only the folder had another name.
STRACE = """\
1795716243.260676 read(3</usr/lib/x86_64-linux-gnu/libpcre2-8.so.0.11.2>, ""..., 832) = 832
1795716243.262678 read(3</proc/filesystems>, "", 1024) = 0
1795715990.010197 read(3<pipe:[14786850]>, 0x7ffc490f0a60, 4) = ? ERESTARTSYS (To be restarted if SA_RESTART is set)
1795716243.264517 read(5</versions/0/03/c37a4a0e>, ""..., 4096) = 4096
1795716243.264572 read(5</versions/0/17/c6366a20>, ""..., 3584) = 3584
1795716243.264646 read(5</versions/0/17/c6366a20>, ""..., 512) = 512
1795716243.264767 read(5</versions/0/09/3875fe50>, ""..., 3584) = 3584
1795716243.265227 read(3</versions/0/13/7f0e3361>, ""..., 131072) = 4096
1795716243.265322 read(3</versions/0/13/7f0e3361>, "", 131072) = 0
1795716243.266775 read(3</versions/0/03/c37a4a0e>, ""..., 131072) = 4096
1795716243.266815 read(3</versions/0/03/c37a4a0e>, "", 131072) = 0
"""
FILES = {f"/versions/0/{name}": place for place, name in enumerate(["03/c37a4a0e", "09/3875fe50", "13/7f0e3361"])}
FILES["/versions/0/17/c6366a20"] = 3
SHUFFLED = [
    (name, job)
    for name, programs in RECORDED.items()
    for job, program in enumerate(programs)
    if "shuf" in program.command
]


def test_file_is_read_when_its_last_byte_is_and_as_often_as_that() -> None:
    assert list(finished(STRACE.splitlines(), FILES)) == [
        (1795716243.264517, 0),
        (1795716243.264646, 3),  # and 1 was not read to its end
        (1795716243.265227, 2),
        (1795716243.266775, 0),
    ]


def test_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    reads = (FileRead(0.0, 0, 1), FileRead(0.25, 1, 0), FileRead(1.5, 0, 0))
    recording = Recording(("made up", "job 0: tar"), (2, 1), reads)
    write(recording, tmp_path / "one")
    write(recording, tmp_path / "other")
    assert read(tmp_path / "one") == recording
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_recording_that_is_not_there_says_how_to_make_it() -> None:
    with pytest.raises(BenchError, match=r"nothing\.txt\.gz is missing: python -m bench\.simulate\.record nothing"):
        load("nothing")


def test_times_are_stretched_to_the_rate_of_the_first_job() -> None:
    first = [FileRead(i / 100, 0, i) for i in range(10)]
    jobs = Recording((), (10, 1), (*first, FileRead(0.045, 1, 0))).jobs(rate=0.1)
    (job, reads), (other, others) = jobs
    assert [(job.version, job.start_s), (other.version, other.start_s)] == [(0, 0.0), (1, pytest.approx(50.0))]
    assert job.end_s == reads[-1].at_s == pytest.approx(100.0)
    assert [one.segment for one in reads] == list(range(10))
    assert others[0].at_s == other.end_s


def test_small_version_is_read_in_the_recorded_order_of_its_files() -> None:
    recording = Recording(
        (), (4,), tuple(FileRead(float(i), 0, file) for i, file in enumerate((3, 1, 0, 2, 0, 2, 1, 3)))
    )
    assert sorted(recording.passes(range(3), 2, Random(1))) == [[0, 2, 1], [1, 0, 2]]
    with pytest.raises(BenchError, match="a version has 5 segments, and what was recorded 4 files"):
        recording.passes(range(5), 1, Random(1))


def test_every_recording_is_there_and_has_a_case() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {place(name).name for name in RECORDED}
    assert sum(case.is_recorded for case in CASES) >= len(RECORDED)


@pytest.mark.parametrize("name", RECORDED)
def test_programs_have_read_each_file_once_in_every_epoch(name: str) -> None:
    recording = load(name)
    assert recording.files == tuple(program.files for program in RECORDED[name])
    assert list(recording.reads) == sorted(recording.reads)
    for job, program in enumerate(RECORDED[name]):
        assert any(line.startswith(f"job {job}, ") and line.endswith(program.command) for line in recording.about)
        orders = recording.orders(job)
        assert len(orders) == program.epochs
        assert all(sorted(order) == list(range(program.files)) for order in orders)


@pytest.mark.parametrize(("name", "job"), SHUFFLED)
def test_epochs_that_are_shuffled_have_other_orders_each(name: str, job: int) -> None:
    orders = load(name).orders(job)
    assert len({tuple(order) for order in orders}) == len(orders)
    for one, other in pairwise(orders):  # two that chance has made have one place in common
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_epochs_in_order_have_all_the_same_one_which_is_not_that_of_the_names() -> None:
    orders = load("in-order").orders()
    assert all(order == orders[0] for order in orders)
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("name", [name for name, programs in RECORDED.items() if len(programs) == 2])
def test_second_job_begins_beside_the_first_and_what_counts_was_recorded(name: str) -> None:
    first, second = RECORDED[name]
    (job, reads), (other, _) = load(name).jobs(rate=1.0)
    begun_s = reads[second.begins * first.files].at_s
    assert abs(other.start_s - begun_s) < first.files / 10
    assert other.start_s < job.end_s
    if second.epochs == 1:  # a scan: the two epochs after its end, too
        assert reads[-1 - 2 * first.files].at_s > other.end_s
