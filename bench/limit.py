"""The limit on this machine: what obstore fetches in plain threads, without a file system in between.

A process of its own (`python -m bench.limit`, one JSON object on stdin, one on stdout), so that its CPU and
memory are its own.  A large object is fetched in 4 MiB ranges and written with O_DIRECT, as a fill would be;
small objects are fetched into memory and forgotten.
"""

import json
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

import obstore
from obstore.store import S3Store

from bench.machine import usage_of

T = TypeVar("T")

PART_BYTES = 4 << 20
_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Job:
    """`keys` are fetched whole into memory; with a `file`, the one key is fetched in parts into it."""

    endpoint_url: str
    bucket: str
    keys: list[str]
    size_bytes: int
    connections: int
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What it took; CPU from the first request to the last byte, memory of the whole process."""

    seconds: float
    operations: int
    read_bytes: int
    cpu_s: float
    peak_bytes: int


def fetch_parts(store: S3Store, job: Job) -> tuple[int, int]:
    """The one object, in parts, into the file."""
    assert job.file is not None
    offsets: SimpleQueue[int] = SimpleQueue()
    for offset in range(0, job.size_bytes, PART_BYTES):
        offsets.put(offset)
    descriptor = os.open(job.file, os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
    os.posix_fallocate(descriptor, 0, job.size_bytes)
    fetched: SimpleQueue[int] = SimpleQueue()

    def work() -> None:
        # Private, not shared memory: only that gets huge pages.  A mapping is aligned, as O_DIRECT wants it.
        slot = mmap.mmap(-1, PART_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for offset in _taken(offsets):
            end = min(offset + PART_BYTES, job.size_bytes)
            answer = obstore.get(store, job.keys[0], options={"range": (offset, end)})
            filled = 0
            for chunk in answer.stream(min_chunk_size=_CHUNK_BYTES):
                view = memoryview(chunk)
                slot[filled : filled + len(view)] = view
                filled += len(view)
            fetched.put(os.pwrite(descriptor, memoryview(slot)[:filled], offset))

    _in_threads(job.connections, work)
    os.close(descriptor)
    return 1, _sum(fetched)


def fetch_objects(store: S3Store, job: Job) -> tuple[int, int]:
    """Every object, whole, into memory."""
    keys: SimpleQueue[str] = SimpleQueue()
    for key in job.keys:
        keys.put(key)
    fetched: SimpleQueue[int] = SimpleQueue()

    def work() -> None:
        for key in _taken(keys):
            fetched.put(len(obstore.get(store, key).bytes()))

    _in_threads(job.connections, work)
    return len(job.keys), _sum(fetched)


def _taken(queue: SimpleQueue[T]) -> Iterator[T]:
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return


def _sum(queue: SimpleQueue[int]) -> int:
    return sum(_taken(queue))


def _in_threads(count: int, work: Callable[[], None]) -> None:
    threads = [Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    job = Job(**json.loads(sys.stdin.read()))
    store = S3Store(
        job.bucket,
        endpoint=job.endpoint_url,
        region="us-east-1",
        virtual_hosted_style_request=False,
        access_key_id="bench",
        secret_access_key="bench",
        client_options={"allow_http": True, "timeout": "60s", "pool_max_idle_per_host": str(job.connections)},
        retry_config={"max_retries": 0},
    )
    obstore.head(store, job.keys[0])  # brings the library in from disk: a mount has done so when it is ready
    cpu_before_s = time.process_time()
    start_s = time.monotonic()
    operations, read_bytes = (fetch_parts if job.file is not None else fetch_objects)(store, job)
    seconds = time.monotonic() - start_s
    cpu_s = time.process_time() - cpu_before_s
    peak_bytes = usage_of(os.getpid()).peak_bytes  # not ru_maxrss: a child begins with that of its parent
    print(json.dumps(asdict(Report(seconds, operations, read_bytes, cpu_s, peak_bytes))))


if __name__ == "__main__":
    main()
