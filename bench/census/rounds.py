"""One count, of as many rounds as it takes, in a process of its own."""

import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dsfs.storage.backing import BackingDirectory
from dsfs.storage.census import Census
from dsfs.storage.mounts import mount_of
from tests.rig.nfs.mountstats import mount_stats


@dataclass(frozen=True, slots=True)
class Rounds:
    """`longest_s`: of them.  `entries`: what they looked at.  `peak_bytes`: memory beyond that of the interpreter, with
    what of the census's file is mapped; `answer_s`: to go through every segment of every version then."""

    rounds: int
    seconds: float
    longest_s: float
    entries: int
    peak_bytes: int
    file_bytes: int
    answer_s: float
    requests: Counter[str]


def measure(backing: Path, state: Path, now_ns: int) -> Rounds:
    """Until all is known as it is at that time of the server."""
    state.mkdir(exist_ok=True)
    directory = BackingDirectory(backing)
    before_bytes, requests = _peak_bytes(), _requests(backing)
    rounds, entries, longest_s = 0, 0, 0.0
    began = time.perf_counter()
    census = Census(state / "census.mdb", directory)
    is_complete = False
    while not is_complete:
        at = time.perf_counter()
        scan = census.scan(now_ns)
        longest_s = max(longest_s, time.perf_counter() - at)
        is_complete = scan.since_ns is not None and scan.since_ns >= now_ns
        rounds += 1
        entries += scan.entries
    seconds = time.perf_counter() - began
    peak_bytes, requests = _peak_bytes() - before_bytes, _requests(backing) - requests
    began = time.perf_counter()
    for generation in census.generations():
        for _ in census.segments_of(generation.key):
            pass
    answer_s = time.perf_counter() - began
    census.close()
    file_bytes = (state / "census.mdb").stat().st_size
    return Rounds(rounds, seconds, longest_s, entries, peak_bytes, file_bytes, answer_s, requests)


def _peak_bytes() -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _requests(path: Path) -> Counter[str]:
    mount = mount_of(path)
    if mount is None or not mount.filesystem.startswith("nfs"):
        return Counter()
    return mount_stats(mount.mountpoint).operations
