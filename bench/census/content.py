"""A backing directory with many segments, as far as a census sees them: names, folders, lists; the files are empty."""

import os
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from hashlib import blake2b
from pathlib import Path

from dsfs.storage.backing import BackingDirectory
from dsfs.storage.generations import GenerationStore
from dsfs.storage.segmentlist import SegmentList

SUFFIXES = ("", ".sum")


def make(path: Path, segments: int, versions: int) -> None:
    """Sealed segments, each of one version, each version of as many."""
    backing = BackingDirectory(path)
    _place(path, range(segments))
    with tempfile.TemporaryDirectory() as local:
        store = GenerationStore(
            Path(local, "catalogs"), backing.generations, backing.file_system, lambda size: nullcontext()
        )
        for version in range(versions):
            built = Path(local, "built.mdb")
            built.write_bytes(bytes(4096))
            of_version = [bytes.fromhex(_identity(number)) for number in range(version, segments, versions)]
            listed = SegmentList(b"".join(sorted(of_version)), 0)
            dataset, name = f"dataset-{version // 10}", f"v{version % 10}"
            generation = blake2b(f"{dataset}/{name}".encode(), digest_size=20).hexdigest()
            placed = store.add(dataset, name, built, {"generation": generation}, listed)
            store.share(dataset, name, placed)


def change(path: Path, segments: int, changed: int) -> None:
    """Half of so many segments go, and others come."""
    step = segments // (changed // 2)
    for number in range(0, segments, step):
        identity = _identity(number)
        for suffix in SUFFIXES:
            os.unlink(path / "segments" / identity[:2] / f"{identity}{suffix}")
    _place(path, range(segments, segments + segments // step))


def _identity(number: int) -> str:
    return blake2b(number.to_bytes(8), digest_size=20).hexdigest()


def _place(path: Path, numbers: Iterable[int]) -> None:
    for number in numbers:
        identity = _identity(number)
        folder = path / "segments" / identity[:2]
        for suffix in SUFFIXES:
            try:
                fd = os.open(f"{folder}/{identity}{suffix}", os.O_WRONLY | os.O_CREAT)
            except FileNotFoundError:
                folder.mkdir()
                fd = os.open(f"{folder}/{identity}{suffix}", os.O_WRONLY | os.O_CREAT)
            os.close(fd)
