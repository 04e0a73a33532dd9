"""`dsfs unmount`: ask the daemon to stop and wait until it is gone, or remove the mount a dead one left.

A daemon that runs answers at once.  One that does not (it is stopped, or stuck) has been asked all the same: the
request lies in its socket, and it unmounts as soon as it goes on.
"""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dsfs.admin.client import ControlClient
from dsfs.model.errors import BusyError, DaemonUnreachableError, DsfsError, MountpointError
from dsfs.storage.mounts import detach, life_of, mount_at

ANSWER_S = 10.0  # a daemon that has not answered for so long is not waited for
QUIET_S = 2.0  # from then on the user is told what is waited for
_LOOK_AGAIN_S = 0.05


def unmount(
    client: ControlClient, mountpoint: Path | None, *, now: bool, timeout_s: float, tell: Callable[[str], None]
) -> str:
    """What was done, for people; `tell` gets what is waited for.

    `now` does not wait for open files, nor for a daemon that does not answer.  `mountpoint` is None where only the
    socket is known; then nothing can be done about a mount without a daemon.  Raises DaemonUnreachableError if there is
    nothing to unmount or the daemon does not answer, BusyError if the mount is in use.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        pid = client.daemon_pid()
        mountpoint = mountpoint or Path(client.call("status")["daemon"]["mountpoint"])
    except DaemonUnreachableError:
        if mountpoint is None:
            raise
        return _unmount_without_daemon(mountpoint, now=now)
    who = f"the daemon (pid {pid})" if pid else "the daemon"
    answer_s = min(ANSWER_S, timeout_s)
    with _telling(tell, f"{who} is asked to stop; an answer is waited for {answer_s:g} s, its end {timeout_s:g} s"):
        if not _ask_to_stop(client, now=now, timeout_s=answer_s):
            return _leave_unanswered(who, pid, mountpoint, now=now, waited_s=answer_s)
        if not _wait_gone(pid, client, mountpoint, deadline_s):
            hint = f"kill -9 {pid or 'its pid'} ends it" if now else "--now does not wait for open files"
            raise DsfsError(f"{who} is stopping and has not ended within {timeout_s:g} s; {hint}")
    return f"{mountpoint} is unmounted"


@contextmanager
def _telling(tell: Callable[[str], None], what: str) -> Iterator[None]:
    """Tell it if the block takes longer than QUIET_S."""
    timer = threading.Timer(QUIET_S, tell, [what])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _ask_to_stop(client: ControlClient, *, now: bool, timeout_s: float) -> bool:
    """Whether the daemon has heard it: it says so, or is gone already."""
    try:
        client.call("stop", {"now": now}, timeout_s=timeout_s)
    except DaemonUnreachableError:
        return not _is_listening(client)
    return True


def _leave_unanswered(who: str, pid: int | None, mountpoint: Path, *, now: bool, waited_s: float) -> str:
    """The daemon was asked, and does not answer: take its mount away, or say how things stand."""
    state = f"is stopped (kill -CONT {pid} lets it go on)" if _is_stopped(pid) else "is busy or stuck"
    later = f"it {state}, and ends when it goes on"
    if now and mount_at(mountpoint) is not None:
        detach(mountpoint)
        return f"{mountpoint} is unmounted; {who} has not answered for {waited_s:g} s: {later}"
    raise DaemonUnreachableError(
        f"{who} was asked to stop and has not answered for {waited_s:g} s: {later}; {mountpoint} is unmounted then,"
        " or without it by `dsfs unmount --now`"
    )


def _is_stopped(pid: int | None) -> bool:
    """Whether somebody has stopped the process (SIGSTOP, a debugger)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except OSError:
        return False


def _unmount_without_daemon(mountpoint: Path, *, now: bool) -> str:
    mount = mount_at(mountpoint)
    if mount is None:
        raise DaemonUnreachableError(f"no daemon answers and nothing is mounted at {mountpoint}")
    if not mount.filesystem.startswith("fuse"):
        raise MountpointError(
            f"no daemon answers, and {mountpoint} is a mount of {mount.filesystem}, not of dsfs"
        )
    life = life_of(mountpoint)
    if life == "alive" or (life == "silent" and not now):
        state = "answers, but not on the control socket" if life == "alive" else "does not answer"
        raise BusyError(
            f"the mount at {mountpoint} {state}: is it of another configuration? Nothing was done"
        )
    detach(mountpoint)
    return f"no daemon; the {life} mount it left at {mountpoint} is unmounted"


def _wait_gone(pid: int | None, client: ControlClient, mountpoint: Path, deadline_s: float) -> bool:
    """Whether process, socket and mount are gone before the deadline."""
    if pid is not None and not _wait_ended(pid, deadline_s):
        return False
    while _is_listening(client) or mount_at(mountpoint) is not None:
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(_LOOK_AGAIN_S)
    return True


def _wait_ended(pid: int, deadline_s: float) -> bool:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(process, select.POLLIN)
        return bool(poller.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
    finally:
        os.close(process)


def _is_listening(client: ControlClient) -> bool:
    try:
        client.daemon_pid()
    except DaemonUnreachableError:
        return False
    return True
