"""This machine: what a daemon finds here."""

import ctypes
import os
import resource
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from dsfs.admin.client import ControlClient
from dsfs.admin.preflight import FUSE_CONF, lets_others_in
from dsfs.config import Config
from dsfs.doctor import fuse
from dsfs.doctor.check import Area, Check, NotCheckedError
from dsfs.doctor.judgement import node as judge
from dsfs.doctor.kernel import number_in
from dsfs.model.errors import DaemonUnreachableError
from dsfs.model.quantity import format_size
from dsfs.storage.mounts import mount_of

_KIB = 1024
_FUSE_LIMITS = Path("/proc/sys/fs/fuse")
_FUSE_PARAMETERS = Path("/sys/module/fuse/parameters")
_DAEMON_S = 5.0
_TIMEX_BYTES = 256  # struct timex is smaller on all machines
_TIME_ERROR = 5  # what adjtimex returns for a clock that nobody keeps right


@contextmanager
def _opened(config: Config) -> Iterator[Config]:
    yield config


def _fuse_device(config: Config) -> str:
    try:
        os.close(os.open(fuse.DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        return f"{fuse.DEVICE}: {exc.strerror}"
    return ""


def _fusermount(config: Config) -> judge.Fusermount:
    path = shutil.which("fusermount3") or ""
    is_setuid = False
    if path:
        found = os.stat(path)
        is_setuid = found.st_uid == 0 and bool(found.st_mode & stat.S_ISUID)
    return judge.Fusermount(path, is_setuid, os.geteuid() == 0)


def _allow_other(config: Config) -> judge.AllowOther:
    return judge.AllowOther(config.mount.allow_other, os.geteuid() == 0, lets_others_in(FUSE_CONF))


def _requests(config: Config) -> judge.Requests:
    pages = number_in(_FUSE_LIMITS / "max_pages_limit")
    return judge.Requests(pages, number_in(_FUSE_PARAMETERS / "max_user_bgreq"), os.geteuid() == 0)


def _request_timeout(config: Config) -> judge.RequestTimeout:
    limits = (number_in(_FUSE_LIMITS / f"{which}_request_timeout") or 0 for which in ("max", "default"))
    set_ones = [limit for limit in limits if limit > 0]
    return judge.RequestTimeout(min(set_ones, default=0), max(config.origin.timeout_s, config.origin.list_timeout_s))


def _open_files(config: Config) -> int:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return most if most != resource.RLIM_INFINITY else 1 << 20


def _memory(config: Config) -> judge.Memory:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return judge.Memory(
        config.memory.limit_bytes, int(facts["MemAvailable"].split()[0]) * _KIB, allowed_memory(Path("/sys/fs/cgroup"))
    )


def allowed_memory(cgroup: Path) -> int | None:
    """What the cgroup mounted there allows, in bytes; None where it sets no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = number_in(cgroup / name)
        if limit is not None and limit < 1 << 60:
            return limit
    return None


def _state_dir(config: Config) -> str:
    mount = mount_of(Path(os.path.realpath(config.state_dir)))
    return mount.filesystem if mount else "unknown"


def _state_room(config: Config) -> int:
    place = next(path for path in (config.state_dir, *config.state_dir.parents) if path.exists())
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _clock_synchronized(config: Config) -> bool:
    state = ctypes.CDLL(None, use_errno=True).adjtimex(
        ctypes.create_string_buffer(_TIMEX_BYTES)
    )  # all 0: change nothing
    if state < 0:
        raise NotCheckedError(f"adjtimex: {os.strerror(ctypes.get_errno())}")
    return bool(state != _TIME_ERROR)


def _daemon(config: Config) -> judge.Daemon:
    try:
        answer = ControlClient(config.control_socket).call("status", timeout_s=_DAEMON_S)
    except DaemonUnreachableError:
        return judge.Daemon("", "", "", "")
    backing, eviction = answer["backing"], answer.get("eviction") or {}
    return judge.Daemon(
        answer["daemon"]["version"], backing["state"], backing.get("reason") or "", eviction.get("trouble", "")
    )


CHECKS: tuple[Check[Config, Any], ...] = (
    Check(
        "node.fuse_device", "whether this user can open /dev/fuse", "yes; a failure otherwise",
        _fuse_device, judge.fuse_device,
    ),
    Check(
        "node.fusermount", "fusermount3, with which an ordinary user mounts",
        "installed, setuid root; a warning for root without it, a failure for others", _fusermount, judge.fusermount,
    ),
    Check(
        "node.allow_other", "whether other users may look into the mount",
        "allowed; a note for off, a failure where it is wanted and forbidden", _allow_other, judge.allow_other,
    ),
    Check(
        "node.passthrough", "whether the kernel can read files without the daemon (asked by a mount; needs root)",
        "offered; a note otherwise", lambda config: fuse.offer().passthrough, judge.passthrough,
    ),
    Check(
        "node.requests", "limits on FUSE requests (max_pages_limit, max_user_bgreq)",
        f"{judge.LEAST_PAGES} pages; a warning for fewer, a note for few in the background", _requests, judge.requests,
    ),
    Check(
        "node.request_timeout", "after what time without an answer the kernel ends a FUSE mount",
        "never, or later than origin.timeout and origin.list_timeout; a failure otherwise",
        _request_timeout, judge.request_timeout,
    ),
    Check(
        "node.open_files", "how many files a process may have open", f"{judge.LEAST_OPEN_FILES:,}; a warning for fewer",
        _open_files, judge.open_files,
    ),
    Check(
        "node.memory", "memory that is available, against memory.limit",
        "twice as much; a warning for less, a failure for less than the limit", _memory, judge.memory,
    ),
    Check(
        "node.state_dir", "the file system of state_dir",
        "a local disk; a warning for tmpfs, a failure for a network file system or FUSE", _state_dir, judge.state_dir,
    ),
    Check(
        "node.state_room", "free space where state_dir lies",
        f"{format_size(judge.ROOMY_STATE_BYTES)}; a warning for less, a failure below"
        f" {format_size(judge.LEAST_STATE_BYTES)}", _state_room, judge.state_room,
    ),
    Check(
        "node.clock_synchronized", "whether the kernel's clock is being synchronized", "yes; a note otherwise",
        _clock_synchronized, judge.clock_synchronized,
    ),
    Check(
        "node.daemon", "the daemon of this configuration, if it runs",
        "it fills, and room that is given up comes back; a warning if not, a note for none or one of another version",
        _daemon, judge.daemon,
    ),
)  # fmt: skip


def area(config: Config) -> Area[Config]:
    return Area(
        "this node", partial(_opened, config), CHECKS, "This machine does not answer itself: see its kernel log."
    )
