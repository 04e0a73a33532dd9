"""One reading process.  Run as a script with `python -S`, so that it starts fast and imports nothing else.

stdin: one JSON line (the work), then one line when to start.  stdout: "ready", then one JSON line with the
start and the end (monotonic clock, which all processes share), the operations done and the bytes read.
"""

import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable

PAGE_BYTES = 4096
_FILE_BUFFER_BYTES = 128 << 10
_COPY_BYTES = 1 << 20


def read_files(directory: str, names: list[str]) -> tuple[int, int]:
    """Opens, reads to the end and closes each file."""
    buffer = bytearray(_FILE_BUFFER_BYTES)
    total = 0
    for name in names:
        descriptor = os.open(f"{directory}/{name}", os.O_RDONLY)
        while True:
            got = os.readv(descriptor, [buffer])
            total += got
            if got < _FILE_BUFFER_BYTES:  # a short read of a regular file is its end
                break
        os.close(descriptor)
    return len(names), total


def random_offsets(size_bytes: int, count: int) -> list[int]:
    """The same page-aligned offsets every time, so that a second pass meets what the first one brought."""
    generator = random.Random(7)
    return [generator.randrange(size_bytes // PAGE_BYTES) * PAGE_BYTES for _ in range(count)]


def read_random(path: str, count: int) -> tuple[int, int]:
    """Reads pages at random offsets, one after the other."""
    descriptor = os.open(path, os.O_RDONLY)
    total = 0
    for offset in random_offsets(os.fstat(descriptor).st_size, count):
        total += len(os.pread(descriptor, PAGE_BYTES, offset))
    os.close(descriptor)
    return count, total


def map_random(path: str, count: int) -> tuple[int, int]:
    """Copies pages at random offsets out of a shared read-only mapping, without advice to the kernel."""
    total = 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        for offset in random_offsets(len(mapping), count):
            total += len(mapping[offset : offset + PAGE_BYTES])
    return count, total


def map_sequential(path: str) -> tuple[int, int]:
    """Copies a whole mapping, a mebibyte at a time."""
    total = operations = 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        for offset in range(0, len(mapping), _COPY_BYTES):
            total += len(mapping[offset : offset + _COPY_BYTES])
            operations += 1
    return operations, total


WAYS: dict[str, Callable[..., tuple[int, int]]] = {
    "files": read_files,
    "random": read_random,
    "map_random": map_random,
    "map_sequential": map_sequential,
}


def main() -> None:
    way, arguments = json.loads(sys.stdin.readline())
    print("ready", flush=True)
    sys.stdin.readline()
    start_s = time.monotonic()
    operations, total_bytes = WAYS[way](*arguments)
    end_s = time.monotonic()
    result = {"start_s": start_s, "end_s": end_s, "operations": operations, "bytes": total_bytes}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
