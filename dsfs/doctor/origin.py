"""The origins of a configuration: one area for each bucket."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dsfs.cache.datasets import Datasets
from dsfs.config import Config
from dsfs.doctor.check import Area, Check, NotCheckedError
from dsfs.doctor.judgement import origin as judge
from dsfs.metrics import Metrics
from dsfs.model.errors import DsfsError
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin
from dsfs.storage.origin_greeting import Greeting

MIB = 1024 * 1024
GREETING_S = 10.0
DEADLINE_S = 30.0  # of a request; boto3 repeats a LIST
_SAMPLES = 5
_PIECE = 8 * MIB
_CONNECTIONS = 8
_MOST_S = 3.0
_LEAST_BYTES = MIB  # less says nothing about throughput


@dataclass
class Bucket:
    """`objects`: some of those below the prefix, once listed; `greeting`: its first answer, if there was one."""

    origin: Origin
    prefix: str
    endpoint_url: str
    is_signed: bool
    objects: list[ObjectRef] = field(default_factory=list)
    greeting: Greeting | None = None

    @property
    def reached(self) -> Origin:
        """The origin; NotCheckedError if it did not answer before: one silence is enough to wait for."""
        if self.greeting is None:
            raise NotCheckedError("not reached: see origin.reach")
        return self.origin

    @property
    def largest(self) -> ObjectRef:
        found = max(self.objects, key=lambda obj: obj.size, default=None)
        if found is None or found.size == 0:
            raise NotCheckedError("no object to read")
        return found


def places(config: Config) -> dict[str, str | None]:
    """What to look at: the URL of each bucket and endpoint -> the dataset that lies there, None for origin.url."""
    found: dict[tuple[object, ...], tuple[str, str | None]] = {}
    home = config.origin
    if home.url is not None:
        found[home.url.bucket, home.endpoint_url, home.region, home.unsigned] = (str(home.url), None)
    for dataset in config.datasets:
        key = (dataset.url.bucket, dataset.endpoint_url, dataset.region, dataset.unsigned)
        found.setdefault(key, (str(dataset.url), dataset.name))
    return dict(found.values())


@contextmanager
def _opened(config: Config, dataset: str | None) -> Iterator[Bucket]:
    with closing(Datasets(config, Metrics())) as datasets:
        if dataset is None:
            assert datasets.home is not None
            origin, prefix, is_signed = datasets.home.origin, datasets.home.prefix, not config.origin.unsigned
        else:
            found = datasets.find(dataset)
            origin, prefix, is_signed = found.origin, found.prefix, not config.dataset(dataset).unsigned
        yield Bucket(origin, prefix, origin.endpoint_url, is_signed)


def _reach(bucket: Bucket) -> float:
    bucket.greeting = bucket.origin.greet(GREETING_S)
    return bucket.greeting.seconds


def _clock(bucket: Bucket) -> float | None:
    if bucket.greeting is None:
        raise NotCheckedError("not reached: see origin.reach")
    return bucket.greeting.ahead_s


def _credentials(bucket: Bucket) -> bool:
    bucket.reached.check_credentials()
    return bucket.is_signed


def _listing(bucket: Bucket) -> judge.Listing:
    started = time.monotonic()
    bucket.objects, _ = bucket.reached.list_page(bucket.prefix, "")
    seconds = time.monotonic() - started
    return judge.Listing(seconds, len(bucket.objects), sum(obj.etag is not None for obj in bucket.objects))


def _etags(bucket: Bucket) -> judge.Listing:
    if not bucket.objects:
        raise NotCheckedError("no object was listed")
    return judge.Listing(0.0, len(bucket.objects), sum(obj.etag is not None for obj in bucket.objects))


def _first_byte(bucket: Bucket) -> float:
    obj = bucket.largest
    taken = []
    for _ in range(_SAMPLES + 1):
        started = time.monotonic()
        _fetch(bucket.origin, obj, 0, 1)
        taken.append(time.monotonic() - started)
    return statistics.median(taken[1:])  # the first one connects


def _throughput(bucket: Bucket) -> judge.Throughput:
    obj = bucket.largest
    if obj.size < _LEAST_BYTES:
        raise NotCheckedError(f"no object of 1 MiB and more among the first {len(bucket.objects):,}")
    single = _rate(bucket.origin, obj, 1)
    return judge.Throughput(single, _rate(bucket.origin, obj, _CONNECTIONS), _CONNECTIONS, obj.size)


def _rate(origin: Origin, obj: ObjectRef, connections: int) -> float:
    """MB/s of reading the object's pieces over and over for a while."""
    received = [0] * connections
    faults: list[DsfsError] = []
    started = time.monotonic()
    starts = range(0, obj.size, _PIECE)

    def work(number: int) -> None:
        turn = number
        try:
            while time.monotonic() - started < _MOST_S / 2:
                offset = starts[turn % len(starts)]
                received[number] += _fetch(origin, obj, offset, min(_PIECE, obj.size - offset))
                turn += connections
        except DsfsError as error:
            faults.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if faults:
        raise faults[0]
    return sum(received) / (time.monotonic() - started) / 1e6


