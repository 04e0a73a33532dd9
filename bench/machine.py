"""What the benchmark needs of the machine: its description, its caches, and what a process has used."""

import mmap
import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_HUGE_PAGE_BYTES = 2 << 20
_BALLOON_REPORTING_BIT = 5  # VIRTIO_BALLOON_F_REPORTING


def describe() -> dict[str, object]:
    """The machine as a record names it.  Machines that agree in KIND_KEYS are of the same kind."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "free_page_reporting": free_page_reporting(),
    }


KIND_KEYS = ("cpu", "cores", "memory_gib", "architecture")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def free_page_reporting() -> bool:
    """Whether the host of this virtual machine takes free pages back: first touch then costs a host fault."""
    features = Path("/sys/bus/virtio/drivers/virtio_balloon").glob("virtio*/features")
    return any(
        path.read_text()[_BALLOON_REPORTING_BIT : _BALLOON_REPORTING_BIT + 1] == "1" for path in features
    )


def file_system_of(path: Path) -> str:
    """The type of the file system that holds a path."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mounted, _, source = line.partition(" - ")
        if mounted.split()[2] == wanted:
            return source.split()[0]
    return "unknown"


def require_root() -> None:
    """Caches are dropped through a file that only root may write."""
    if os.geteuid() != 0:
        raise BenchError("run as root: every cold measurement starts with /proc/sys/vm/drop_caches")


def drop_caches() -> None:
    """Empties the page, name and inode caches of the whole machine; dirty pages are written first."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def read_through(path: Path) -> None:
    """Brings a file, or all files below a directory, into the page cache."""
    files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
    buffer = bytearray(1 << 20)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def pretouch(wanted_mib: int) -> None:
    """Makes free memory present again where a virtual machine's host takes it back 2 s after it was freed.

    Without this the same program is 3 to 5 times slower whenever the pages it gets are new ones.
    """
    size_bytes = min(wanted_mib << 20, _available_bytes() // 4) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if size_bytes <= 0:
        return
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        zeros = bytes(_HUGE_PAGE_BYTES)
        for offset in range(0, size_bytes, _HUGE_PAGE_BYTES):
            memory[offset : offset + _HUGE_PAGE_BYTES] = zeros


def _available_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and its children have used since they started; `peak_bytes` adds up their VmHWM."""

    cpu_s: float = 0.0
    written_bytes: int = 0
    peak_bytes: int = 0


def usage_of(pid: int) -> Usage:
    """Usage of a process and its living children."""
    cpu_s, written_bytes, peak_bytes = 0.0, 0, 0
    for member in _family(pid):
        proc = Path(f"/proc/{member}")
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        peak_bytes += _field(proc / "status", "VmHWM:") << 10
        written_bytes += _field(proc / "io", "write_bytes:")
    return Usage(cpu_s, written_bytes, peak_bytes)


def _family(pid: int) -> list[int]:
    members = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended has no children
            for child in (task / "children").read_text().split():
                members += _family(int(child))
    return members


def _field(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def wait_quiet(pid: int, quiet_s: float = 0.4, timeout_s: float = 60.0) -> None:
    """Until a process has neither computed nor written for a while: its work behind the reader is done.

    One clock tick of CPU is let through: timers of an idle daemon use as much.  A process that never becomes
    quiet is given up on after `timeout_s`; what it does then falls into the next measurement.
    """
    deadline = time.monotonic() + timeout_s
    before = usage_of(pid)
    while time.monotonic() < deadline:
        time.sleep(quiet_s)
        now = usage_of(pid)
        if now.cpu_s - before.cpu_s < 1.5 / _TICKS_PER_S and now.written_bytes == before.written_bytes:
            return
        before = now
