"""The arithmetic of the benchmark, its reading of logs, and its keeping of records."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import compare, data, lister, loads, reader, records, report
from bench.accesslog import parse
from bench.errors import BenchError
from bench.figures import ratio, short, spread
from bench.lister import Bucket, Listed
from bench.loads import Load, Outcome
from bench.records import Record, Result, Sample
from bench.scenarios import SCENARIOS, Step, cost
from bench.subjects import SUBJECTS

SIZES = data.Sizes(big_bytes=1 << 20, small_files=45, small_bytes=1000, tree_files=410, random_reads=10)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the datasets of a small data set begin; not to be changed."""
    return data.make(tmp_path_factory.mktemp("data"), SIZES) / data.BUCKET / data.PREFIX


def sample(value: float, **other: float) -> Sample:
    fields: dict[str, float] = dict.fromkeys(Sample.__dataclass_fields__, 0)
    return Sample(**(fields | {"value": value} | other))  # type: ignore[arg-type]


def result(subject: str, values: list[float], distance: str = "fast", **other: str) -> Result:
    fields = {"scenario": "s", "step": "step", "cache": "cold", "unit": "MB/s", "direction": "higher"}
    fields |= {"cost_unit": "s/GiB"} | other
    samples = [sample(value, cost=1.5, gets=4, read_bytes=10, data_bytes=20) for value in values]
    return Result(**fields, distance=distance, subject=subject, samples=samples)  # type: ignore[arg-type]


def record(
    results: list[Result], date: str = "2026-01-02T030405Z", cores: int = 2, **settings: object
) -> Record:
    machine: dict[str, object] = {
        "cpu": "c",
        "cores": cores,
        "memory_gib": 4,
        "architecture": "a",
        "kernel": "k",
    }
    return Record(date, "abc", machine, {"python": "3"}, {"repeat": 5} | settings, results)


def test_spread_is_median_and_extremes() -> None:
    found = spread([3, 1, 2])
    assert found is not None
    assert (found.median, found.low, found.high) == (2, 1, 3)
    assert spread([]) is None


@pytest.mark.parametrize(("direction", "expected"), [("higher", 2.0), ("lower", 0.5)])
def test_ratio_above_one_always_means_better(direction: str, expected: float) -> None:
    assert ratio(20, 10, direction) == expected  # type: ignore[arg-type]


def test_ratio_with_nothing_is_unknown() -> None:
    assert ratio(0, 1, "higher") is None
    assert ratio(1, 0, "lower") is None


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6))
def test_ratios_of_the_two_directions_are_inverse(one: float, other: float) -> None:
    higher, lower = ratio(one, other, "higher"), ratio(one, other, "lower")
    assert higher is not None
    assert lower is not None
    assert higher * lower == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_short_keeps_three_digits(value: float, text: str) -> None:
    assert short(value) == text


LOG = """\
7001 GET 206 4096 /lake/datasets/big/v1/big.bin
7001 GET 200 100 /lake/datasets/tree/v1/a?x-id=GetObject
7001 HEAD 200 0 /lake/datasets/big/v1/big.bin
7001 GET 200 9999 /lake?list-type=2&prefix=datasets%2F
7001 GET 200 9999 /lake/?prefix=a/b&list-type=2
7001 GET 404 50 /lake/nothing
7001 GET 200 70 /lake?location
7002 GET 200 4096 /lake/datasets/big/v1/big.bin
"""


def test_log_counts_by_kind_and_port() -> None:
    near = parse(LOG.splitlines(keepends=True), 7001)
    assert (near.gets, near.heads, near.lists, near.others, near.failed) == (2, 1, 2, 1, 1)
    assert near.data_bytes == 4196
    assert parse(LOG.splitlines(), 7002).gets == 1


def test_unknown_log_line_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        parse(["what is this"], 7001)


def all_pages(bucket: Bucket, prefix: str, delimiter: str, max_keys: int) -> tuple[list[str], list[str]]:
    keys: list[str] = []
    prefixes: list[str] = []
    after = ""
    while True:
        page = bucket.page(prefix, delimiter, after, max_keys)
        assert len(page.objects) + len(page.prefixes) <= max_keys
        keys += [listed.key for listed in page.objects]
        prefixes += page.prefixes
        if page.next_token is None:
            return keys, prefixes
        after = page.next_token


KEYS = st.lists(st.text(st.sampled_from("ab/é\U0001f600"), min_size=1, max_size=6), unique=True)