def _fetch(origin: Origin, obj: ObjectRef, offset: int, length: int) -> int:
    return sum(len(piece) for piece in origin.fetch(obj, offset, length))


CHECKS: tuple[Check[Bucket, Any], ...] = (
    Check(
        "origin.reach", "whether anything answers at its address, without credentials",
        f"within {judge.SLOW_ANSWER_S:g} s; a warning for longer, a failure for {GREETING_S:g} s", _reach, judge.reach,
        DEADLINE_S,
        "Is [origin] endpoint_url right? Then the route, a firewall, and proxy variables of the environment.",
    ),
    Check(
        "origin.transport", "whether the bytes are encrypted on the way", "https or loopback; a note otherwise",
        lambda bucket: bucket.endpoint_url, judge.transport,
    ),
    Check(
        "origin.clock", "its clock against this node's, by the Date of an answer",
        f"within {judge.OFF_CLOCK_S:g} s; a warning for more, a failure above {judge.REFUSED_CLOCK_S / 60:g} minutes",
        _clock, judge.clock, DEADLINE_S,
    ),
    Check(
        "origin.credentials", "whether the AWS chain finds credentials", "found, or unsigned; a failure otherwise",
        _credentials, judge.credentials, DEADLINE_S,
        "AWS_PROFILE or another part of the AWS chain, for the daemon, too; or unsigned = true for a public bucket.",
    ),
    Check(
        "origin.list", "one LIST below the configured URL",
        f"within {judge.SLOW_REQUEST_S:g} s; a warning for longer, a note for no objects, a failure if it is refused",
        _listing, judge.listing, DEADLINE_S,
        "The credentials need s3:ListBucket on this bucket, and the node the right time: see origin.clock.",
    ),
    Check("origin.etags", "whether its objects have ETags", "all; a note otherwise", _etags, judge.etags),
    Check(
        "origin.first_byte", "a GET of one byte, 5 times", f"{judge.SLOW_REQUEST_S:g} s; a warning for longer",
        _first_byte, judge.first_byte, DEADLINE_S, "The credentials need s3:GetObject below the prefix.",
    ),
    Check(
        "origin.throughput", f"GETs of up to 8 MiB over 1 and over {_CONNECTIONS} connections",
        f"{judge.SLOW_MB_S:g} MB/s together; a warning for less", _throughput, judge.throughput, DEADLINE_S,
        "Some of several requests at once fail: is there a rate limit?",
    ),
)  # fmt: skip


def areas(config: Config) -> list[Area[Bucket]]:
    return [
        Area(
            f"origin {url}",
            partial(_opened, config, dataset),
            CHECKS,
            "The origin is silent: what is resident is still read. Look at its state, the route, and a firewall.",
        )
        for url, dataset in places(config).items()
    ]
