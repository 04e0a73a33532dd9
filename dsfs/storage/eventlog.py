"""The events of all nodes in the backing directory: files of lines that each one node appends to.

    events/<node>.<number>.jsonl        one event a line (model/event.py)

Appending is not atomic among NFS clients, so no two nodes write to one file.  A node goes on to the next number when a
file is full, and keeps FILES_KEPT of its own; of all nodes together the newest MOST_FILES are kept.  A number is not
used twice, so who follows the events needs to know no more than how far it has read in each file.

What is written begins with the end of a line: a line that a crash has torn spoils no other.  Writing is by O_DIRECT on
NFS: a process with dirty pages cannot be killed while the server is gone, and who reads gets what is there.

Concurrency: blocking calls; one thread of a node appends at a time, any number reads.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsfs.model.event import Event, event_in, line_of
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, attributes_of, refresh_names, remove

FULL_BYTES = 256 * 1024  # about 1,000 events
MOST_FILE_BYTES = 2 * FULL_BYTES  # one that is longer is none of ours, as far as it is
FILES_KEPT = 2
MOST_FILES = 256
_NAME = re.compile(r"([0-9a-z]{1,32})\.(\d{1,9})\.jsonl", re.ASCII)


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Events in the order of their times; `read_until`: how far each file was read; lines that are none of dsfs."""

    events: list[Event]
    read_until: dict[str, int]
    damaged_lines: int


class EventLog:
    """The files at `path`, a folder that is there."""

    def __init__(self, path: Path, fs: FileSystem) -> None:
        self._path = path
        self._fs = fs

    def append(self, node: str, events: Sequence[Event]) -> None:
        """Add to the file of this node.  OSError: nothing, or a part, was written."""
        content = b"".join([b"\n", *map(line_of, events)])
        numbers = sorted(number for owner, number in map(_parsed, self._names()) if owner == node)
        number = numbers[-1] if numbers else 1
        if not self._append(self._path / f"{node}.{number}.jsonl", content):
            number += 1
            self._append(self._path / f"{node}.{number}.jsonl", content)
        for old in numbers:
            if old <= number - FILES_KEPT:
                remove(self._path / f"{node}.{old}.jsonl")

    def _append(self, path: Path, content: bytes) -> bool:
        """False, and nothing is written, if the file is full."""
        reach("events.open")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | self._direct(os.O_DSYNC), 0o644)
        try:
            end = attributes_of(fd, anew=True).size
            if end >= FULL_BYTES:
                return False
            reach("events.write")
            left = memoryview(content)
            while left:
                done = os.pwrite(fd, left, end)
                left, end = left[done:], end + done
            reach("events.written")
            return True
        finally:
            os.close(fd)

    def _direct(self, otherwise: int = 0) -> int:
        """How to open a file: past the page cache where that needs no alignment."""
        return os.O_DIRECT if self._fs.is_nfs else otherwise

    def read(self, read_until: Mapping[str, int], since_ns: int) -> Excerpt:
        """What has come since those files were read so far, and is not older than that.  OSError.

        Costs 1 GETATTR, a READDIR if the folder has changed, and for each file an open, 1 GETATTR, and its READs.
        """
        events: list[Event] = []
        reached: dict[str, int] = {}
        damaged = 0
        for name in self._names():
            begin = read_until.get(name, 0)
            try:
                content = self._content(name, begin, since_ns)
            except OSError as exc:
                if exc.errno not in GONE:
                    raise
                continue
            whole = content[: content.rfind(b"\n") + 1]  # the rest may be about to be written
            reached[name] = begin + len(whole)
            for line in filter(None, whole.split(b"\n")):
                try:
                    event = event_in(line)
                except ValueError:
                    damaged += 1
                else:
                    if event.at_ns >= since_ns:
                        events.append(event)
        return Excerpt(sorted(events, key=lambda event: event.at_ns), reached, damaged)

    def _content(self, name: str, begin: int, since_ns: int) -> bytes:
        """What the file holds from there on; nothing if it is older than that."""
        reach("events.read")
        fd = os.open(self._path / name, os.O_RDONLY | os.O_CLOEXEC | self._direct())
        try:
            found = attributes_of(fd, anew=True)
            length = min(found.size, MOST_FILE_BYTES) - begin
            return b"" if found.mtime_ns < since_ns or length <= 0 else os.pread(fd, length, begin)
        finally:
            os.close(fd)

    def _names(self) -> list[str]:
        reach("events.list")
        refresh_names(self._path, self._fs)
        return [name for name in os.listdir(self._path) if _NAME.fullmatch(name)]

    def forget(self) -> None:
        """Remove the oldest files beyond MOST_FILES: most are of nodes that are no more.  OSError."""
        ages = []
        for name in self._names():
            try:
                ages.append((os.stat(self._path / name).st_mtime_ns, name))
            except OSError as exc:
                if exc.errno not in GONE:
                    raise
        for _, name in sorted(ages)[: max(0, len(ages) - MOST_FILES)]:
            remove(self._path / name)


def _parsed(name: str) -> tuple[str, int]:
    node, number, _ = name.split(".")
    return node, int(number)
