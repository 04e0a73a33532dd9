"""The machine `srv`: a kernel NFS server with two exports, one of them small."""

import os
import time
from pathlib import Path

from tests.rig.nfs.machine import GuestMachine

ADDRESS = "10.77.0.1"
EXPORTS = {"large": 11, "small": 12}  # name -> fsid
LEASE_S = 10  # the shortest that the kernel takes; for so long, too, a restarted server waits for its old clients
# The size of a READ or WRITE is what servers with more memory offer, so that counts of them mean something.
MAX_TRANSFER_BYTES = 1024 * 1024
THREADS = 8

START_SERVICES = f"""
rpcbind
rpc.statd --no-notify
nfsdcld
echo {MAX_TRANSFER_BYTES} >/proc/fs/nfsd/max_block_size
echo {LEASE_S} >/proc/fs/nfsd/nfsv4leasetime
echo {LEASE_S} >/proc/fs/nfsd/nfsv4gracetime
echo {LEASE_S} >/proc/sys/fs/nfs/nlm_grace_period # its 50 s hold up locks of version 4, too
chmod 1777 /mnt/large /mnt/small
rpc.nfsd --nfs-version 4.2 {THREADS}
rpc.mountd
echo Y >/proc/fs/lockd/nlm_end_grace # there are no old clients yet
"""


def export_path(name: str) -> Path:
    """Where the file system lies on the server, and where clients mount it."""
    return Path("/mnt") / name


class NfsServer(GuestMachine):
    """`prepare` makes it one."""

    def prepare(self) -> None:
        """Export and serve."""
        # The root of version 4 is an export as well; version 3 names the directories as they are called here.
        self._export("*:/mnt", "ro,fsid=0,crossmnt")
        self._read_only = set(EXPORTS)
        for name in EXPORTS:
            self.set_read_only(name, False)
        self.check("sh", "-ec", START_SERVICES)
        self._is_running = self._gives_delegations = True
        self._clock_offset_s = 0

    def stop_nfs(self) -> None:
        """The machine stays up: connections are refused."""
        self.check("rpc.nfsd", "0")
        self._is_running = False

    def start_nfs(self) -> None:
        """Serve again.  Clients have LEASE_S to claim what they had open and locked; no lock is granted until then."""
        self.check("rpc.nfsd", "--nfs-version", "4.2", str(THREADS))
        self._is_running = True

    def set_read_only(self, export: str, read_only: bool) -> None:
        """What the server lets its clients do; their mounts do not change."""
        self._export(f"*:{export_path(export)}", f"{'ro' if read_only else 'rw'},fsid={EXPORTS[export]}")
        (self._read_only.add if read_only else self._read_only.discard)(export)

    def set_delegations(self, are_given: bool) -> None:
        """Whether clients of version 4 are told when another changes what they have open; many filers do not."""
        self.check("sh", "-c", f"echo {int(are_given)} >/proc/sys/fs/leases-enable")
        self._gives_delegations = are_given

    def set_clock(self, offset_s: int) -> None:
        """How far the clock is off, that of the clients as well: the guest has one kernel."""
        self.call(_step_clock, offset_s - self._clock_offset_s)
        self._clock_offset_s = offset_s

    def reset(self) -> None:
        """Run, let clients write, and have the right time."""
        if self._clock_offset_s:
            self.set_clock(0)
        if not self._gives_delegations:
            self.set_delegations(True)
        if not self._is_running:
            self.start_nfs()
        for export in list(self._read_only):
            self.set_read_only(export, False)

    def free_bytes(self, export: str) -> int:
        stat = self.call(os.statvfs, export_path(export))
        return stat.f_bavail * stat.f_frsize

    def clear(self, export: str) -> None:
        """Remove all that lies in the export."""
        self.check("find", str(export_path(export)), "-mindepth", "1", "-delete")

    def _export(self, what: str, options: str) -> None:
        self.check("exportfs", "-i", "-o", f"sync,no_root_squash,no_subtree_check,insecure,{options}", what)


def _step_clock(seconds: int) -> None:
    time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
