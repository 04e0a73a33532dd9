"""The state of the backing directory: whether it answers, whose it is, and what room there is."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsfs.config import Config
from dsfs.doctor import semantics, speed
from dsfs.doctor.check import Area, Check, NotCheckedError
from dsfs.doctor.judgement import directory as judge
from dsfs.doctor.scratch import Scratch
from dsfs.model.errors import BackingError
from dsfs.storage.backing import FORMAT, MARK
from dsfs.storage.filesystem import SNAPSHOTS
from dsfs.storage.known import refuse_if_gone
from dsfs.storage.mounts import mount_of


@dataclass(frozen=True)
class Directory:
    """The backing directory of a configuration, and a folder in it to try things out."""

    config: Config
    scratch: Scratch

    @property
    def path(self) -> Path:
        return self.config.backing.path


@contextmanager
def _opened(config: Config, scratch: Scratch) -> Iterator[Directory]:
    try:
        yield Directory(config, scratch)
    finally:
        scratch.remove()


def _answers(directory: Directory) -> float:
    started = time.monotonic()
    try:
        place = directory.scratch.place
    except NotCheckedError as reason:  # for the other checks
        raise BackingError(str(reason)) from None
    os.statvfs(place)
    return time.monotonic() - started


def _mark(directory: Directory) -> judge.Mark:
    refused = foreign = ""
    described: dict[str, object] = {}
    try:
        refuse_if_gone(directory.config.state_dir, directory.path)
    except BackingError as exc:
        refused = str(exc)
    try:
        described = json.loads((directory.path / MARK).read_bytes())
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            names = (name for name in os.listdir(directory.path) if not name.startswith(".") and name != "lost+found")
            foreign = next(names, "")
    except ValueError:
        foreign = MARK
    return judge.Mark(refused, described.get("format"), FORMAT, str(described.get("cluster", "")), foreign)


def _owner(directory: Directory) -> judge.Owner:
    file = directory.scratch.make() / "owner"
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return judge.Owner(os.geteuid(), os.fstat(fd).st_uid)
    finally:
        os.close(fd)


def _mode(directory: Directory) -> int:
    if not directory.path.is_dir():
        raise NotCheckedError(f"{directory.path} is not there yet")
    return stat.S_IMODE(os.stat(directory.path).st_mode)


def _room(directory: Directory) -> judge.Volume:
    found = os.statvfs(directory.scratch.place)
    total = found.f_blocks * found.f_frsize
    backing = directory.config.backing
    return judge.Volume(
        total=total,
        free=found.f_bavail * found.f_frsize,
        limit=backing.limit_bytes,
        floor=backing.floor.of(total),
        used=total - found.f_bfree * found.f_frsize,
        files=found.f_files,
        free_files=found.f_ffree,
    )


def _folders(directory: Directory) -> judge.Folders:
    """The names of the largest only: to list all may take minutes."""
    try:
        with os.scandir(directory.path / "segments") as entries:
            sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries if entry.is_dir()}
    except FileNotFoundError:
        sizes = {}
    if not sizes:
        return judge.Folders(0, "", 0, 0)
    largest = max(sizes, key=sizes.__getitem__)
    names = len(os.listdir(directory.path / "segments" / largest))
    return judge.Folders(len(sizes), largest, sizes[largest], names)


def _snapshots(directory: Directory) -> tuple[str, ...]:
    """Reached by name, as they are not listed; none is also what a server says that does not show them."""
    place = Path(os.path.realpath(directory.scratch.place))
    mount = mount_of(place)
    places = [place, *([mount.mountpoint] if mount else [])]
    found: set[str] = set()
    for place in places:
        with suppress(FileNotFoundError, NotADirectoryError):
            found.update(os.listdir(place / SNAPSHOTS))
    return tuple(sorted(found))


def _scratch(measure: Callable[[Path], Any]) -> Callable[[Directory], Any]:
    """A measurement that needs the folder only."""
    return lambda directory: measure(directory.scratch.path)


def _spare_bytes(directory: Directory) -> int:
    held = _room(directory)
    return held.free - held.floor


CHECKS: tuple[Check[Directory, Any], ...] = (
    Check(
        "directory.answers", "how long the file server takes to answer",
        f"{judge.SLOW_ANSWER_S:g} s at most; a warning for longer, a failure for 10 s, or if nothing is there",
        _answers, judge.answers, remedy="Mount it. dsfs makes the last folder of backing.path only.",
    ),
    Check(
        "directory.mark", "what lies at backing.path (dsfs.json)",
        "a known format, or a note for an empty directory; a failure for what is foreign, or was there and is gone",
        _mark, judge.mark,
    ),
    Check(
        "directory.owner", "whether a file belongs to who makes it", "yes; a failure otherwise (squash)",
        _owner, judge.owner,
        remedy="Run it as the user that owns the directory, and let the export give it rw: root is often squashed.",
    ),
    Check("directory.mode", "who else may write there", "nobody; a warning otherwise", _mode, judge.mode),
    Check(
        "directory.room", "free space, against backing.limit and backing.floor",
        "both fit; a warning if they do not, a failure below the floor or if a FlexGroup member is full",
        _room, judge.room,
    ),
    Check(
        "directory.inodes", "inodes, against the segments that backing.limit may hold",
        "enough; a warning for too few, a failure for none", _room, judge.inodes,
    ),
    Check(
        "directory.folders", "the size of the folders of segments/",
        "2 MiB each; a warning for more, a failure above 200 MiB", _folders, judge.folders, deadline_s=30.0,
    ),
    Check(
        "directory.snapshots", f"names in {SNAPSHOTS}", "none; a warning for any", _snapshots, judge.snapshots,
    ),
    Check(
        "directory.direct", "O_DIRECT", "works; a failure on a network file system, a note on others",
        _scratch(semantics.direct), judge.direct,
    ),
    Check(
        "directory.sparse", "holes, and a block in the middle of one", "zeros, and its bytes; a failure otherwise",
        _scratch(semantics.sparse), judge.sparse,
    ),
    Check(
        "directory.names", "link and rename, within a folder and between two, and to a name that is there",
        "all work, the last gives EEXIST; a failure otherwise", _scratch(semantics.names), judge.names,
    ),
    Check(
        "directory.clock", "the file server's clock, by the time of a fresh file in each of two folders",
        f"within {judge.OFF_CLOCK_S:g} s; a note for more, a warning above {judge.WRONG_CLOCK_S:g} s",
        _scratch(semantics.clock), judge.clock,
    ),
    Check(
        "directory.atime", "whether reading a file changes its time of access", "no; a warning otherwise",
        _scratch(semantics.atime), judge.atime,
    ),
    Check(
        "directory.latency", "one request to the file server, 20 times",
        f"{judge.SLOW_REQUEST_MS:g} ms; a warning for more", lambda directory: speed.latency(directory.scratch.path),
        judge.latency,
    ),
    Check(
        "directory.write_speed", "O_DIRECT writes of fresh random data by 8 threads",
        f"{judge.SLOW_MB_S:g} MB/s; a warning for less",
        lambda directory: speed.write(directory.scratch.path, _spare_bytes(directory)), judge.speed, deadline_s=30.0,
    ),
    Check(
        "directory.read_speed", "O_DIRECT reads of the same by 1 and by 8 threads (mostly from the server's memory)",
        f"{judge.SLOW_MB_S:g} MB/s; a warning for less, a note below {judge.LINK_PCT} % of the link",
        lambda directory: speed.read(directory.scratch.path), judge.speed, deadline_s=30.0,
    ),
    Check(
        "directory.space_return", "whether the space of a deleted file comes back",
        f"within {judge.WAIT_FOR_SPACE_S:g} s; a warning otherwise",
        _scratch(speed.space_return), judge.space_return, deadline_s=30.0,
    ),
    # Last: while a server is in its grace time after a restart, locks wait for a minute and more.
    Check(
        "directory.locks", "whether a lock excludes a second open file, and ends with the first",
        "yes; a failure otherwise", _scratch(semantics.locks), judge.locks, deadline_s=30.0,
    ),
    Check(
        "directory.lock_time", "how long a lock takes, 20 times",
        f"{judge.SLOW_LOCK_S:g} s at most; a warning for longer",
        _scratch(semantics.lock_time), judge.lock_time, deadline_s=30.0,
    ),
    Check(
        "directory.lock_bytes", "whether a locked byte can be read and written by others",
        "yes; a note for a server with mandatory locks", _scratch(semantics.lock_bytes), judge.lock_bytes,
    ),
)  # fmt: skip


def area(config: Config, scratch: Scratch) -> Area[Directory]:
    return Area(
        "backing directory", partial(_opened, config, scratch), CHECKS,
        "The file server is silent: is it up, and can this node reach it? Where only locks are silent, it may be in its"
        " grace time after a restart or takeover: try again in two minutes.", clean=scratch.remove,
    )  # fmt: skip
