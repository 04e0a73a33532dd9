"""`dsfs unmount`: ask the daemon to stop and wait until it is gone, or remove the mount a dead one left."""

import os
import select
import time
from pathlib import Path

from dsfs.admin.client import ControlClient
from dsfs.model.errors import BusyError, DaemonUnreachableError, DsfsError, MountpointError
from dsfs.storage.mounts import detach, life_of, mount_at

_LOOK_AGAIN_S = 0.05


def unmount(client: ControlClient, mountpoint: Path | None, *, now: bool, timeout_s: float) -> str:
    """What was done, for people.

    `now` does not wait for open files.  `mountpoint` is None where only the socket is known; then nothing
    can be done about a mount without a daemon.  Raises DaemonUnreachableError if there is nothing to unmount,
    BusyError if the mount is in use.
    """
    try:
        pid = client.daemon_pid()
        mountpoint = mountpoint or Path(client.call("status")["daemon"]["mountpoint"])
        deadline_s = time.monotonic() + timeout_s
        _ask_to_stop(client, now=now, timeout_s=timeout_s)
    except DaemonUnreachableError:
        if mountpoint is None:
            raise
        return _unmount_without_daemon(mountpoint, now=now)
    if not _wait_gone(pid, client, mountpoint, deadline_s):
        raise DsfsError(
            f"the daemon has not ended within {timeout_s:g} s; --now does not wait for open files"
        )
    return f"{mountpoint} is unmounted"


def _ask_to_stop(client: ControlClient, *, now: bool, timeout_s: float) -> None:
    try:
        client.call("stop", {"now": now}, timeout_s=timeout_s)
    except DaemonUnreachableError:
        # A daemon that ends while it answers has done what it was asked.
        if _is_answering(client):
            raise


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
    while _is_answering(client) or mount_at(mountpoint) is not None:
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


def _is_answering(client: ControlClient) -> bool:
    try:
        client.daemon_pid()
    except DaemonUnreachableError:
        return False
    return True