@given(KEYS, st.text(st.sampled_from("ab/"), max_size=2), st.sampled_from(["", "/"]), st.integers(1, 4))
def test_pages_together_hold_every_key_once_in_byte_order(
    keys: list[str], prefix: str, delimiter: str, max_keys: int
) -> None:
    bucket = Bucket([Listed(key, 1, 0) for key in keys])
    below = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
    deeper = [key for key in below if delimiter and delimiter in key[len(prefix) :]]
    found, prefixes = all_pages(bucket, prefix, delimiter, max_keys)
    assert found == [key for key in below if key not in deeper]
    ends = {key: key.find(delimiter, len(prefix)) + 1 for key in deeper}
    assert prefixes == list(dict.fromkeys(key[: ends[key]] for key in deeper))


def test_listing_document_escapes_keys() -> None:
    document = lister.answer("lake", Bucket([Listed("a&b <c>", 5, 0)]), {"prefix": "a&"})
    assert "<Key>a&amp;b &lt;c&gt;</Key>" in document
    assert "<LastModified>1970-01-01T00:00:00.000Z</LastModified>" in document
    encoded = lister.answer("lake", Bucket([Listed("a&b <c>", 5, 0)]), {"encoding-type": "url"})
    assert "<Key>a%26b%20%3Cc%3E</Key>" in encoded


def test_data_is_the_same_every_time_and_made_once(tmp_path: Path) -> None:
    root = data.make(tmp_path / "one", SIZES)
    again = data.make(tmp_path / "two", SIZES)
    base, other = (path / data.BUCKET / data.PREFIX for path in (root, again))
    files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file())
    assert len(files) == 1 + SIZES.small_files + SIZES.tree_files
    assert all((base / file).read_bytes() == (other / file).read_bytes() for file in files)
    assert (
        len({(base / data.SMALL / name).read_bytes() for name in data.small_paths(SIZES)})
        == SIZES.small_files
    )
    (base / data.BIG).write_bytes(b"kept")
    assert data.make(tmp_path / "one", SIZES) == root
    assert (base / data.BIG).read_bytes() == b"kept"


def test_incomplete_data_is_made_anew(tmp_path: Path) -> None:
    root = data.make(tmp_path, SIZES)
    (root / ".complete").unlink()
    big = data.make(tmp_path, SIZES) / data.BUCKET / data.PREFIX / data.BIG
    assert big.stat().st_size == SIZES.big_bytes


@pytest.mark.parametrize(
    "load", sorted({step.load for scenario in SCENARIOS for step in scenario.steps}, key=repr)
)
def test_every_load_reads_what_there_is(load: Load, truth: Path) -> None:
    outcome = loads.run(load, truth, SIZES)
    assert outcome.seconds > 0
    assert outcome.read_bytes == loads.expected_bytes(load, SIZES)
    loads.verify(load, truth, truth)


def test_missing_bytes_are_an_error(tmp_path: Path) -> None:
    base = data.make(tmp_path, SIZES) / data.BUCKET / data.PREFIX
    (base / data.SMALL / data.small_paths(SIZES)[7]).write_bytes(b"short")
    with pytest.raises(BenchError, match="read 44005 bytes instead of 45000"):
        loads.run(Load("files", readers=3), base, SIZES)


def test_wrong_bytes_are_an_error(truth: Path, tmp_path: Path) -> None:
    base = data.make(tmp_path, SIZES) / data.BUCKET / data.PREFIX
    (base / data.BIG).write_bytes(bytes(SIZES.big_bytes))
    with pytest.raises(BenchError, match="differ"):
        loads.verify(Load("sequential"), base, truth)
    (base / data.TREE / "more").touch()
    with pytest.raises(BenchError, match="names differ"):
        loads.verify(Load("walk"), base, truth)


def test_random_offsets_are_whole_pages_and_repeat() -> None:
    offsets = reader.random_offsets(10 * 4096, 50)
    assert offsets == reader.random_offsets(10 * 4096, 50)
    assert {offset % 4096 for offset in offsets} == {0}
    assert max(offsets) <= 9 * 4096


def test_step_names_are_unique_and_scenarios_begin_cold() -> None:
    names = [step.name for scenario in SCENARIOS for step in scenario.steps]
    assert len(names) == len(set(names))
    assert {scenario.steps[0].cache for scenario in SCENARIOS} == {"cold"}


def test_readme_explains_every_scenario() -> None:
    text = report.README.read_text()
    assert [scenario.name for scenario in SCENARIOS if f"| `{scenario.name}` |" not in text] == []


@pytest.mark.parametrize(
    ("unit", "value", "amount", "cost_unit"),
    [
        ("MB/s", 2, 1024, "s/GiB"),
        ("files/s", 5, 1000 / 45, "ms/file"),
        ("reads/s", 5, 100, "ms/read"),
        ("s", 2, 1, "s"),
    ],
)
def test_value_and_cost_follow_the_unit(unit: str, value: float, amount: float, cost_unit: str) -> None:
    step = Step("x", Load("sequential"), "cold", unit)  # type: ignore[arg-type]
    assert step.value(Outcome(seconds=2, operations=10, read_bytes=4_000_000)) == value
    found, found_unit = cost(step, SIZES, 1.0)
    assert found == pytest.approx(amount)
    assert found_unit == cost_unit
    assert step.direction == ("lower" if unit == "s" else "higher")


