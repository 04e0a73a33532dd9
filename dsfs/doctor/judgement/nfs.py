"""How the backing directory is mounted, and what that mount has seen."""

from dataclasses import dataclass

from dsfs.doctor.check import Finding, fail, note, ok, warn

REMOUNT = "mount option"  # begins every remedy that is one
LEAST_TRANSFER_BYTES = 256 * 1024
LEAST_READ_AHEAD_KB = 4096
MOST_ATTRIBUTES_S = 60
LONG_LEASE_S = 90
DEFAULT_SLOTS = 64
MOST_TCP_SLOTS = 128
FEW_REQUESTS = 1000  # too few to say that something is usual


# ---------------------------------------------------------------- how it is mounted


def version(version: str) -> Finding:
    match version:
        case "4.1":
            return ok("NFS 4.1")
        case "4.2":
            return note(
                "NFS 4.2",
                f"{REMOUNT} vers=4.1: 4.2 brings nothing dsfs needs, and not every server supports it fully.",
            )
        case "3":
            return warn(
                "NFS 3",
                f"{REMOUNT} vers=4.1: with version 3 the locks of a node that died are never freed, and a file removed"
                " by one node gives ESTALE, or SIGBUS to a mapping, on the others at once.",
            )
        case _:
            return fail(f"NFS {version or 'of an unknown version'}", f"{REMOUNT} vers=4.1: dsfs wants its sessions.")


def protocol(protocol: str) -> Finding:
    if protocol.startswith(("tcp", "rdma")):
        return ok(protocol)
    return fail(protocol or "unknown", f"{REMOUNT} proto=tcp: over UDP large transfers may be mixed up.")


def hard(when_silent: str) -> Finding:
    if when_silent == "hard":
        return ok("hard")
    return warn(
        when_silent,
        f"{REMOUNT} hard: a server that is slow for a minute (a takeover) would give errors to writers, and dsfs bounds"
        " its waits itself.",
    )


@dataclass(frozen=True, slots=True)
class Locking:
    local: str  # which locks other nodes do not see: none, flock, posix, all
    nolock: bool


def locking(locking: Locking) -> Finding:
    if locking.nolock or locking.local in ("posix", "all"):
        said = "nolock" if locking.nolock else f"local_lock={locking.local}"
        return fail(
            said, f"{REMOUNT} without it: no other node sees these locks, so every node downloads the same blocks."
        )
    return ok(f"on the server (local_lock={locking.local or 'none'})")


def lookupcache(kind: str) -> Finding:
    match kind:
        case "pos" | "positive":
            return ok("positive")
        case "none":
            return note("none", f"{REMOUNT} lookupcache=positive: without a cache every open asks for each directory.")
        case _:
            return warn(
                "all",
                f"{REMOUNT} lookupcache=positive: a name that was looked up too early stays missing for acdirmin (30 s)"
                " and more, so what another node has just sealed is not seen.",
            )


@dataclass(frozen=True, slots=True)
class Attributes:
    """How long attributes are believed, in seconds: least and most for files and for directories."""

    file_least: int
    file_most: int
    directory_least: int
    directory_most: int
    noac: bool


def attributes(held: Attributes) -> Finding:
    measured = f"files {held.file_least}-{held.file_most} s, directories {held.directory_least}-{held.directory_most} s"
    if held.noac:
        return warn("noac", f"{REMOUNT} without noac: every write waits for the disk, every stat for the server.")
    if held.file_most == 0 or held.directory_most == 0:
        return warn(
            measured,
            f"{REMOUNT} without actimeo=0: every stat and every open asks the server, and sealed files never change.",
        )
    if max(held.file_most, held.directory_most) > MOST_ATTRIBUTES_S:
        return note(
            measured, f"{REMOUNT} without actimeo, or at most {MOST_ATTRIBUTES_S}: names of other nodes come late."
        )
    return ok(measured)


def close_to_open(is_on: bool) -> Finding:
    if is_on:
        return ok("cto")
    return note("nocto", f"{REMOUNT} without nocto: what another node has changed may be seen late.")


def writes(is_sync: bool) -> Finding:
    if not is_sync:
        return ok("async")
    return warn("sync", f"{REMOUNT} without sync: dsfs says itself when data has to be on disk.")


def access(is_writable: bool) -> Finding:
    if is_writable:
        return ok("rw")
    return fail("ro", f"{REMOUNT} rw: nothing can be filled.")


@dataclass(frozen=True, slots=True)
class Transfer:
    read_bytes: int
    write_bytes: int


def transfer(granted: Transfer) -> Finding:
    measured = f"rsize {granted.read_bytes // 1024} KiB, wsize {granted.write_bytes // 1024} KiB"
    if min(granted.read_bytes, granted.write_bytes) >= LEAST_TRANSFER_BYTES:
        return ok(measured)
    return warn(
        measured,
        f"{REMOUNT} rsize=262144,wsize=262144. If that is asked for already, the server cuts it: on ONTAP"
        " `vserver nfs modify -tcp-max-xfer-size 262144` (its default is 64 KiB), then mount anew.",
    )


@dataclass(frozen=True, slots=True)
class Connections:
    asked: int
    made: int


def connections(tcp: Connections) -> Finding:
    if tcp.made < tcp.asked:
        return warn(
            f"{tcp.made} of nconnect={tcp.asked}",
            "An earlier mount from the same server address decides: unmount all of them, and give all the same option.",
        )
    if tcp.made == 1:
        return note(
            "1 connection",
            f"{REMOUNT} nconnect=8: one connection holds fast networks up. If that is asked for already, an earlier"
            " mount from the same server address decides: it has to have the same option.",
        )
    return ok(f"{tcp.made} connections")


