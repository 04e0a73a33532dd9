"""A node: an NFS client with a kernel's worth of caches, locks and leases of its own, and cables that can be cut."""

import subprocess
from pathlib import Path
from typing import Literal

from dsfs.storage.mounts import mount_at
from tests.rig.nfs.machine import GuestMachine
from tests.rig.nfs.mountstats import MountStats, mount_stats
from tests.rig.nfs.server import ADDRESS, EXPORTS, NfsServer, export_path

Network = Literal["storage", "origin"]

VERSIONS = ("3", "4.1", "4.2")


class NfsClient(GuestMachine):
    """`prepare` makes it one; `mount` then mounts an export at its path on the server."""

    server: NfsServer

    def prepare(self, server: NfsServer) -> None:
        self.server = server
        self._cut: set[Network] = set()
        self._delayed: set[Network] = set()
        self._mounted: dict[str, tuple[str, str]] = {}
        self.check("sh", "-ec", "rpcbind; rpc.statd --no-notify")  # for the locks of version 3

    # ---------------------------------------------------------------- mounts

    def mount(self, export: str = "large", version: str = "4.2", options: str = "") -> Path:
        """Mount the export so, anew if it is mounted otherwise; where it is then."""
        path = export_path(export)
        if self._mounted.get(export) == (version, options):
            return path
        self.unmount(export)
        # Without nosharecache a second mount of the same server would take over the options of the first.
        chosen = ",".join(["nosharecache", f"vers={version}", *filter(None, [options])])
        source = f"{ADDRESS}:{path if version.startswith('3') else '/' + export}"
        self.check("mount", "-t", "nfs", "-o", chosen, source, str(path))
        self._mounted[export] = (version, options)
        return path

    def unmount(self, export: str) -> None:
        """With all that programs still have open there."""
        self._mounted.pop(export, None)
        path = export_path(export)
        if self.call(mount_at, path) is not None and self.run("umount", str(path)).returncode != 0:
            self.check("umount", "--force", "--lazy", str(path))

    def mount_stats(self, export: str = "large") -> MountStats:
        """What the export's mount has sent so far; take the difference of two."""
        return self.call(mount_stats, export_path(export))

    # ---------------------------------------------------------------- faults

    def cut(self, network: Network = "storage") -> None:
        """Nothing gets through, and nobody is told."""
        self._link(network, "down")
        self._cut.add(network)

    def mend(self, network: Network = "storage") -> None:
        self._link(network, "up")
        self._cut.discard(network)

    def delay(self, milliseconds: int, network: Network = "storage") -> None:
        """Each request takes so much longer."""
        self.check("tc", "qdisc", "replace", "dev", network, "root", "netem", "delay", f"{milliseconds}ms")
        self._delayed.add(network)

    def set_clock(self, offset_s: int) -> None:
        """How far the clock is off for programs that are started from now on; the times of files stay right."""
        self.env.clear()
        if offset_s:
            self.env.update(LD_PRELOAD=str(self._wrong_clock()), RIG_CLOCK_OFFSET_S=str(offset_s))

    def _wrong_clock(self) -> Path:
        library = self.files / "wrongclock.so"
        if not library.exists():
            source = Path(__file__).with_name("wrongclock.c")
            subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, source], check=True, timeout=60)
        return library

    def reset(self) -> None:
        """Undo the faults, kill what a test has left, and mount the exports as by default."""
        for network in list(self._cut):
            self.mend(network)
        for network in list(self._delayed):
            self.check("tc", "qdisc", "delete", "dev", network, "root")
            self._delayed.discard(network)
        self.set_clock(0)
        self.kill_processes()
        for export in EXPORTS:
            self.mount(export)

    def _link(self, network: Network, state: Literal["up", "down"]) -> None:
        self.server.check("ip", "link", "set", f"{self.name}-{network}", state)
