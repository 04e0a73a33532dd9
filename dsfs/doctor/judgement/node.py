"""What this machine gives a daemon: FUSE, memory, open files, local disk, clock."""

from dataclasses import dataclass

from dsfs import __version__
from dsfs.doctor.check import Finding, fail, note, ok, warn
from dsfs.model.quantity import format_duration, format_size
from dsfs.storage.filesystem import FileSystem

MIB = 1024 * 1024
PASSTHROUGH_SINCE = "6.9"
LEAST_PAGES = 256  # of 4 KiB in one request
WANTED_BACKGROUND = 512  # requests of readahead under way, as the daemon sets them where it may
LEAST_OPEN_FILES = 4096
LEAST_STATE_BYTES = 64 * MIB  # below: the index may not be written any more
ROOMY_STATE_BYTES = 1024 * MIB
VOLATILE = frozenset({"tmpfs", "ramfs"})


def fuse_device(error: str) -> Finding:
    """`error`: why /dev/fuse cannot be opened, "" if it can."""
    if not error:
        return ok("/dev/fuse opens")
    return fail(
        error, "Load the module (modprobe fuse); in a container, hand /dev/fuse and CAP_SYS_ADMIN in. Then mode 0666."
    )


@dataclass(frozen=True, slots=True)
class Fusermount:
    path: str  # "" = there is none
    is_setuid: bool
    is_root: bool  # who asks


def fusermount(found: Fusermount) -> Finding:
    if not found.path:
        judged = warn if found.is_root else fail
        return judged(
            "missing", "Install fuse3: an ordinary user mounts with it, and dead mounts are taken away with it."
        )
    if not found.is_setuid and not found.is_root:
        return fail(f"{found.path} is not setuid root", "chmod u+s it, or mount as root.")
    return ok(found.path)


@dataclass(frozen=True, slots=True)
class AllowOther:
    wanted: bool
    is_root: bool
    is_allowed: bool  # user_allow_other in fuse.conf


def allow_other(asked: AllowOther) -> Finding:
    if not asked.wanted:
        return note("off", "mount.allow_other = true lets other users read the datasets.")
    if asked.is_root or asked.is_allowed:
        return ok("on")
    return fail("on, and forbidden to this user", "A line user_allow_other in /etc/fuse.conf, or mount as root.")


def passthrough(offered: bool) -> Finding:
    if offered:
        return ok("offered by this kernel")
    return note(
        "not offered", f"Linux {PASSTHROUGH_SINCE} or newer with CONFIG_FUSE_PASSTHROUGH reads without the daemon."
    )


@dataclass(frozen=True, slots=True)
class Requests:
    """Limits of /proc/sys/fs/fuse and /sys/module/fuse; None where this kernel has no such limit."""

    pages: int | None
    background: int | None
    is_root: bool


def requests(limits: Requests) -> Finding:
    pages = f"{limits.pages} pages" if limits.pages is not None else "no limit on pages"
    if limits.pages is not None and limits.pages < LEAST_PAGES:
        return warn(
            pages, f"sysctl fs.fuse.max_pages_limit={LEAST_PAGES}: reads of 1 MiB would come to the daemon in pieces."
        )
    if not limits.is_root and limits.background is not None and limits.background < WANTED_BACKGROUND:
        return note(
            f"{pages}, {limits.background} in the background",
            f"Write {WANTED_BACKGROUND} to /sys/module/fuse/parameters/max_user_bgreq: else readers that wait for a"
            " slow origin hold up the readahead of the others. A daemon of root's is not limited by it.",
        )
    return ok(pages)


@dataclass(frozen=True, slots=True)
class RequestTimeout:
    """`limit_s`: after so long without an answer the kernel ends the mount, 0 = never; `needed_s`: dsfs may take."""

    limit_s: int
    needed_s: float


def request_timeout(held: RequestTimeout) -> Finding:
    if held.limit_s == 0:
        return ok("none")
    if held.limit_s <= held.needed_s:
        return fail(
            f"{held.limit_s} s",
            f"sysctl fs.fuse.max_request_timeout=0 and default_request_timeout=0: a read or a first look into a"
            f" version may take {format_duration(held.needed_s)} (origin.timeout, origin.list_timeout), and"
            " the kernel would end the mount.",
        )
    return ok(f"{held.limit_s} s, more than dsfs ever takes")


def open_files(most: int) -> Finding:
    """The hard limit, which the daemon raises its own to."""
    if most >= LEAST_OPEN_FILES:
        return ok(f"{most:,}")
    return warn(
        f"{most:,}",
        f"LimitNOFILE={LEAST_OPEN_FILES * 16} in the unit, or /etc/security/limits.conf: segments stay open.",
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes: what the daemon's buffers may take, what is available, what a cgroup allows (None = no limit)."""

    wanted: int
    available: int
    allowed: int | None


def memory(held: Memory) -> Finding:
    room = held.available if held.allowed is None else min(held.available, held.allowed)
    measured = f"{format_size(room)} available, memory.limit is {format_size(held.wanted)}"
    if held.wanted > room:
        return fail(measured, "Lower memory.limit, or give the daemon more: it would be killed under load.")
    if held.wanted > room // 2:
        return warn(measured, "Lower memory.limit: what is left for the page cache is what makes second reads fast.")
    return ok(measured)


def state_dir(kind: str) -> Finding:
    """`kind`: the file system it lies on."""
    if FileSystem(kind).is_network:
        return fail(
            kind,
            "state_dir has to be on a local disk: the index is a memory-mapped file, which no network keeps right.",
        )
    if kind in VOLATILE:
        return warn(kind, "state_dir on a disk: a reboot would forget what is resident, and look for it again.")
    return ok(kind)


def state_room(free_bytes: int) -> Finding:
    measured = f"{format_size(free_bytes)} free"
    if free_bytes < LEAST_STATE_BYTES:
        return fail(measured, "Make room where state_dir lies: the index and catalogs cannot grow.")
    if free_bytes < ROOMY_STATE_BYTES:
        return warn(measured, "Make room where state_dir lies: each version in use has its catalog there.")
    return ok(measured)


def clock_synchronized(is_synchronized: bool) -> Finding:
    """By the kernel's own account; whether the time is right say directory.clock and origin.clock."""
    if is_synchronized:
        return ok("synchronized")
    return note("not synchronized", "Run chrony or systemd-timesyncd: signed requests and logs need the right time.")


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the running daemon says of itself; `version` "" = none is running."""

    version: str
    backing: str  # state
    reason: str
    eviction: str  # what is wrong with it


def daemon(running: Daemon) -> Finding:
    if not running.version:
        return note("none is running", "")
    measured = f"dsfs {running.version}, backing directory {running.backing}"
    if running.backing != "ok":
        return warn(f"{measured}: {running.reason}", "See `dsfs status`; the checks of the directory may tell why.")
    if running.eviction:
        return warn(
            f"{measured}: {running.eviction}",
            "If snapshots hold what was deleted: delete those of the volume, and have none made (ONTAP:"
            " -snapshot-policy none). If it is not known what a node uses: see `dsfs status --nodes`, and stop or"
            " update that one. If there was no round: the logs of the daemons say why.",
        )
    if running.version != __version__:
        return note(measured, f"This is dsfs {__version__}: restart the daemon to run it.")
    return ok(measured)
