"""What can be said about a configuration on this machine before anything is mounted.

Neither the origin nor the backing directory is touched: an NFS server that does not answer must not keep a
command, or the start of a daemon, waiting.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from dsfs.config import Config
from dsfs.model.errors import ConfigError
from dsfs.storage.filesystem import NETWORK_KINDS, FileSystem
from dsfs.storage.mounts import Mount, mount_of, mounts

_VOLATILE = frozenset({"tmpfs", "ramfs"})
FUSE_CONF = Path("/etc/fuse.conf")


def preflight(config: Config, among: list[Mount] | None = None) -> list[str]:
    """Warnings, one line each; ConfigError for what must not be."""
    known = mounts() if among is None else among
    state = mount_of(Path(os.path.realpath(config.state_dir)), known)
    if state is not None and state.filesystem in NETWORK_KINDS:
        # LMDB maps its file into memory and locks it: neither works where another machine holds the file.
        raise ConfigError(
            f"{config.source}: state_dir: {config.state_dir} is on {state.filesystem} ({state.mountpoint}):"
            " expected a local disk, the index kept there does not work on a network file system"
        )
    return [*_about_file_systems(config, state, known), *_about_times(config), *_about_fuse(config)]


def _about_file_systems(config: Config, state: Mount | None, known: list[Mount]) -> Iterator[str]:
    if state is not None and state.filesystem in _VOLATILE:
        yield f"state_dir: {config.state_dir} is on {state.filesystem}: a reboot forgets what is resident"
    if state is not None and state.filesystem.startswith("fuse"):
        yield f"state_dir: {config.state_dir} is on {state.filesystem}: the index there needs a local disk"
    backing = mount_of(config.backing.path, known)
    if backing is not None and not FileSystem(backing.filesystem).is_network:
        yield (
            f"[backing] path: {config.backing.path} is on {backing.filesystem} ({backing.mountpoint}),"
            " not on a network file system: is it mounted? Other nodes do not share what is fetched"
        )


def _about_times(config: Config) -> Iterator[str]:
    origin = config.origin
    for name, timeout_s in (("connect", origin.connect_timeout_s), ("stall", origin.stall_timeout_s)):
        if timeout_s >= origin.timeout_s:
            yield f"[origin] {name}_timeout: not shorter than timeout: there is no time for another attempt"


def _about_fuse(config: Config) -> Iterator[str]:
    if not os.path.exists("/dev/fuse"):
        yield "/dev/fuse is missing: nothing can be mounted here"
    if config.mount.allow_other and os.geteuid() != 0 and not lets_others_in(FUSE_CONF):
        yield f"[mount] allow_other: only root may, unless {FUSE_CONF} says user_allow_other"


def lets_others_in(fuse_conf: Path) -> bool:
    """Whether fuse.conf allows an ordinary user to mount with allow_other."""
    try:
        lines = fuse_conf.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
