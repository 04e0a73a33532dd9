"""`make demo`: a sample lake on a local S3 server, mounted, read, measured; all of it is removed again.

The promises it shows, each of which ends it with exit code 1 when broken: every byte is the source's, when
read first, again, and after restarts; the origin is asked once for each byte, and for nothing when files are
read again; what was resident before a restart is so after it.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dsfs.storage.mounts import mount_at
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB, digest_file, make_lake, write_file
from tests.rig.leftovers import Leftovers
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

BUCKET, PREFIX = "lake", "datasets"
NEEDED_MIB = 2_000  # free in the temporary directory: the lake, the same resident, and some air
SMALL_MAX_BYTES = 32_000
READERS = 8
RESIDENT_TIMEOUT_S = 60
COMMAND_TIMEOUT_S = 90
STOP_TIMEOUT_S = 20
SETTLE_S = 5
ONCE = 1.02  # origin bytes for each byte of the lake: once, and room for a request that had to be repeated
LARGE_FILES = {  # sizes in bytes
    "photos/v1": (120 * MIB,),
    "photos/v2": (),
    "scans/v1": (130 * MIB + 1, 110 * MIB + 4_095),
    "scans/v2": (150 * MIB,),
}
SMALL_FILES = {"photos/v1": 5_000, "photos/v2": 300, "scans/v1": 50, "scans/v2": 50}
ODD_NAMES = (
    "two  spaces/and one.txt",
    "a+b=c&d.txt",
    "100%/50%25.txt",
    "žluťoučký kůň/日本語/🦆.txt",
    "quote's \"and\" #hash;?.txt",
    "deep/er/and/deep/er/still/file",
)


class BrokenPromiseError(Exception):
    """The demonstration did not show what it should; the message says what it showed instead."""


@dataclass(frozen=True, slots=True)
class Source:
    """What was put at the origin: size and SHA-256 of every file, by its path below the mountpoint."""

    sizes: dict[str, int]
    digests: dict[str, str]

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes.values())

    def names(self, *, large: bool) -> list[str]:
        return [name for name, size in self.sizes.items() if (size > SMALL_MAX_BYTES) is large]


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of all files, and what it asked of the origin."""

    name: str
    large_bytes: int
    large_s: float
    small_files: int
    small_s: float
    requests: int
    data_requests: int
    data_bytes: int


def make_source(root: Path) -> Source:
    """Write the lake as plain files below `root`, the directory of the origin's prefix."""
    digests: dict[str, str] = {}
    for seed, version in enumerate(LARGE_FILES):
        directory = root / version
        made = make_lake(
            directory,
            small_files=SMALL_FILES[version],
            small_max_bytes=SMALL_MAX_BYTES,
            large_sizes_bytes=LARGE_FILES[version],
            empty_files=5,
            seed=seed,
        )
        random = Random(seed)
        for name in ODD_NAMES:
            made[name] = write_file(directory / name, random.randint(0, SMALL_MAX_BYTES), random)
        digests |= {f"{version}/{name}": digest for name, digest in made.items()}
    return Source({name: (root / name).stat().st_size for name in digests}, digests)


