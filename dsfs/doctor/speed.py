"""How fast the file server is, and whether it gives back what was deleted."""

import fcntl
import itertools
import os
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dsfs.doctor import mountstats
from dsfs.doctor.check import NotCheckedError
from dsfs.doctor.judgement import directory as judge
from dsfs.doctor.kernel import number_in
from dsfs.doctor.semantics import opened, random_block
from dsfs.model.quantity import format_size
from dsfs.storage.filesystem import DirectFile
from dsfs.storage.mounts import mount_of

MIB = 1024 * 1024
WRITE_BYTES = 64 * MIB
_BLOCK = MIB
_THREADS = 8
_MOST_S = 3.0  # then the rate of what was done counts
_SAMPLES = 20
_POLL_S = 0.1
_FILE = "speed"
_SIOCGIFADDR = 0x8915


def latency(folder: Path) -> judge.Latency:
    taken_ms = []
    for _ in range(_SAMPLES):
        started = time.monotonic()
        os.statvfs(folder)  # which no client answers from its cache
        taken_ms.append(1000 * (time.monotonic() - started))
    return judge.Latency(statistics.median(taken_ms), max(taken_ms))


def write(folder: Path, spare_bytes: int) -> judge.Speed:
    if spare_bytes < 2 * WRITE_BYTES:
        raise NotCheckedError(f"only {format_size(max(0, spare_bytes))} above the floor")
    free_before = _free(folder)
    with opened(folder / _FILE, size=WRITE_BYTES) as file:
        rate = _rate(file, _THREADS, lambda buffer, offset: file.write(buffer, _BLOCK, offset))
        os.fsync(file.fd)
    (folder / "free").write_text(str(free_before))
    return judge.Speed({_THREADS: rate})


def read(folder: Path) -> judge.Speed:
    _require_written(folder)
    with opened(folder / _FILE) as file:
        rates = {
            threads: _rate(file, threads, lambda buffer, offset: file.read(buffer, _BLOCK, offset))
            for threads in (1, _THREADS)
        }
    return judge.Speed(rates, _link_mb_s(folder))


def space_return(folder: Path) -> judge.SpaceReturn:
    _require_written(folder)
    taken = int((folder / "free").read_text()) - _free(folder)
    if taken < WRITE_BYTES // 2:
        raise NotCheckedError("the file system does not show what was written: compressed, or others delete")
    full = _free(folder)
    os.unlink(folder / _FILE)
    started = time.monotonic()
    while (waited_s := time.monotonic() - started) < judge.WAIT_FOR_SPACE_S:
        if _free(folder) >= full + min(taken, WRITE_BYTES) * 8 // 10:
            return judge.SpaceReturn(WRITE_BYTES, waited_s)
        time.sleep(_POLL_S)
    return judge.SpaceReturn(WRITE_BYTES, None)


def _require_written(folder: Path) -> None:
    if not (folder / "free").exists():
        raise NotCheckedError("nothing was written: see directory.write_speed")


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _rate(file: DirectFile, threads: int, move: Callable[[memoryview, int], object]) -> float:
    """MB/s of going through the file once, or as far as _MOST_S reaches."""
    offsets = itertools.count(0, _BLOCK)  # next() of it is atomic
    moved = [0] * threads
    faults: list[OSError] = []
    started = time.monotonic()

    def work(number: int) -> None:
        buffer = random_block(_BLOCK)
        try:
            while (offset := next(offsets)) < WRITE_BYTES and time.monotonic() - started < _MOST_S:
                move(buffer, offset)
                moved[number] += _BLOCK
        except OSError as exc:
            faults.append(exc)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if faults:
        raise faults[0]
    return sum(moved) / (time.monotonic() - started) / 1e6


def _link_mb_s(folder: Path) -> float | None:
    """What the interface towards the NFS server can do; None where that is not known."""
    mount = mount_of(Path(os.path.realpath(folder)))
    nfs = mountstats.read(mount.mountpoint) if mount else None
    if nfs is None:
        return None
    own = nfs.options.get("clientaddr") or _own_address_towards(nfs.options.get("mountaddr", ""))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                answer = fcntl.ioctl(asker, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own:
                    megabits = number_in(Path(f"/sys/class/net/{name}/speed"))
                    return megabits / 8 if megabits is not None and megabits > 0 else None
    return None


def _own_address_towards(server: str) -> str:
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((server, 2049))  # sends nothing
        return str(asker.getsockname()[0])
    return ""