@dataclass(frozen=True, slots=True)
class Slots:
    """Requests under way at once: the client's most for a session (version 4), and for a connection (version 3)."""

    version: str
    session: int | None
    connection: int | None


def slots(slots: Slots) -> Finding:
    if slots.version.startswith("3"):
        if slots.connection is None:
            return note("unknown", "sysctl sunrpc.tcp_max_slot_table_entries cannot be read here.")
        if slots.connection > MOST_TCP_SLOTS:
            return warn(
                f"{slots.connection} for a connection",
                f"sysctl sunrpc.tcp_max_slot_table_entries={MOST_TCP_SLOTS} before mounting: ONTAP handles so many of a"
                " connection at once, and the rest waits there.",
            )
        return ok(f"{slots.connection} for a connection")
    if slots.session is None:
        return note("unknown", "/sys/module/nfs/parameters/max_session_slots cannot be read here.")
    if slots.session <= DEFAULT_SLOTS:
        return note(
            f"{slots.session} for a session",
            "options nfs max_session_slots=180 in /etc/modprobe.d: 64 requests under way are few for a fast network,"
            " and every probe waits behind them. 180 is what ONTAP grants unless it was raised.",
        )
    return ok(f"{slots.session} for a session")


def read_ahead(read_ahead_kb: int) -> Finding:
    if read_ahead_kb >= LEAST_READ_AHEAD_KB:
        return ok(f"{read_ahead_kb} KiB")
    return warn(
        f"{read_ahead_kb} KiB",
        f"Write {LEAST_READ_AHEAD_KB} to /sys/class/bdi/<device>/read_ahead_kb after mounting (a udev rule for bdi, or"
        f" nfs4={LEAST_READ_AHEAD_KB} in [nfsrahead] of /etc/nfs.conf): sealed segments are read through this"
        " mount's page cache.",
    )


@dataclass(frozen=True, slots=True)
class DataServers:
    """pNFS: the layouts in use, and which addresses of the server can be reached and which not."""

    layouts: str
    reached: tuple[str, ...]
    unreached: tuple[str, ...]


def data_servers(servers: DataServers) -> Finding:
    if not servers.layouts:
        return ok("not used")
    if servers.unreached:
        return fail(
            f"{servers.layouts}, no connection to {', '.join(servers.unreached)}",
            "I/O to these hangs: make every data LIF reachable from the nodes, or switch pNFS off"
            " (`vserver nfs modify -v4.1-pnfs disabled`).",
        )
    return ok(f"{servers.layouts}, {len(servers.reached)} addresses reached")


def security(used: tuple[str, int]) -> Finding:
    flavor, connections = used
    if flavor.startswith("krb5") and connections > 1:
        return warn(
            f"{flavor} with {connections} connections", f"{REMOUNT} without nconnect: with Kerberos it is slow."
        )
    return ok(flavor or "sys")


# ---------------------------------------------------------------- what it has seen


@dataclass(frozen=True, slots=True)
class Traffic:
    """All requests since the mount was made."""

    requests: int
    retransmissions: int
    queue_ms: float
    answer_ms: float


def retransmissions(seen: Traffic) -> Finding:
    measured = f"{seen.retransmissions:,} of {seen.requests:,} requests sent again"
    if seen.retransmissions > max(1, seen.requests // 1000):
        return warn(measured, "The network loses packets, or the server was away: look at its log and at the switch.")
    return ok(measured)


def queue(seen: Traffic) -> Finding:
    measured = f"a request waits {seen.queue_ms:.1f} ms for a slot, then {seen.answer_ms:.1f} ms for its answer"
    if seen.requests >= FEW_REQUESTS and seen.queue_ms > seen.answer_ms:
        return warn(measured, "Slots or connections are short: see nfs.slots and nfs.connections.")
    return ok(measured)


@dataclass(frozen=True, slots=True)
class Lease:
    """None: version 3 has none."""

    lease_s: int | None
    expired_s: int | None


def lease(lease: Lease) -> Finding:
    if lease.lease_s is None:
        return note("none (version 3)", "The locks of a node that died stay: the server's administrator frees them.")
    if lease.expired_s:
        return fail(
            f"expired {lease.expired_s} s ago", "The server has taken the locks of this node away: is it reachable?"
        )
    if lease.lease_s > LONG_LEASE_S:
        return note(f"{lease.lease_s} s", "What a node that died had claimed is free after that time: ONTAP has 30 s.")
    return ok(f"{lease.lease_s} s: what a node that died had claimed is free then")


@dataclass(frozen=True, slots=True)
class ClientId:
    """What version 4 tells the server who this node is; `unique` was set by an administrator."""

    hostname: str
    unique: str


def client_id(told: ClientId) -> Finding:
    if told.unique:
        return ok(f"{told.hostname} with {told.unique}")
    if told.hostname.split(".")[0] in ("localhost", "localhost4", "debian", "ubuntu", "(none)", ""):
        return fail(
            told.hostname or "no hostname",
            "Give each node its own hostname, or options nfs nfs4_unique_id=... in /etc/modprobe.d: to the server two"
            " nodes of one name are one client, and each destroys the session and the locks of the other.",
        )
    return ok(f"{told.hostname}: no other node may be called so")
