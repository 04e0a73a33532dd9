"""The two kinds of files that are measured, and what their costs are counted by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data import Sizes
from bench.loads import Load, Outcome

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Content:
    """Files of one kind, how they are read, and by what their costs are counted."""

    name: str
    load: Load
    per: Literal["MiB", "file"]

    @property
    def unit(self) -> str:
        return "MB/s" if self.per == "MiB" else "files/s"

    @property
    def cost_unit(self) -> str:
        return "s/GiB" if self.per == "MiB" else "ms/file"

    @property
    def target(self) -> Path:
        """Where they are, below the directory of the datasets."""
        return self.load.target

    def amount(self, sizes: Sizes) -> float:
        """How many of `per` there are."""
        return sizes.big_bytes / _MIB if self.per == "MiB" else sizes.small_files

    def size_bytes(self, sizes: Sizes) -> int:
        return sizes.big_bytes if self.per == "MiB" else sizes.small_files * sizes.small_bytes

    def value(self, outcome: Outcome) -> float:
        """An outcome in `unit` (1 MB = 1,000,000 bytes)."""
        return (outcome.read_bytes / 1e6 if self.per == "MiB" else outcome.operations) / outcome.seconds

    def cost(self, sizes: Sizes, cpu_s: float) -> float:
        """CPU time in `cost_unit`."""
        return cpu_s * (1024 if self.per == "MiB" else 1000) / self.amount(sizes)


LARGE = Content("large file", Load("sequential"), "MiB")
SMALL = Content("small files", Load("files"), "file")
