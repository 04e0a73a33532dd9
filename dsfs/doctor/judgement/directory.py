"""The backing directory: its state, and whether its file system does what dsfs rests on."""

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from dsfs.doctor.check import Finding, fail, note, ok, warn
from dsfs.model.quantity import format_duration, format_pct, format_size
from dsfs.storage.filesystem import FileSystem

MIB = 1024 * 1024
SLOW_ANSWER_S = 1.0
SEGMENT_BYTES = 4 * MIB  # the smallest that is usual: how many inodes a limit may need
FULL_MEMBER_PCT = 95
LARGE_FOLDER_BYTES = 2 * MIB  # about 27,000 names on ONTAP
HUGE_FOLDER_BYTES = 200 * MIB  # its limit is 320 MiB
SLOW_LOCK_S = 1.0
WRONG_CLOCK_S = 10.0
OFF_CLOCK_S = 2.0
SLOW_REQUEST_MS = 5.0
SLOW_MB_S = 100.0
LINK_PCT = 80
WAIT_FOR_SPACE_S = 10.0


def answers(answer_s: float) -> Finding:
    measured = _brief(answer_s)
    if answer_s > SLOW_ANSWER_S:
        return warn(measured, "The server is busy, or far away: reads of resident files wait as long.")
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Mark:
    """What lies at backing.path.  `refused`: why a daemon would not start there; `cluster` "" = no mark yet."""

    refused: str
    format: object
    known_format: int
    cluster: str
    foreign: str  # a name that is not dsfs's, where there is no mark


