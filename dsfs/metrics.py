"""Everything the daemon counts: declared once here, counted anywhere, given out as Prometheus text.

`Metrics` is the list; one instance per daemon is handed to those who count.  Counting is safe from every
thread and costs an uncontended lock.  Names here are those of the log and of the documents
("origin.bytes_total"); Prometheus sees them as dsfs_origin_bytes_total.
"""

import logging
import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)

# From a page-cache hit to the longest a reader waits by default.
SECONDS_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
OPERATIONS = ("list", "get")
ORIGIN_ERRORS = ("temporary", "refused", "no_bucket", "other")  # the kinds of OriginError
SKIPPED = ("limit", "floor", "share", "paused", "error", "slow", "dropped")


class Metric:
    """A name, what its value means in one sentence, and at most one label."""

    type = ""

    def __init__(self, name: str, help: str, label: str = "") -> None:
        self.name = name
        self.help = help
        self.label = label

    @property
    def exposed_name(self) -> str:
        return "dsfs_" + self.name.replace(".", "_")

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """(suffix of the name, labels, value) of every sample there is now."""
        raise NotImplementedError


class Counter(Metric):
    """A number that only grows while the daemon lives.

    `values` are all that its label may have, each counted from 0 on; without them any may occur, and few should.
    """

    type = "counter"

    def __init__(self, name: str, help: str, label: str = "", values: Sequence[str] = ()) -> None:
        super().__init__(name, help, label)
        self._lock = threading.Lock()
        self._is_open = bool(label and not values)
        self._values: dict[str, float] = dict.fromkeys(values or (() if label else ("",)), 0)

    def add(self, amount: float = 1, label: str = "") -> None:
        """Count `amount`; a counter with a label needs its value, ValueError if that is none of those declared."""
        with self._lock:
            if label not in self._values and not self._is_open:
                raise ValueError(f"{self.name}: {label!r} is no {self.label} that was declared")
            self._values[label] = self._values.get(label, 0) + amount

    def value(self, label: str = "") -> float:
        with self._lock:
            return self._values.get(label, 0)

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        with self._lock:
            values = sorted(self._values.items())
        return (("", {self.label: label} if self.label else {}, value) for label, value in values)


class Gauge(Metric):
    """A number that is asked for when somebody looks; without a source, or while that has none, there is no sample."""

    type = "gauge"

    def __init__(self, name: str, help: str, label: str = "") -> None:
        super().__init__(name, help, label)
        self._read: Callable[[], float | Mapping[str, float] | None] | None = None

    def read_from(self, read: Callable[[], float | Mapping[str, float] | None]) -> None:
        """Take the value from `read`, which must be quick: a number, one per value of the label, or None."""
        self._read = read

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        if self._read is None:
            return
        try:
            found = self._read()
        except Exception:
            # One gauge that fails must not hide all other figures.
            log.exception("gauge %s cannot be read", self.name)
            return
        if isinstance(found, Mapping):
            for label, value in sorted(found.items()):
                yield "", {self.label: label}, value
        elif found is not None:
            yield "", {}, found


class Histogram(Metric):
    """How values are distributed over fixed buckets."""

    type = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        super().__init__(name, help)
        self._bounds = tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        place = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[place] += 1
            self._sum += value

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        with self._lock:
            counts, total = list(self._counts), self._sum
        so_far = 0
        for bound, count in zip((*self._bounds, math.inf), counts, strict=True):
            so_far += count
            yield "_bucket", {"le": _number(bound)}, so_far
        yield "_sum", {}, total
        yield "_count", {}, so_far


MetricT = TypeVar("MetricT", bound=Metric)


