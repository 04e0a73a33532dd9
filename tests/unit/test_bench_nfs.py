"""The arithmetic of the benchmark of several nodes, and what it runs on them."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench import data, records, report
from bench.accesslog import LOG_FORMAT, traffic
from bench.loads import Outcome
from bench.nfs import together
from bench.nfs.content import LARGE, SMALL, Content
from bench.nfs.measures import APART, ONE, OURS, PLAIN, SUBJECTS
from bench.nfs.together import Reading
from bench.records import LOCAL, Record, Result, Sample

SIZES = data.Sizes(big_bytes=2 << 20, small_files=45, small_bytes=1000, tree_files=0, random_reads=0)


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return data.make(tmp_path / "data", SIZES) / data.BUCKET / data.PREFIX


@pytest.mark.parametrize(
    ("content", "value", "unit", "amount", "size_bytes", "cost", "cost_unit"),
    [
        (LARGE, 2.0, "MB/s", 2.0, 2 << 20, 512.0, "s/GiB"),
        (SMALL, 5.0, "files/s", 45, 45_000, 1000 / 45, "ms/file"),
    ],
)
def test_figures_are_counted_by_what_the_files_are(
    content: Content, value: float, unit: str, amount: float, size_bytes: int, cost: float, cost_unit: str
) -> None:
    assert (content.value(Outcome(seconds=2, operations=10, read_bytes=4_000_000)), content.unit) == (value, unit)
    assert (content.amount(SIZES), content.size_bytes(SIZES)) == (amount, size_bytes)
    assert content.cost(SIZES, 1.0) == pytest.approx(cost)
    assert content.cost_unit == cost_unit


def test_the_slowest_of_all_nodes_counts_from_the_first_start() -> None:
    outcome = Outcome(1, 1, 1)
    assert together.seconds_of_all([Reading(10.5, 12, outcome), Reading(10, 11, outcome)]) == 2


def test_every_subject_has_a_column() -> None:
    assert report.LAYOUTS["nfs"].shown == SUBJECTS


def test_plain_copies_are_what_is_read(truth: Path, tmp_path: Path) -> None:
    for content in (LARGE, SMALL):
        together.copy_plainly(content.load, truth, tmp_path / "copy", SIZES)
        reading = together.read_at(0, content.load, tmp_path / "copy", SIZES)
        assert reading.outcome.read_bytes == content.size_bytes(SIZES)
        assert reading.start_s < reading.end_s


def test_the_sealed_segment_is_found_by_its_size(tmp_path: Path) -> None:
    segments = tmp_path / "backing-1" / "segments" / "ab"
    segments.mkdir(parents=True)
    (segments / "abc").write_bytes(bytes(100))
    (segments / "abc.sum").write_bytes(bytes(9))
    together.wait_sealed(tmp_path)
    assert together.sealed_file(tmp_path, 100) == segments / "abc"


def test_traffic_begins_at_the_mark(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    assert LOG_FORMAT.split()[0] == "$server_port"
    before = "80 GET 200 7 /lake/key\n"
    log.write_text(before + "80 GET 206 5 /lake/key\n81 GET 206 9 /lake/key\n")
    found = traffic(log, len(before), 80)
    assert (found.gets, found.data_bytes) == (1, 5)


def record_of_nodes() -> Record:
    def result(step: str, subject: str, value: float, unit: str, distance: str = LOCAL, **more: int) -> Result:
        sample = Sample(value, nfs={"READ": 3}, **more)
        return Result("s", step, "cold", distance, subject, unit, "lower", "s/GiB", [sample])

    machine: dict[str, object] = {"cpu": "c", "cores": 2, "memory_gib": 4, "kernel": "k"}
    values = [(OURS, 2.0, 4), (ONE, 1.0, 1), (APART, 8.0, 4)]
    results = [
        result("cold", name, value, "s", "far", gets=4, data_bytes=10, read_bytes=10 * nodes)
        for name, value, nodes in values
    ]
    results += [result("NFS requests", name, value, "1/MiB") for name, value in ((OURS, 2.0), (PLAIN, 1.0))]
    return Record("2026-01-02T030405Z", "abc", machine, {"python": "3"}, {"nodes": 4}, results, "nfs")


def test_table_of_nodes_compares_with_one_node_with_each_for_itself_and_with_plain_files() -> None:
    lines = report.table(record_of_nodes()).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    compared = [f"{OURS} : {name}" for name in (ONE, APART, PLAIN)]
    assert rows[0] == ["", OURS, ONE, APART, PLAIN, *compared]
    assert ["cold, far, s", "2.00", "1.00", "8.00", "", "0.500", "4.00", ""] in rows
    assert ["bytes fetched / bytes read", "0.250", "1.00", "0.250", "", "", "", ""] in rows
    assert ["NFS requests, 1/MiB", "2.00", "", "", "1.00", "", "", "0.500"] in rows


def test_record_of_nodes_comes_back_and_is_compared_with_its_like_only(tmp_path: Path) -> None:
    written = record_of_nodes()
    assert records.read(records.write(written, tmp_path)) == written
    assert records.comparable(written, written)
    assert not records.comparable(written, replace(written, suite="disk"))
