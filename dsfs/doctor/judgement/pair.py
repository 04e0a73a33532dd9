"""What one node sees of what another does in the same directory."""

import errno
import os
import signal
from dataclasses import dataclass

from dsfs.doctor.check import Finding, fail, note, ok, warn
from dsfs.model.quantity import format_duration, format_pct

FREE_S = 5.0  # how long a lock that the other node let go is waited for
SEEN_S = 2.0  # and what it wrote, without asking the server
PROMPT_S = 1.0
OFF_CLOCK_S = 2.0
WRONG_CLOCK_S = 10.0
LINKS = 20


def met(after_s: float) -> Finding:
    return ok(f"after {format_duration(after_s)}")


@dataclass(frozen=True, slots=True)
class Both:
    """The same thing of this node and of the other one."""

    here: str
    there: str


def versions(dsfs: Both) -> Finding:
    if dsfs.here == dsfs.there:
        return ok(f"dsfs {dsfs.here} on both")
    return note(f"dsfs {dsfs.here} here, {dsfs.there} there", "Install the same on all nodes.")


def mounts(options: Both) -> Finding:
    """Version, rsize, wsize and the like."""
    if options.here == options.there:
        return ok(options.here)
    return note(
        f"{options.here} here, {options.there} there", "Mount alike on all nodes: what holds here then holds there."
    )


def client_ids(told: Both) -> Finding:
    if told.here != told.there:
        return ok(f"{told.here} and {told.there}")
    return fail(
        f"both are {told.here}",
        "A hostname of its own for each node, or options nfs nfs4_unique_id=... in /etc/modprobe.d: to the server they"
        " are one client, and each destroys the session and the locks of the other.",
    )


@dataclass(frozen=True, slots=True)
class User:
    """As whom the other node writes, and whose its files are here."""

    said: int
    seen: int


def users(found: User) -> Finding:
    if found.said == found.seen:
        return ok(f"files of user {found.said} are that user's here, too")
    return fail(
        f"files of user {found.said} belong to {found.seen} here",
        "The same NFS 4 id domain on nodes and server (or numeric ids), and an export rule that squashes nobody.",
    )


def clocks(apart_s: float) -> Finding:
    """Both compared with the file server's."""
    measured = f"{abs(apart_s):,.1f} s apart"
    if abs(apart_s) > WRONG_CLOCK_S:
        return warn(measured, "NTP on both. dsfs itself goes by the file server's clock; signatures and logs do not.")
    if abs(apart_s) > OFF_CLOCK_S:
        return note(measured, "NTP on both.")
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Locks:
    """While the other node held a lock, and after it let go; `freed_s` None = not within FREE_S.

    `bytes_error`: errno of reading and writing what it had locked.
    """

    excluded: bool
    freed_s: float | None
    bytes_error: int


def locks(seen: Locks) -> Finding:
    if not seen.excluded:
        return fail(
            "this node gets a lock that the other holds",
            "Locks stay on the node: see nfs.locking. Until then every node downloads what the others download.",
        )
    if seen.freed_s is None:
        return fail(
            f"not free {FREE_S:g} s after the other let go", "The lock manager of the server is stuck, or busy."
        )
    measured = f"exclude the other node, free after {format_duration(seen.freed_s)}"
    if seen.bytes_error:
        return note(
            f"{measured}, mandatory ({_said(seen.bytes_error)})", "Harmless: no locked byte is read or written."
        )
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Seen:
    """`after_s`: when it was seen without asking the server, None = not within SEEN_S; `when_asked`: by asking it."""

    after_s: float | None
    when_asked: bool


def names(seen: Seen) -> Finding:
    """A name that was looked up before the other node made it."""
    if not seen.when_asked:
        return fail("not seen even when the server is asked", "Not a file system that nodes can share.")
    if seen.after_s is None or seen.after_s > PROMPT_S:
        when = f"not within {SEEN_S:g} s" if seen.after_s is None else f"after {format_duration(seen.after_s)}"
        return warn(f"{when}; at once when asked for", "mount option lookupcache=positive: see nfs.lookupcache.")
    return ok(f"seen after {format_duration(seen.after_s)}")


def sizes(seen: Seen) -> Finding:
    """A file that grew while it was open here."""
    if not seen.when_asked:
        return fail("not seen even when the server is asked", "Not a file system that nodes can share.")
    when = f"not within {SEEN_S:g} s" if seen.after_s is None else f"after {format_duration(seen.after_s)}"
    return ok(f"{when}, at once when asked for (dsfs asks)")


def direct(is_new: bool) -> Finding:
    """Whether O_DIRECT reads what the other node has just written where a hole was read before."""
    if is_new:
        return ok("reads what the other node wrote")
    return fail(
        "reads the hole that was there before", "Not a file system that nodes can share: jobs would read zeros."
    )


@dataclass(frozen=True, slots=True)
class Links:
    """How many of LINKS names each of the two got that both tried to link at once."""

    here: int
    there: int


def links(won: Links) -> Finding:
    if won.here + won.there == LINKS:
        return ok(f"one winner each ({won.here} here, {won.there} there)")
    return fail(
        f"{won.here} here and {won.there} there of {LINKS}",
        "link() does not exclude: two nodes would seal two contents.",
    )


@dataclass(frozen=True, slots=True)
class OpenUnlink:
    """After the other node removed an open file: errno of a read, and the signal that a mapping met; 0 = it works."""

    read_error: int
    mapping_signal: int


def open_unlink(seen: OpenUnlink) -> Finding:
    if not seen.read_error and not seen.mapping_signal:
        return ok("an open file that is removed stays readable")
    said = [_said(seen.read_error)] if seen.read_error else []
    said += [f"{signal.Signals(seen.mapping_signal).name} to a mapping"] if seen.mapping_signal else []
    return note(
        f"an open file that is removed gives {', '.join(said)}",
        "As on every NFS 3: remove a version (`dsfs drop`) only when no job reads it. NFS 4.1 is kinder.",
    )


@dataclass(frozen=True, slots=True)
class PageCache:
    """Pages of a file, and how many were still in memory after the other node had read it."""

    pages: int
    kept: int


def page_cache(seen: PageCache) -> Finding:
    if seen.kept == seen.pages:
        return ok("kept while other nodes read")
    return warn(
        f"{format_pct(seen.kept, seen.pages)} kept after the other node has read the file",
        "Reads change the file for the server: switch updates of atime off (see directory.atime), else every node reads"
        " everything again.",
    )


def _said(number: int) -> str:
    return f"{errno.errorcode.get(number, str(number))}, {os.strerror(number)}"
