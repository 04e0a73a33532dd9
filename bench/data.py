"""The files that are read: seeded, incompressible, made once and kept."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.errors import BenchError

BUCKET = "lake"
PREFIX = "datasets"
BIG = Path("big/v1/big.bin")
SMALL = Path("small/v1")
TREE = Path("tree/v1")
SMALL_DIRECTORIES = 20
TREE_DIRECTORIES = 200
TREE_FILE_BYTES = 100
FORMAT = 1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to read."""

    big_bytes: int
    small_files: int
    small_bytes: int
    tree_files: int
    random_reads: int


FULL = Sizes(big_bytes=1 << 30, small_files=5000, small_bytes=100 << 10, tree_files=20_000, random_reads=1000)
QUICK = Sizes(big_bytes=64 << 20, small_files=500, small_bytes=100 << 10, tree_files=2000, random_reads=100)


def small_paths(sizes: Sizes) -> list[str]:
    """The small files, relative to SMALL, in key order."""
    per_directory = -(-sizes.small_files // SMALL_DIRECTORIES)
    return [f"{number // per_directory:02d}/{number:05d}" for number in range(sizes.small_files)]


def tree_paths(sizes: Sizes) -> list[str]:
    """The files of the tree, relative to TREE, in key order."""
    per_directory = -(-sizes.tree_files // TREE_DIRECTORIES)
    return [f"d{number // per_directory:03d}/f{number:05d}" for number in range(sizes.tree_files)]


def make(cache: Path, sizes: Sizes) -> Path:
    """The root of the data (it holds BUCKET/PREFIX/...), made unless an earlier run left it complete.

    SHAKE-128 gives about 300 MB/s from a seed in the standard library; Mersenne Twister a third less.
    """
    wanted = json.dumps({"format": FORMAT} | asdict(sizes), sort_keys=True)
    root = cache / f"data-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    marker = root / ".complete"
    if marker.exists() and marker.read_text() == wanted:
        return root
    if root.exists():
        shutil.rmtree(root)
    base = root / BUCKET / PREFIX
    needed = sizes.big_bytes + sizes.small_files * sizes.small_bytes + sizes.tree_files * 4096
    cache.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(cache).free < 3 * needed:  # the data, a subject's cache of it, and room to spare
        raise BenchError(f"the work directory needs {3 * needed >> 20} MiB of free space")
    _write(base / BIG, sizes.big_bytes)
    for path in small_paths(sizes):
        _write(base / SMALL / path, sizes.small_bytes)
    for path in tree_paths(sizes):
        _write(base / TREE / path, TREE_FILE_BYTES)
    marker.write_text(wanted)
    return root


def _write(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = "/".join(path.parts[-3:])
    with path.open("wb", buffering=0) as file:
        for chunk in incompressible(seed, size_bytes):
            file.write(chunk)


def incompressible(seed: str, size_bytes: int) -> Iterator[bytes]:
    """`size_bytes` bytes that are always the same for this seed, in chunks."""
    for number, offset in enumerate(range(0, size_bytes, _CHUNK_BYTES)):
        yield hashlib.shake_128(f"{seed}#{number}".encode()).digest(min(_CHUNK_BYTES, size_bytes - offset))
