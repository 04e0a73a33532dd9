"""What can be said about a configuration on this machine before anything is mounted.

The origin is not asked, and the file systems of the three directories are asked for a moment only: an NFS server that
does not answer must not keep a command, or the start of a daemon, waiting.
"""

import errno
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dsfs.config import Config
from dsfs.model.errors import ConfigError
from dsfs.model.quantity import format_size
from dsfs.storage.filesystem import NETWORK_KINDS, FileSystem
from dsfs.storage.mounts import Mount, mount_of, mounts, within

_ANSWERS_S = 2.0
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
    if problems := [f"{config.source}: {problem}" for problem in _no_directories(config)]:
        raise ConfigError("\n".join(problems))
    return [
        *_about_file_systems(config, state, known), *_about_sizes(config), *_about_times(config), *_about_fuse(config),
    ]  # fmt: skip


def _no_directories(config: Config) -> Iterator[str]:
    places = {"mountpoint": config.mountpoint, "state_dir": config.state_dir, "[backing] path": config.backing.path}
    for key, path in places.items():
        if within(_ANSWERS_S, partial(_is_in_the_way, path)):
            yield f"{key}: {path} is not a directory"


def _is_in_the_way(path: Path) -> bool:
    """Whether there is something at the path, or on the way to it, that is no directory."""
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as exc:
        return exc.errno == errno.ENOTDIR


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


def _about_sizes(config: Config) -> Iterator[str]:
    limit_bytes, most_bytes = config.memory.limit_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if limit_bytes > most_bytes:
        yield f"[memory] limit: {format_size(limit_bytes)} is more than the {format_size(most_bytes)} of this machine"
    path, limit_bytes = config.backing.path, config.backing.limit_bytes
    total_bytes = within(_ANSWERS_S, partial(_file_system_bytes, path))
    if total_bytes is None:
        yield f"[backing] path: {path} has not answered for {_ANSWERS_S:g} s"
    elif 0 < total_bytes < limit_bytes:
        there = f"the {format_size(total_bytes)} of the file system there"
        yield f"[backing] limit: {format_size(limit_bytes)} is more than {there}: only the floor bounds what is filled"


def _file_system_bytes(path: Path) -> int:
    """The size of the file system that holds, or will hold, the directory; 0 if that is not known."""
    for place in (path, path.parent):
        try:
            facts = os.statvfs(place)
        except OSError:
            continue
        return facts.f_blocks * facts.f_frsize
    return 0


def _about_times(config: Config) -> Iterator[str]:
    origin = config.origin
    for name, timeout_s in (("connect", origin.connect_timeout_s), ("stall", origin.stall_timeout_s)):
        if timeout_s >= origin.timeout_s:
            yield f"[origin] {name}_timeout: not shorter than timeout: there is no time for another attempt"
    if config.backing.timeout_s >= origin.timeout_s:
        yield "[backing] timeout: not shorter than that of [origin]: a reader waits longer for the cache than for that"


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
