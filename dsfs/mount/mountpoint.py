"""What must be true of a mountpoint before the mount, and what is put right by itself.

Blocking; called before trio runs.
"""

import errno
import logging
import os
import re
from pathlib import Path

from dsfs.model.errors import BusyError, MountpointError
from dsfs.storage.mounts import detach, life_of, mount_at

log = logging.getLogger(__name__)

_SOURCE = re.compile(r"dsfs@(\d+)")


def prepare_mountpoint(path: Path, *, force: bool) -> None:
    """Make it if it is missing; take away what a dead daemon left; refuse what is not fit.

    MountpointError if it is no directory, or not empty without `force`; BusyError if something is mounted
    there.
    """
    mount = mount_at(path)
    if mount is not None:
        life = life_of(path) if mount.filesystem.startswith("fuse") else "alive"
        if life == "dead":
            log.info("%s: a dead daemon left its mount there; it is taken away", path)
            detach(path)
        else:
            owner = _SOURCE.fullmatch(mount.source)
            who = (
                f"by another dsfs daemon (pid {owner[1]})"
                if owner
                else f"({mount.filesystem}, {mount.source})"
            )
            raise BusyError(f"{path} is already mounted {who}")
    try:
        if not os.path.lexists(path):
            path.mkdir(parents=True, exist_ok=True)
            log.info("made %s", path)
        names = os.listdir(path)
    except (FileExistsError, NotADirectoryError):
        raise MountpointError(f"{path} is not a directory") from None
    except OSError as exc:
        if exc.errno == errno.ENOTDIR:
            raise MountpointError(f"{path} is not a directory") from None
        raise MountpointError(f"{path}: {exc.strerror}") from exc
    if names and not force:
        raise MountpointError(
            f"{path} is not empty ({names[0]!r}, ...): a mount would hide what is there; --force mounts all the same"
        )