def mark(found: Mark) -> Finding:
    if found.refused:
        return fail(found.refused, "Mount it; or, if it was emptied on purpose, `dsfs mount --force`.")
    if found.foreign:
        return fail(
            f"no dsfs.json, but {found.foreign!r}", "Give dsfs a directory of its own: it does not begin in a used one."
        )
    if not found.cluster:
        return note("no dsfs.json yet", "The first `dsfs mount` makes it.")
    if found.format != found.known_format:
        return fail(
            f"format {found.format!r}",
            f"This version of dsfs knows format {found.known_format} only: install the other.",
        )
    return ok(f"cluster id {found.cluster}")


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes, whose the file then is, and whether root of the node writes; numbers of users."""

    writer: int
    owner: int


def owner(found: Owner) -> Finding:
    if found.owner == found.writer:
        return ok(f"files belong to who makes them ({found.owner})")
    return fail(
        f"a file of user {found.writer} belongs to {found.owner}",
        "The export squashes this user (ONTAP: -superuser none, -anon): let the daemon run as a user of its own that"
        " owns the directory, or allow root in the export rule; on NFS 4 the id domains have to agree, too.",
    )


def mode(bits: int) -> Finding:
    """Of the backing directory."""
    if bits & 0o022:
        return warn(
            f"{bits:04o}", "chmod 0700, owned by the daemon's user: who can write here can change what jobs read."
        )
    return ok(f"{bits:04o}")


@dataclass(frozen=True, slots=True)
class Volume:
    """Bytes, but for `files`: inodes in all and free, 0 in all = no such limit."""

    total: int
    free: int
    limit: int
    floor: int
    used: int  # by anybody
    files: int
    free_files: int


def room(held: Volume) -> Finding:
    measured = f"{format_size(held.free)} of {format_size(held.total)} free, limit {format_size(held.limit)}"
    if held.free == 0 and held.used * 100 < FULL_MEMBER_PCT * held.total:
        return fail(
            measured,
            "One member of a FlexGroup is full, and the volume says so for all: rebalance it, or make room there.",
        )
    if held.free <= held.floor:
        return fail(
            f"{measured}, floor {format_size(held.floor)}", "Nothing is filled: make room, or lower backing.floor."
        )
    if held.limit + held.floor > held.total:
        return warn(
            measured,
            "Lower backing.limit or enlarge the volume: limit and floor together are more than the file system has.",
        )
    return ok(measured)


def inodes(held: Volume) -> Finding:
    if held.files == 0:
        return ok("no limit")
    needed = held.limit // SEGMENT_BYTES
    measured = f"{held.free_files:,} of {held.files:,} free, about {needed:,} segments in the limit"
    if held.free_files == 0:
        return fail(measured, "Out of inodes looks like out of space: `volume modify -files N` on ONTAP.")
    if held.files < needed:
        return warn(measured, "More inodes (ONTAP: `volume modify -files`, at least four for each 4 MiB of the limit).")
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Folders:
    """Of segments/<aa>: how many, and the largest: bytes of the directory itself, and names in it."""

    count: int
    largest: str
    bytes: int
    names: int


def folders(found: Folders) -> Finding:
    if found.count == 0:
        return ok("none yet")
    measured = f"{found.count}; the largest, {found.largest}, has {format_size(found.bytes)} for {found.names:,} names"
    if found.bytes > HUGE_FOLDER_BYTES:
        return fail(measured, "Near the limit of the server (ONTAP: maxdirsize): begin a new backing directory.")
    if found.bytes > LARGE_FOLDER_BYTES:
        return warn(
            measured, "Lookups get slow, and directories never shrink: begin a new backing directory when convenient."
        )
    return ok(measured)


def snapshots(names: tuple[str, ...]) -> Finding:
    """What stands in .snapshot."""
    if not names:
        return ok("none")
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    measured = f"{len(names)}: {shown}"
    if any(name.startswith("Anti_ransomware") for name in names):
        why = "`security anti-ransomware volume disable`: it makes snapshots whatever the policy says"
    elif any(name.startswith(("snapmirror", "clone")) for name in names):
        why = "no SnapMirror, backup or clone of this volume: it is a cache"
    else:
        why = "snapshot policy none and -percent-snapshot-space 0, and delete those that are there"
    return warn(measured, f"On ONTAP {why}: else the room of deleted segments comes back hours or weeks later.")


@dataclass(frozen=True, slots=True)
class Direct:
    kind: str  # of file system
    is_direct: bool
    is_same: bool  # what was read is what was written


def direct(tried: Direct) -> Finding:
    if not tried.is_same:
        return fail("other bytes than were written", "Do not use this file system: it does not keep what it takes.")
    if tried.is_direct:
        return ok("works")
    if FileSystem(tried.kind).is_network:
        return fail("refused", "dsfs needs O_DIRECT here: without it one node reads zeros where another has written.")
    return note(f"refused by {tried.kind}", "Every block is flushed instead, which is slower.")


def sparse(is_right: bool) -> Finding:
    if is_right:
        return ok("a hole is zeros, and a block in it is kept")
    return fail("a hole or a block in it is wrong", "Do not use this file system: segments are filled in any order.")


@dataclass(frozen=True, slots=True)
class Names:
    """Errno of each attempt, 0 = it worked."""

    link: int
    again: int  # link to a name that is there
    across: int  # between two folders
    rename: int
    rename_across: int


def names(tried: Names) -> Finding:
    wrong = [
        f"{what}: {_said(number)}"
        for what, number, wanted in (
            ("link", tried.link, 0),
            ("link to a name that is there", tried.again, errno.EEXIST),
            ("link across folders", tried.across, 0),
            ("rename", tried.rename, 0),
            ("rename across folders", tried.rename_across, 0),
        )
        if number != wanted
    ]
    if not wrong:
        return ok("as they have to")
    if errno.EXDEV in (tried.across, tried.rename_across):
        remedy = "A qtree, junction or other mount lies inside: give dsfs a directory without."
    else:
        remedy = "dsfs seals segments by link(): this file system cannot hold a backing directory."
    return fail("; ".join(wrong), remedy)


@dataclass(frozen=True, slots=True)
class Locks:
    """Between two open files of this node.  `error`: errno if it cannot lock at all."""

    error: int
    excludes: bool
    is_freed: bool


def locks(tried: Locks) -> Finding:
    if tried.error:
        return fail(
            _said(tried.error),
            "Locks do not work: for NFS 3 start rpc.statd and let NLM through the firewall; or mount 4.1.",
        )
    if not tried.excludes:
        return fail(
            "a second open file gets the same lock", "Every process would download for itself: use another server."
        )
    if not tried.is_freed:
        return fail("a closed file keeps its lock", "A reader would wait for nothing: use another server.")
    return ok("one holder, freed by close (between nodes: --with)")


def lock_time(longest_s: float) -> Finding:
    measured = f"at most {_brief(longest_s)}"
    if longest_s > SLOW_LOCK_S:
        return warn(measured, "For NFS 3, is rpc.statd running here? Else the server is in its grace time, or busy.")
    return ok(measured)


def lock_bytes(error: int) -> Finding:
    """`error`: errno of reading or writing a byte that somebody else has locked."""
    if error == 0:
        return ok("advisory")
    return note(f"mandatory ({_said(error)})", "Harmless for dsfs, which locks bytes that nobody reads or writes.")


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds that the file server is ahead of this node, and the largest difference between two folders."""

    ahead_s: float
    between_s: float


