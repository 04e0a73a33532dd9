"""Backing directories and segments in them, for tests that need no daemon around them."""

from pathlib import Path

from dsfs.model.blocks import BLOCK, UniformBlocks
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.segment import SegmentFile
from tests.engine.segment_sample import Sample

HUGE = 1 << 50


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def directory(
    path: Path, limit_bytes: int = HUGE, floor_bytes: int = 0, clock: Clock | None = None
) -> BackingDirectory:
    return BackingDirectory(path, limit_bytes, lambda total: floor_bytes, clock or Clock())


def segment_of(backing: BackingDirectory, blocks: int = 4) -> tuple[Sample, SegmentFile]:
    """A segment in it, open; the sample closes it."""
    sample = Sample(backing.path / "segments", UniformBlocks(blocks * BLOCK))
    return sample, sample.file()