class Node:
    """A compute node with dsfs: its configuration, its mount, its commands.

    Only the reader threads touch the mount.  Should it not answer, the main thread can still be interrupted;
    it removes the mount, and that ends the readers.
    """

    def __init__(self, work: Path, server: S3Server, proxy: FaultProxy, source: Source) -> None:
        self.mountpoint = work / "mnt"
        self.backing = work / "backing"
        self._config = work / "dsfs.toml"
        self._server = server
        self._proxy = proxy
        self._source = source
        self._readers = ThreadPoolExecutor(READERS)
        self.mountpoint.mkdir()
        self.backing.mkdir()
        self._config.write_text(
            f"""\
mountpoint = "{self.mountpoint}"
state_dir = "{work / "state"}"

[origin]
url = "s3://{BUCKET}/{PREFIX}"
endpoint_url = "{proxy.endpoint_url}"
names_ttl = "1h"  # looking for new datasets and versions is a request, too: not while we count

[backing]
path = "{self.backing}"
limit = "{NEEDED_MIB}MiB"
floor = "64MiB"

[mount]
owner = "{os.getuid()}"
group = "{os.getgid()}"
allow_other = false
"""
        )

    def dsfs(self, command: str, *options: str) -> str:
        """Run a command of dsfs, with the server's keys and without the user's; returns its output."""
        users = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        done = subprocess.run(
            [sys.executable, "-m", "dsfs", command, "--config", self._config, *options],
            env=users | self._server.env(),
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise BrokenPromiseError(f"dsfs {command} ended with exit code {done.returncode}: {said}")
        return done.stdout

    def compare_names(self) -> None:
        """Every name and size of the mount is the source's, and no other is there."""
        found = self._readers.submit(self._sizes).result()
        if found != self._source.sizes:
            different = sorted(dict(found.items() ^ self._source.sizes.items()))
            raise BrokenPromiseError(f"{len(different)} names or sizes differ, such as {different[:5]}")

    def _sizes(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.mountpoint)): path.stat().st_size
            for path in self.mountpoint.rglob("*")
            if not path.is_dir()
        }

    def read(self, name: str) -> Reading:
        """Read all files, large ones first, and compare their SHA-256 with the source's."""
        self._proxy.reset()
        large, small = self._source.names(large=True), self._source.names(large=False)
        large_s, small_s = self._seconds_to_compare(large), self._seconds_to_compare(small)
        return Reading(
            name,
            large_bytes=sum(self._source.sizes[path] for path in large),
            large_s=large_s,
            small_files=len(small),
            small_s=small_s,
            requests=self._proxy.count(),
            data_requests=self._proxy.count("GET"),
            data_bytes=self._proxy.data_bytes,
        )

    def _seconds_to_compare(self, names: Sequence[str]) -> float:
        start = time.monotonic()
        found = self._readers.map(lambda name: digest_file(self.mountpoint / name), names)
        digests = dict(zip(names, found, strict=True))
        elapsed_s = time.monotonic() - start
        different = sorted(dict(digests.items() - self._source.digests.items()))
        if different:
            raise BrokenPromiseError(f"{len(different)} files differ, such as {different[:5]}")
        return elapsed_s

    def resident_bytes(self) -> int:
        status = json.loads(self.dsfs("status", "--json"))
        return sum(version["resident_bytes"] for version in status["versions"])

    def drop_page_cache(self) -> None:
        """Of the segments only: nobody else on this machine is to become slower."""
        for path in (self.backing / "segments").rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """However the end came: unmount if there is a mount.  What that leaves, Leftovers removes."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        if mount_at(self.mountpoint) is not None:
            try:
                self.dsfs("unmount", "--now", "--timeout", f"{STOP_TIMEOUT_S}s")
            except (BrokenPromiseError, subprocess.TimeoutExpired) as error:
                say(str(error))


def show(work: Path, stack: ExitStack) -> list[str]:
    """The whole demonstration, and the table of it; what has to be undone goes to `stack`."""
    server = S3Server(work / "s3", directory_cache_s=3600)
    with step("making a sample lake: 2 datasets, 2 versions each, 5,000 small files, some of over 100 MB"):
        source = make_source(server.bucket(BUCKET) / PREFIX)
    say(f"  {len(source.sizes):,} files, {source.total_bytes / 1e6:,.0f} MB; empty ones, and names such as")
    say(f"  {ODD_NAMES[0]!r}, {ODD_NAMES[2]!r}, {ODD_NAMES[3]!r}")
    with step("starting an S3 server that checks signatures, and a proxy before it that counts requests"):
        stack.enter_context(server)
        proxy = stack.enter_context(FaultProxy(server.endpoint_url))
    node = Node(work, server, proxy, source)
    with step(f"mounting it at {node.mountpoint}"):
        stack.callback(node.close)
        node.dsfs("mount")
    with step("listing every directory, comparing names and sizes"):
        node.compare_names()

    readings = [reading_of(node, "cold")]
    cold = readings[0]
    with step("waiting until everything is resident in the backing directory"):
        wait_until(
            lambda: node.resident_bytes() >= source.total_bytes, RESIDENT_TIMEOUT_S, "everything resident"
        )
    demand(
        source.total_bytes <= cold.data_bytes <= source.total_bytes * ONCE,
        "each byte was fetched once",
        f"{cold.data_bytes:,} bytes for the {source.total_bytes:,} of the lake",
    )
    say("\n$ dsfs status\n" + node.dsfs("status"))

    readings.append(reading_of(node, "again"))
    demand(readings[-1].requests == 0, "reading again", f"{readings[-1].requests} origin requests")

    for name, drops_pages in (("after restart", False), ("after restart, page cache dropped", True)):
        with step("restarting the daemon" + (", dropping the page cache in between" if drops_pages else "")):
            node.dsfs("unmount")
            if drops_pages:
                node.drop_page_cache()
            node.dsfs("mount")
        readings.append(reading_of(node, name))
        data = f"{readings[-1].data_requests} requests for data, {readings[-1].data_bytes} bytes"
        demand(readings[-1].data_requests == 0, "everything was still resident", data)
    with step("unmounting"):
        node.dsfs("unmount")
    return list(table(source, readings))


def reading_of(node: Node, name: str) -> Reading:
    with step(f"reading everything ({name}), comparing SHA-256 with the source"):
        return node.read(name)


def table(source: Source, readings: Sequence[Reading]) -> Iterator[str]:
    """What was measured, a line for each reading."""
    large_mb, small_files = readings[0].large_bytes / 1e6, readings[0].small_files
    yield (
        f"{len(source.sizes):,} files, {source.total_bytes:,} bytes "
        f"({large_mb:,.0f} MB in {len(source.names(large=True))} large files, {small_files:,} small files); "
        f"{READERS} readers, {os.cpu_count()} CPUs, SHA-256 included"
    )
    row = "{:<34}{:>8}{:>12}{:>15}{:>17}{:>14}"
    yield row.format("", "seconds", "large MB/s", "small files/s", "origin requests", "origin bytes")
    for reading in readings:
        yield row.format(
            reading.name,
            f"{reading.large_s + reading.small_s:.1f}",
            f"{large_mb / reading.large_s:,.0f}",
            f"{small_files / reading.small_s:,.0f}",
            f"{reading.requests:,}",
            f"{reading.data_bytes:,}",
        )


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Says what is done while it is done, and how long it took."""
    print(f"{text} ... ", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    except BaseException:
        say("not finished")
        raise
    say(f"{time.monotonic() - start:.1f} s")


def demand(kept: bool, promise: str, shown: str) -> None:
    if not kept:
        raise BrokenPromiseError(f"not kept: {promise}: {shown}")
    say(f"  {promise}: {shown}")


def check_machine(directory: Path) -> None:
    """Say in one line what is missing here, before anything is made."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise BrokenPromiseError("cannot open /dev/fuse: load the module fuse, or run this as root")
    free_mib = shutil.disk_usage(directory).free // MIB
    if free_mib < NEEDED_MIB:
        raise BrokenPromiseError(
            f"{directory}: {free_mib} MiB free, {NEEDED_MIB} needed; TMPDIR names another place"
        )
    if os.geteuid() != 0:
        say("as an ordinary user: sudo was for the set-up only")


def interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    start = time.monotonic()
    code, measured = 1, list[str]()
    with ExitStack() as stack:
        try:
            check_machine(Path(tempfile.gettempdir()))
            work = Path(tempfile.mkdtemp(prefix="dsfs-demo-"))
            stack.callback(shutil.rmtree, work)
            leftovers = Leftovers(work)
            stack.callback(leftovers.kill_processes, SETTLE_S)
            stack.callback(leftovers.release_mounts)
            measured = show(work, stack)
            code = 0
        except KeyboardInterrupt:
            say("\ninterrupted: removing what was made")
            code = 130
        except (BrokenPromiseError, TimeoutError) as error:
            say(f"\n{error}")
        finally:
            # What follows takes seconds and leaves nothing behind; a second Ctrl-C would.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    outcome = "not shown" if code else "all promises kept"
    say(f"everything removed; {outcome}; {time.monotonic() - start:.0f} s in all\n")
    for line in measured:
        say(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
