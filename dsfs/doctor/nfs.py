"""The NFS client of this node: how the backing directory is mounted, and what that mount has seen.

Everything here comes from /proc and /sys, or from the network: it answers also while the NFS server does not.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dsfs.config import Config
from dsfs.doctor.check import Area, Check, NotCheckedError
from dsfs.doctor.judgement import nfs as judge
from dsfs.doctor.kernel import number_in
from dsfs.doctor.mountstats import NfsMount, Operation, read
from dsfs.storage.filesystem import FileSystem
from dsfs.storage.mounts import mount_of
from dsfs.storage.nodes import nfs_unique_id

CONNECT_S = 3.0
NFS_PORT = 2049


@dataclass(frozen=True, slots=True)
class NfsClient:
    """The mount that holds the backing directory; `device` is major:minor."""

    mount: NfsMount
    device: str


@contextmanager
def _opened(config: Config) -> Iterator[NfsClient]:
    mount = mount_of(config.backing.path)
    if mount is None or not FileSystem(mount.filesystem).is_nfs:  # only then: realpath may wait for the server
        mount = mount_of(Path(os.path.realpath(config.backing.path)))
    if mount is None:
        raise NotCheckedError(f"{config.backing.path}: the kernel lists no mount that holds it")
    if not FileSystem(mount.filesystem).is_nfs:
        raise NotCheckedError(f"{config.backing.path} is on {mount.filesystem}, not on NFS")
    found = read(mount.mountpoint)
    if found is None:
        raise NotCheckedError(f"{mount.mountpoint} is not in /proc/self/mountstats")
    yield NfsClient(found, mount.device)


def traffic_of(operations: list[Operation]) -> judge.Traffic:
    requests = sum(operation.requests for operation in operations)
    return judge.Traffic(
        requests,
        sum(operation.retransmissions for operation in operations),
        1000 * sum(operation.queue_s for operation in operations) / max(1, requests),
        1000 * sum(operation.answer_s for operation in operations) / max(1, requests),
    )


def _when_silent(client: NfsClient) -> str:
    return next((word for word in ("softerr", "softreval", "soft") if word in client.mount.options), "hard")


def _locking(client: NfsClient) -> judge.Locking:
    return judge.Locking(client.mount.options.get("local_lock", ""), "nolock" in client.mount.options)


def _attributes(client: NfsClient) -> judge.Attributes:
    number = client.mount.number
    return judge.Attributes(
        number("acregmin", 3), number("acregmax", 60), number("acdirmin", 30), number("acdirmax", 60),
        "noac" in client.mount.options,
    )  # fmt: skip


def _slots(client: NfsClient) -> judge.Slots:
    return judge.Slots(
        client.mount.version,
        number_in(Path("/sys/module/nfs/parameters/max_session_slots")),
        number_in(Path("/proc/sys/sunrpc/tcp_max_slot_table_entries")),
    )


def _read_ahead(client: NfsClient) -> int:
    found = number_in(Path(f"/sys/class/bdi/{client.device}/read_ahead_kb"))
    if found is None:
        raise NotCheckedError(f"/sys/class/bdi/{client.device} cannot be read here")
    return found


def _data_servers(client: NfsClient) -> judge.DataServers:
    if not client.mount.layouts:
        return judge.DataServers("", (), ())
    reached, unreached = [], []
    for address in addresses_in(Path("/proc/fs/nfsfs/servers").read_text()):
        try:
            socket.create_connection((address, NFS_PORT), timeout=CONNECT_S).close()
            reached.append(address)
        except OSError:
            unreached.append(address)
    return judge.DataServers(client.mount.layouts, tuple(reached), tuple(unreached))


def addresses_in(table: str) -> list[str]:
    """The addresses of the servers of version 4 in the text of /proc/fs/nfsfs/servers."""
    found = []
    for line in table.splitlines():
        words = line.split()
        if words[:1] == ["v4"] and len(words) > 1:
            with suppress(ValueError, OSError):
                packed = bytes.fromhex(words[1])
                found.append(socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed))
    return found


def client_id(client: NfsClient) -> judge.ClientId:
    """As the server is told; NotCheckedError for version 3."""
    if client.mount.version.startswith("3"):
        raise NotCheckedError("version 3 has none")
    return judge.ClientId(socket.gethostname(), nfs_unique_id())


def _traffic(client: NfsClient) -> judge.Traffic:
    return traffic_of(list(client.mount.operations.values()))


CHECKS: tuple[Check[NfsClient, Any], ...] = (
    Check(
        "nfs.version", "NFS version", "4.1; a note for 4.2, a warning for 3, a failure for 4.0",
        lambda client: client.mount.version, judge.version,
    ),
    Check(
        "nfs.protocol", "transport", "tcp or rdma; a failure for udp",
        lambda client: client.mount.options.get("proto", ""), judge.protocol,
    ),
    Check(
        "nfs.hard", "what happens while the server is silent", "hard; a warning for soft and softerr",
        _when_silent, judge.hard,
    ),
    Check(
        "nfs.locking", "whether locks reach the server", "local_lock=none; a failure for nolock, posix, all",
        _locking, judge.locking,
    ),
    Check(
        "nfs.lookupcache", "whether missing names are believed", "positive; a warning for all, a note for none",
        lambda client: client.mount.options.get("lookupcache", "all"), judge.lookupcache,
    ),
    Check(
        "nfs.attributes", "how long attributes are believed (actimeo, noac)",
        f"1 to {judge.MOST_ATTRIBUTES_S} s; a warning for 0 and noac, a note for more", _attributes, judge.attributes,
    ),
    Check(
        "nfs.close_to_open", "whether an open asks the server", "cto; a note for nocto",
        lambda client: "nocto" not in client.mount.options, judge.close_to_open,
    ),
    Check(
        "nfs.writes", "whether each write waits for the disk", "async; a warning for sync",
        lambda client: "sync" in client.mount.options, judge.writes,
    ),
    Check(
        "nfs.access", "whether the mount can be written", "rw; a failure for ro",
        lambda client: "ro" not in client.mount.options, judge.access,
    ),
    Check(
        "nfs.transfer", "rsize and wsize that the server granted", "256 KiB and more; a warning for less",
        lambda client: judge.Transfer(client.mount.number("rsize"), client.mount.number("wsize")), judge.transfer,
    ),
    Check(
        "nfs.connections", "TCP connections, against nconnect", "all of them; a warning for fewer, a note for just one",
        lambda client: judge.Connections(client.mount.number("nconnect", 1), client.mount.connections),
        judge.connections,
    ),
    Check(
        "nfs.slots", "requests under way at once (max_session_slots, tcp_max_slot_table_entries)",
        f"more than {judge.DEFAULT_SLOTS}, else a note; version 3: at most {judge.MOST_TCP_SLOTS}, else a warning",
        _slots, judge.slots,
    ),
    Check(
        "nfs.read_ahead", "read_ahead_kb of the mount", f"{judge.LEAST_READ_AHEAD_KB} and more; a warning for less",
        _read_ahead, judge.read_ahead,
    ),
    Check(
        "nfs.data_servers", "whether the addresses of pNFS can be reached", "all; a failure for one that cannot",
        _data_servers, judge.data_servers, deadline_s=30.0,
    ),
    Check(
        "nfs.security", "Kerberos", "sys, or krb5 over one connection; a warning for krb5 with nconnect",
        lambda client: (client.mount.options.get("sec", ""), client.mount.connections), judge.security,
    ),
    Check(
        "nfs.retransmissions", "requests that were sent again since the mount was made",
        "fewer than one in 1,000; a warning for more", _traffic, judge.retransmissions,
    ),
    Check(
        "nfs.queue", "how long a request waits for a slot, and for its answer",
        f"less for the slot; a warning for more (from {judge.FEW_REQUESTS:,} requests on)", _traffic, judge.queue,
    ),
    Check(
        "nfs.lease", "how long the server keeps the locks of a node that died",
        "up to 90 s; a note for more and for version 3, a failure for a lease that has expired",
        lambda client: judge.Lease(client.mount.lease_s, client.mount.lease_expired_s), judge.lease,
    ),
    Check(
        "nfs.client_id", "by what the server knows this node (hostname, nfs4_unique_id)",
        "a name of its own; a failure for `localhost` and the like", client_id, judge.client_id,
    ),
)  # fmt: skip


def area(config: Config) -> Area[NfsClient]:
    return Area("NFS client", partial(_opened, config), CHECKS, "The kernel itself does not answer: see its log.")