class Registry:
    """The metrics of one daemon, in the order of their declaration."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}

    def declare(self, metric: MetricT) -> MetricT:
        """Add a metric; ValueError if its name is taken."""
        if metric.name in self._metrics:
            raise ValueError(f"the metric {metric.name} is declared twice")
        self._metrics[metric.name] = metric
        return metric

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._metrics.values())

    def text(self) -> str:
        """All samples in the Prometheus text format 0.0.4."""
        lines = []
        for metric in self:
            lines.append(f"# HELP {metric.exposed_name} {_escaped(metric.help)}")
            lines.append(f"# TYPE {metric.exposed_name} {metric.type}")
            for suffix, labels, value in metric.samples():
                pairs = ",".join(f'{name}="{_escaped(text, quote=True)}"' for name, text in labels.items())
                label_text = f"{{{pairs}}}" if pairs else ""
                lines.append(f"{metric.exposed_name}{suffix}{label_text} {_number(value)}")
        return "\n".join(lines) + "\n"


class Metrics:
    """The list of all metrics.  Units are in the names; `_total` counts since the daemon started."""

    def __init__(self) -> None:
        self.registry = Registry()
        declare = self.registry.declare
        self.directory_requests = declare(
            Counter("directory.requests_total", "Requests for the names of a directory that reached the daemon.")
        )
        self.read_requests = declare(Counter("read.requests_total", "Reads that reached the daemon."))
        self.read_bytes = declare(Counter("read.bytes_total", "Bytes given to readers by the daemon."))
        self.read_resident_bytes = declare(
            Counter("read.resident_bytes_total", "Bytes given to readers out of the backing directory.")
        )
        self.read_errors = declare(
            Counter("read.errors_total", "Reads that ended with an error, by errno name.", "errno")
        )
        self.read_seconds = declare(
            Histogram("read.seconds", "Time the daemon took to answer a read.", SECONDS_BUCKETS)
        )
        self.origin_requests = declare(
            Counter("origin.requests_total", "Requests sent to the origin, by operation.", "operation", OPERATIONS)
        )
        self.origin_errors = declare(
            Counter(
                "origin.errors_total",
                f"Requests to the origin that failed, by error: {', '.join(ORIGIN_ERRORS)}.",
                "error",
                ORIGIN_ERRORS,
            )
        )
        self.origin_retries = declare(
            Counter("origin.retries_total", "Requests sent once more after a failure.")
        )
        self.origin_bytes = declare(
            Counter("origin.bytes_total", "Bytes of objects received from the origin.")
        )
        self.fetch_seconds = declare(
            Histogram("fetch.seconds", "Time from a fetch's start to its last byte.", SECONDS_BUCKETS)
        )
        self.flight_joins = declare(
            Counter("flight.joins_total", "Wants of a block that joined a fetch already under way.")
        )
        self.claims_asked = declare(
            Counter("claims.asked_total", "Questions to the other nodes before a fetch, by answer.", "answer")
        )
        self.claims_ignored = declare(
            Counter("claims.ignored_total", "Fetches of what another node had claimed and did not fill in time.")
        )
        self.fill_bytes = declare(Counter("fill.bytes_total", "Bytes written into the backing directory."))
        self.fill_skipped_bytes = declare(
            Counter(
                "fill.skipped_bytes_total",
                f"Fetched bytes not written there, by reason: {', '.join(SKIPPED)}.",
                "reason",
                SKIPPED,
            )
        )
        self.seal_segments = declare(Counter("seal.segments_total", "Segments completed and sealed."))
        self.drop_bytes = declare(Counter("drop.bytes_total", "Bytes deleted by request."))
        self.evict_bytes = declare(
            Counter("evict.bytes_total", "Bytes that this node took away as the policy says, by rule.", "rule")
        )
        self.evict_deleted_bytes = declare(
            Counter("evict.deleted_bytes_total", "Bytes of what was taken away that this node deleted after the grace.")
        )
        self.evict_leaving_bytes = declare(
            Gauge("evict.leaving_bytes", "Bytes that were taken away, by any node, and are not deleted yet.")
        )
        self.evict_troubled_nodes = declare(
            Gauge("evict.troubled_nodes", "1 while who evicts cannot do all that has to be done (dsfs status), else 0.")
        )
        self.backing_errors = declare(
            Counter(
                "backing.errors_total", "Failed operations on the backing directory, by errno name.", "errno"
            )
        )
        self.backing_used_bytes = declare(
            Gauge("backing.used_bytes", "Bytes dsfs has in the backing directory, of all nodes together.")
        )
        self.backing_free_bytes = declare(
            Gauge("backing.free_bytes", "Free bytes of the file system of the backing directory.")
        )
        self.memory_used_bytes = declare(Gauge("memory.used_bytes", "Bytes held in buffers."))
        self.memory_limit_bytes = declare(Gauge("memory.limit_bytes", "Most bytes that buffers may hold."))
        self.resident_bytes = declare(
            Gauge("version.resident_bytes", "Resident bytes of each version in use.", "version")
        )
        self.events_written = declare(Counter("events.written_total", "Events of this node that all can see."))
        self.events_lost = declare(
            Counter("events.lost_total", "Events of this node that were not kept: the backing directory took no more.")
        )
        self.heartbeat_alive_nodes = declare(
            Gauge("heartbeat.alive_nodes", "Nodes that were alive when this one looked last, at most five minutes ago.")
        )
        self.heartbeat_age_seconds = declare(
            Gauge("heartbeat.age_seconds", "Time since this node last told the others that it is alive.")
        )

    def text(self) -> str:
        """All samples in the Prometheus text format."""
        return self.registry.text()


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text
