"""What the kernel tells about an NFS mount in /proc/self/mountstats: its options, connections, and what it has sent.

Pure but for `read`, which asks the kernel only: the server may be silent.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dsfs.storage.mounts import unescaped

_MOUNTSTATS = Path("/proc/self/mountstats")


@dataclass(frozen=True, slots=True)
class Operation:
    """Requests of one kind since the mount was made; times are sums over all of them.

    `retransmissions`: sent once more because no answer came; `queue_s`: waited for a free slot; `answer_s`: waited for
    the server and the network.
    """

    requests: int
    retransmissions: int
    queue_s: float
    answer_s: float


@dataclass(frozen=True, slots=True)
class NfsMount:
    """One mount.  `options`: word or key -> value, as in effect; `connections`: TCP connections that it has.

    `layouts` is what pNFS is used for ("" = not); `lease_expired_s` is 0 while the lease holds; None: version 3.
    """

    source: str
    options: Mapping[str, str]
    connections: int
    layouts: str
    lease_s: int | None
    lease_expired_s: int | None
    operations: Mapping[str, Operation]

    @property
    def version(self) -> str:
        """Such as "4.1"."""
        return self.options.get("vers", "")

    def number(self, option: str, default: int = 0) -> int:
        value = self.options.get(option, "")
        return int(value) if value.isdigit() else default


def read(mountpoint: Path) -> NfsMount | None:
    """The topmost NFS mount there; None if there is none."""
    return parse(_MOUNTSTATS.read_bytes(), mountpoint)


def parse(text: bytes, mountpoint: Path) -> NfsMount | None:
    """The last NFS mount at that path in the text of a mountstats file."""
    found = None
    for part in (b"\n" + text).split(b"\ndevice ")[1:]:
        head, *lines = part.splitlines()
        source, _, rest = head.partition(b" mounted on ")
        place, _, kind = rest.partition(b" with fstype ")
        if kind.split(b" ")[0] in (b"nfs", b"nfs4") and Path(unescaped(place)) == mountpoint:
            found = _mount(unescaped(source), [os.fsdecode(line).strip() for line in lines])
    return found


def _mount(source: str, lines: list[str]) -> NfsMount:
    facts: dict[str, str] = {}
    connections = 0
    operations: dict[str, Operation] = {}
    for line in lines:
        key, _, value = line.partition(":")
        counts = value.split()
        if key == "xprt":
            connections += 1
        elif key.isupper() and len(counts) >= 8 and all(count.isdigit() for count in counts):
            operations[key] = _operation([int(count) for count in counts])
        elif key.islower():
            facts[key] = value.strip()
    session = _options(facts.get("nfsv4", ""))
    layouts = session.get("pnfs", "")
    return NfsMount(
        source=source,
        options=_options(facts.get("opts", "")),
        connections=connections,
        layouts="" if layouts == "not configured" else layouts,
        lease_s=_seconds(session.get("lease_time")),
        lease_expired_s=_seconds(session.get("lease_expired")),
        operations={name: operation for name, operation in operations.items() if operation.requests},
    )


def _operation(counts: list[int]) -> Operation:
    requests, transmissions, _timeouts, _sent, _received, queue_ms, answer_ms = counts[:7]
    return Operation(requests, max(0, transmissions - requests), queue_ms / 1000, answer_ms / 1000)


def _options(text: str) -> dict[str, str]:
    pairs = (word.partition("=") for word in text.split(",") if word)
    return {key: value for key, _, value in pairs}


def _seconds(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
