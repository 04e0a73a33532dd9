"""Counters, gauges and histograms, and their text."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from dsfs.metrics import ORIGIN_ERRORS, Counter, Gauge, Histogram, Metrics, Registry
from dsfs.model import errors
from dsfs.model.errors import OriginError


def test_counter_loses_no_count_to_threads() -> None:
    counter = Counter("fill.bytes_total", "Bytes.")

    def count() -> None:
        for _ in range(5000):
            counter.add(2)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(count)
    assert counter.value() == 40_000


def test_text_is_what_prometheus_reads() -> None:
    registry = Registry()
    registry.declare(Counter("fill.bytes_total", "Bytes filled.")).add(5)
    errors = registry.declare(Counter("read.errors_total", "Errors, by errno\nname \\.", "errno"))
    errors.add(label='a"b\\c\nd')
    errors.add(2, label="EIO")
    registry.declare(Gauge("memory.used_bytes", "Bytes held.")).read_from(lambda: 0.5)
    assert registry.text().splitlines() == [
        "# HELP dsfs_fill_bytes_total Bytes filled.",
        "# TYPE dsfs_fill_bytes_total counter",
        "dsfs_fill_bytes_total 5",
        r"# HELP dsfs_read_errors_total Errors, by errno\nname \\.",
        "# TYPE dsfs_read_errors_total counter",
        'dsfs_read_errors_total{errno="EIO"} 2',
        r'dsfs_read_errors_total{errno="a\"b\\c\nd"} 1',
        "# HELP dsfs_memory_used_bytes Bytes held.",
        "# TYPE dsfs_memory_used_bytes gauge",
        "dsfs_memory_used_bytes 0.5",
    ]
    assert registry.text().endswith("\n")


def test_histogram_counts_what_is_at_most_each_bound() -> None:
    registry = Registry()
    histogram = registry.declare(Histogram("read.seconds", "Time.", (0.1, 1.0)))
    for value in (0.1, 0.5, 7):
        histogram.observe(value)
    assert registry.text().splitlines()[2:] == [
        'dsfs_read_seconds_bucket{le="0.1"} 1',
        'dsfs_read_seconds_bucket{le="1"} 2',
        'dsfs_read_seconds_bucket{le="+Inf"} 3',
        "dsfs_read_seconds_sum 7.6",
        "dsfs_read_seconds_count 3",
    ]


def test_gauge_with_a_label_has_a_sample_for_each_value() -> None:
    registry = Registry()
    registry.declare(Gauge("version.resident_bytes", "Bytes.", "version")).read_from(
        lambda: {"b/1": 2, "a/1": 1}
    )
    assert registry.text().splitlines()[2:] == [
        'dsfs_version_resident_bytes{version="a/1"} 1',
        'dsfs_version_resident_bytes{version="b/1"} 2',
    ]


@pytest.mark.expects_log("memory.used_bytes cannot be read")
def test_gauge_that_fails_does_not_hide_the_others() -> None:
    registry = Registry()
    registry.declare(Gauge("memory.used_bytes", "Bytes.")).read_from(lambda: 1 / 0)
    registry.declare(Gauge("memory.limit_bytes", "Bytes.")).read_from(lambda: 7)
    assert "dsfs_memory_limit_bytes 7\n" in registry.text()


def test_label_with_declared_values_has_no_other_and_counts_from_zero() -> None:
    counter = Counter("fill.skipped_bytes_total", "Bytes.", "reason", ("limit", "floor"))
    counter.add(5, label="floor")
    assert [(labels["reason"], value) for _, labels, value in counter.samples()] == [("floor", 5), ("limit", 0)]
    for label in ("cluster 0123", ""):
        with pytest.raises(ValueError, match="no reason that was declared"):
            counter.add(label=label)


def test_every_kind_of_origin_error_is_a_declared_one() -> None:
    kinds = {kind.kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, OriginError)}
    assert kinds == set(ORIGIN_ERRORS)


def test_gauge_whose_source_has_no_value_has_no_sample() -> None:
    gauge = Gauge("backing.free_bytes", "Bytes.")
    gauge.read_from(lambda: None)
    assert list(gauge.samples()) == []


def test_name_can_be_declared_only_once() -> None:
    registry = Registry()
    registry.declare(Counter("fill.bytes_total", "Bytes."))
    with pytest.raises(ValueError, match=r"fill\.bytes_total is declared twice"):
        registry.declare(Counter("fill.bytes_total", "Bytes."))


def test_every_metric_has_a_name_with_its_unit_and_one_sentence() -> None:
    for metric in Metrics().registry:
        assert re.fullmatch(r"[a-z]+\.[a-z_]*(total|bytes|seconds|nodes)", metric.name), metric.name
        assert (metric.type == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")
        assert metric.help.count(".") == 1