def clock(measured_by: Clock) -> Finding:
    measured = f"the file server is {_off(measured_by.ahead_s)} this node"
    if measured_by.between_s > OFF_CLOCK_S:
        return warn(
            f"two folders differ by {measured_by.between_s:.1f} s",
            "NTP on all controllers of the file server: leases are in its time.",
        )
    if abs(measured_by.ahead_s) > WRONG_CLOCK_S:
        return warn(
            measured,
            "NTP on the node and on the server. dsfs itself goes by the server's clock; signatures and logs do not.",
        )
    if abs(measured_by.ahead_s) > OFF_CLOCK_S:
        return note(measured, "NTP on the node and on the server.")
    return ok(measured)


def atime(moves: bool) -> Finding:
    """Whether a second read changes a file's time of access."""
    if not moves:
        return ok("stays")
    return warn(
        "moves with every read",
        "`volume modify -atime-update false` on ONTAP, noatime on the server: reads would be writes.",
    )


@dataclass(frozen=True, slots=True)
class Latency:
    """One request to the file server, in milliseconds: the median, and the longest."""

    median_ms: float
    longest_ms: float


def latency(taken: Latency) -> Finding:
    measured = f"{taken.median_ms:.2f} ms, at most {taken.longest_ms:.1f} ms"
    if taken.median_ms > SLOW_REQUEST_MS:
        return warn(measured, "Far from the nodes, busy, or below a QoS ceiling: small files are slow from here.")
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Speed:
    """MB/s by threads; `link_mb_s`: what the network interface can do, None where that is unknown or no network."""

    by_threads: Mapping[int, float]
    link_mb_s: float | None = None


def speed(reached: Speed) -> Finding:
    rates = reached.by_threads.items()
    measured = ", ".join(f"{rate:,.0f} MB/s with {threads} thread{'s' * (threads > 1)}" for threads, rate in rates)
    best = max(reached.by_threads.values())
    if best < SLOW_MB_S:
        return warn(
            measured, "Slower than one connection to most object stores: slots, rsize and wsize, a QoS ceiling?"
        )
    if reached.link_mb_s is not None and best * 100 < LINK_PCT * reached.link_mb_s:
        return note(
            f"{measured}, {format_pct(int(best), int(reached.link_mb_s))} of the link",
            "If that is less than it should be: nfs.slots, nfs.transfer, nfs.connections, a QoS ceiling.",
        )
    return ok(measured)


@dataclass(frozen=True, slots=True)
class SpaceReturn:
    """Bytes written and deleted, and when statvfs had them back; None = not within WAIT_FOR_SPACE_S."""

    written: int
    after_s: float | None


def space_return(seen: SpaceReturn) -> Finding:
    if seen.after_s is None:
        return warn(
            f"{format_size(seen.written)} not back after {WAIT_FOR_SPACE_S:g} s",
            "Snapshots (also those of ransomware protection), another node's open files, or slow deletion by the server"
            " keep it: see directory.snapshots. dsfs waits for it instead of deleting more.",
        )
    return ok(f"{format_size(seen.written)} back after {format_duration(seen.after_s)}")


def _brief(duration_s: float) -> str:
    return f"{1000 * duration_s:.1f} ms" if duration_s < 1 else format_duration(duration_s)


def _said(number: int) -> str:
    return f"{errno.errorcode.get(number, number)}, {os.strerror(number)}" if number else "it worked"


def _off(ahead_s: float) -> str:
    return f"{abs(ahead_s):,.1f} s {'ahead of' if ahead_s > 0 else 'behind'}"
