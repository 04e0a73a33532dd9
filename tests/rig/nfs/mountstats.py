"""What an NFS mount has sent, as the kernel counts it in /proc/self/mountstats."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

BYTES = (
    "read", "written", "read_direct", "written_direct", "received", "sent", "pages_received", "pages_sent",
)  # fmt: skip


@dataclass(frozen=True)
class MountStats:
    """`operations`: requests on the wire, by name (GETATTR, READ, ...), those that were none left out.

    `bytes`: by programs, through the page cache (`read`, `written`) and past it (`read_direct`, `written_direct`);
    on the wire `received` and `sent`.
    """

    operations: Counter[str]
    bytes: Counter[str]

    def __sub__(self, before: Self) -> "MountStats":
        return MountStats(self.operations - before.operations, self.bytes - before.bytes)


def mount_stats(mountpoint: Path) -> MountStats:
    """The counts since it was mounted."""
    text = Path("/proc/self/mountstats").read_text()
    (own,) = (part for part in text.split("\ndevice ") if f" mounted on {mountpoint} with fstype nfs" in part)
    events, _, per_operation = own.partition("per-op statistics")
    operations = Counter[str]()
    for line in per_operation.splitlines():
        name, colon, counts = line.strip().partition(":")
        if colon:
            operations[name] = int(counts.split()[0])
    words = next(line.split()[1:] for line in events.splitlines() if line.strip().startswith("bytes:"))
    return MountStats(+operations, Counter(dict(zip(BYTES, map(int, words), strict=True))))
