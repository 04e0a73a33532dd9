"""Sample lakes: the same files for the same arguments, on every machine."""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from random import Random

MIB = 1024 * 1024
FIRST_MTIME_S = 1_700_000_000
SUBSETS = ("train", "validation", "test")


def make_lake(
    root: Path,
    *,
    small_files: int = 60,
    small_max_bytes: int = 100_000,
    large_sizes_bytes: Sequence[int] = (9 * MIB + 12_345,),
    empty_files: int = 1,
    seed: int = 1,
) -> dict[str, str]:
    """Write a dataset version below `root`; returns the SHA-256 of every file by its path below `root`.

    Small files lie in directories of at most 100, two levels deep, with sizes from 1 byte to
    `small_max_bytes`; large ones beside them under `large/`.  Times are set, so that listings agree.
    """
    random = Random(seed)
    digests: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for number in range(small_files):
        subset = SUBSETS[number % len(SUBSETS)]
        directory = f"{subset}/{number // (100 * len(SUBSETS)):03d}"
        sizes[f"{directory}/{number:06d}.bin"] = random.randint(1, small_max_bytes)
    for number, size in enumerate(large_sizes_bytes):
        sizes[f"large/{number:03d}.tar"] = size
    for number in range(empty_files):
        sizes[f"train/empty-{number:03d}"] = 0
    for number, (name, size) in enumerate(sizes.items()):
        digests[name] = write_file(root / name, size, random, FIRST_MTIME_S + number)
    return digests


def write_file(path: Path, size_bytes: int, random: Random, mtime_s: int = FIRST_MTIME_S) -> str:
    """Write random bytes; returns their SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = sha256()
    with path.open("wb") as file:
        for start in range(0, size_bytes, MIB):
            piece = random.randbytes(min(MIB, size_bytes - start))
            digest.update(piece)
            file.write(piece)
    os.utime(path, (mtime_s, mtime_s))
    return digest.hexdigest()


def digest_tree(path: Path) -> dict[str, str]:
    """The SHA-256 of every file below `path`, by its path relative to it."""
    return {str(file.relative_to(path)): digest_file(file) for file in sorted(path.rglob("*")) if file.is_file()}


def digest_file(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(MIB):
            digest.update(piece)
    return digest.hexdigest()