def test_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = record([result("dsfs", [1, 2])], memory="512MiB")
    path = records.write(written, tmp_path / "results")
    assert path.name == "2026-01-02T030405Z-abc.json"
    assert records.read(path) == written
    assert records.stored(tmp_path / "results") == [path]


def test_record_is_never_overwritten(tmp_path: Path) -> None:
    path = records.write(record([]), tmp_path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        records.write(record([result("dsfs", [1])]), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["[", "{}", json.dumps({"format": 99}), json.dumps({"format": 1, "results": []})]
)
def test_file_that_is_no_record_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(BenchError):
        records.read(tmp_path / "x.json")


def test_records_of_other_machines_or_settings_are_not_compared() -> None:
    mine = record([], memory="512MiB")
    assert records.comparable(mine, record([], memory="512MiB", repeat=1))
    assert not records.comparable(mine, record([], memory="1GiB"))
    assert not records.comparable(mine, record([], cores=4, memory="512MiB"))


def test_predecessor_is_the_last_comparable_record_before(tmp_path: Path) -> None:
    dates = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]
    for date, cores in zip(dates, (2, 2, 4, 2), strict=True):
        records.write(record([], date=date, cores=cores), tmp_path)
    found = compare.predecessor(record([], date="2026-01-04"), records.stored(tmp_path))
    assert found is not None
    assert found.date == "2026-01-02"
    assert compare.predecessor(record([], date="2026-01-01"), records.stored(tmp_path)) is None


@pytest.mark.parametrize(
    ("before", "now", "direction", "verdict"),
    [
        ([10, 11, 12], [20, 21, 22], "higher", "better"),
        ([10, 11, 12], [20, 21, 22], "lower", "worse"),
        ([10, 11, 30], [20, 21, 22], "higher", "same"),  # the ranges overlap
        ([10, 10, 10], [11, 11, 11], "higher", "same"),  # within the noise
        ([10, 10], [90, 90, 90], "higher", "unknown"),  # too few rounds
        ([], [11], "higher", "unknown"),
    ],
)
def test_a_change_must_exceed_noise_and_spread_in_enough_rounds(
    before: list[float], now: list[float], direction: str, verdict: str
) -> None:
    assert compare.judge(before, now, direction)[1] == verdict  # type: ignore[arg-type]


def test_changes_pair_results_of_the_same_step_distance_and_subject() -> None:
    old = record([result("dsfs", [10] * 3), result("dsfs", [5] * 3, "far"), result("rclone", [7])])
    new = record([result("dsfs", [20] * 3), result("dsfs", [4] * 3, "far"), result("native", [9], "local")])
    found = {(change.subject, change.distance): change.verdict for change in compare.changes(old, new)}
    assert found == {("dsfs", "fast"): "better", ("dsfs", "far"): "worse"}


def test_table_shows_medians_spread_ratios_and_failures() -> None:
    failed = result("rclone", [])
    failed.errors.append("it did not mount")
    native = result("native", [40], "local")
    text = report.table(record([native, result("dsfs", [10, 20, 30]), failed, result("dsfs", [5], "far")]))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert rows[0] == ["", "native", "dsfs", "rclone", "dsfs : native", "dsfs : rclone"]
    assert ["step, fast, MB/s", "40.0", "20.0 (10.0 to 30.0)", "failed", "0.500", ""] in rows
    assert ["step, far, MB/s", "40.0", "5.00", "", "0.125", ""] in rows
    assert ["daemon CPU, s/GiB", "", "1.50", "", "", ""] in rows
    assert ["origin GET + HEAD + LIST", "", "4 + 0 + 0", "", "", ""] in rows
    assert ["bytes fetched / bytes read", "", "2.00", "", "", ""] in rows


def test_every_subject_has_a_column() -> None:
    assert set(report.LAYOUTS["disk"].shown) == set(SUBJECTS)


@pytest.mark.parametrize("suite", report.LAYOUTS)
def test_readme_keeps_what_stands_around_the_markers(suite: str, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    layout = report.LAYOUTS[suite]
    readme.write_text(f"before\n{layout.begin}\nold\n{layout.end}\nafter\n")
    for _ in range(2):
        report.update_readme(replace(record([result("dsfs", [10])]), suite=suite), readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("step, fast, MB/s") == 1
    readme.write_text("no markers")
    with pytest.raises(BenchError, match="markers"):
        report.update_readme(record([]), readme)
