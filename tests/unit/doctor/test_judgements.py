"""What was measured -> the verdict: each bound of each judgement from both sides."""

import errno
import signal
from collections.abc import Callable
from typing import Any

import pytest

from dsfs import __version__
from dsfs.doctor.check import Finding, Verdict
from dsfs.doctor.judgement import directory, nfs, node, origin, pair

GIB = 1024**3
MIB = 1024**2

OK, NOTE, WARN, FAIL = Verdict.OK, Verdict.NOTE, Verdict.WARN, Verdict.FAIL
Table = list[tuple[Callable[[Any], Finding], object, Verdict]]

NODE: Table = [
    (node.fuse_device, "", OK),
    (node.fuse_device, "/dev/fuse: No such file or directory", FAIL),
    (node.fusermount, node.Fusermount("/usr/bin/fusermount3", is_setuid=True, is_root=False), OK),
    (node.fusermount, node.Fusermount("/usr/bin/fusermount3", is_setuid=False, is_root=True), OK),
    (node.fusermount, node.Fusermount("/usr/bin/fusermount3", is_setuid=False, is_root=False), FAIL),
    (node.fusermount, node.Fusermount("", is_setuid=False, is_root=True), WARN),
    (node.fusermount, node.Fusermount("", is_setuid=False, is_root=False), FAIL),
    (node.allow_other, node.AllowOther(wanted=False, is_root=False, is_allowed=False), NOTE),
    (node.allow_other, node.AllowOther(wanted=True, is_root=True, is_allowed=False), OK),
    (node.allow_other, node.AllowOther(wanted=True, is_root=False, is_allowed=True), OK),
    (node.allow_other, node.AllowOther(wanted=True, is_root=False, is_allowed=False), FAIL),
    (node.passthrough, True, OK),
    (node.passthrough, False, NOTE),
    (node.requests, node.Requests(pages=256, background=12, is_root=True), OK),
    (node.requests, node.Requests(pages=None, background=None, is_root=False), OK),
    (node.requests, node.Requests(pages=255, background=None, is_root=True), WARN),
    (node.requests, node.Requests(pages=256, background=511, is_root=False), NOTE),
    (node.request_timeout, node.RequestTimeout(limit_s=0, needed_s=600), OK),
    (node.request_timeout, node.RequestTimeout(limit_s=601, needed_s=600), OK),
    (node.request_timeout, node.RequestTimeout(limit_s=600, needed_s=600), FAIL),
    (node.open_files, 4096, OK),
    (node.open_files, 1024, WARN),
    (node.memory, node.Memory(wanted=GIB, available=2 * GIB, allowed=None), OK),
    (node.memory, node.Memory(wanted=GIB, available=2 * GIB - 2, allowed=None), WARN),
    (node.memory, node.Memory(wanted=GIB, available=8 * GIB, allowed=GIB - 1), FAIL),
    (node.state_dir, "ext4", OK),
    (node.state_dir, "tmpfs", WARN),
    (node.state_dir, "nfs4", FAIL),
    (node.state_dir, "fuse.sshfs", FAIL),
    (node.state_room, GIB, OK),
    (node.state_room, GIB - 1, WARN),
    (node.state_room, 64 * MIB - 1, FAIL),
    (node.clock_synchronized, True, OK),
    (node.clock_synchronized, False, NOTE),
    (node.daemon, node.Daemon("", "", "", ""), NOTE),
    (node.daemon, node.Daemon(__version__, "ok", "", ""), OK),
    (node.daemon, node.Daemon("0.0.1", "ok", "", ""), NOTE),
    (node.daemon, node.Daemon(__version__, "full", "backing.limit is reached", ""), WARN),
    (node.daemon, node.Daemon(__version__, "ok", "", "5 GiB that were deleted are not free"), WARN),
]

NFS: Table = [
    (nfs.version, "4.1", OK),
    (nfs.version, "4.2", NOTE),
    (nfs.version, "3", WARN),
    (nfs.version, "4.0", FAIL),
    (nfs.version, "", FAIL),
    (nfs.protocol, "tcp", OK),
    (nfs.protocol, "rdma", OK),
    (nfs.protocol, "udp", FAIL),
    (nfs.hard, "hard", OK),
    (nfs.hard, "soft", WARN),
    (nfs.hard, "softerr", WARN),
    (nfs.locking, nfs.Locking("none", nolock=False), OK),
    (nfs.locking, nfs.Locking("flock", nolock=False), OK),
    (nfs.locking, nfs.Locking("posix", nolock=False), FAIL),
    (nfs.locking, nfs.Locking("all", nolock=True), FAIL),
    (nfs.lookupcache, "pos", OK),
    (nfs.lookupcache, "none", NOTE),
    (nfs.lookupcache, "all", WARN),
    (nfs.attributes, nfs.Attributes(3, 60, 30, 60, noac=False), OK),
    (nfs.attributes, nfs.Attributes(0, 0, 0, 0, noac=False), WARN),
    (nfs.attributes, nfs.Attributes(3, 60, 0, 0, noac=False), WARN),
    (nfs.attributes, nfs.Attributes(0, 0, 0, 0, noac=True), WARN),
    (nfs.attributes, nfs.Attributes(600, 600, 600, 600, noac=False), NOTE),
    (nfs.close_to_open, True, OK),
    (nfs.close_to_open, False, NOTE),
    (nfs.writes, False, OK),
    (nfs.writes, True, WARN),
    (nfs.access, True, OK),
    (nfs.access, False, FAIL),
    (nfs.transfer, nfs.Transfer(262144, 262144), OK),
    (nfs.transfer, nfs.Transfer(65536, 262144), WARN),
    (nfs.transfer, nfs.Transfer(1048576, 65536), WARN),
    (nfs.connections, nfs.Connections(asked=8, made=8), OK),
    (nfs.connections, nfs.Connections(asked=8, made=1), WARN),
    (nfs.connections, nfs.Connections(asked=1, made=1), NOTE),
    (nfs.slots, nfs.Slots("4.1", session=180, connection=65536), OK),
    (nfs.slots, nfs.Slots("4.1", session=64, connection=128), NOTE),
    (nfs.slots, nfs.Slots("4.1", session=None, connection=128), NOTE),
    (nfs.slots, nfs.Slots("3", session=64, connection=128), OK),
    (nfs.slots, nfs.Slots("3", session=180, connection=65536), WARN),
    (nfs.slots, nfs.Slots("3", session=180, connection=None), NOTE),
    (nfs.read_ahead, 4096, OK),
    (nfs.read_ahead, 128, WARN),
    (nfs.data_servers, nfs.DataServers("", (), ()), OK),
    (nfs.data_servers, nfs.DataServers("LAYOUT_NFSV4_1_FILES", ("10.0.0.1",), ()), OK),
    (nfs.data_servers, nfs.DataServers("LAYOUT_NFSV4_1_FILES", ("10.0.0.1",), ("10.0.0.2",)), FAIL),
    (nfs.security, ("sys", 8), OK),
    (nfs.security, ("krb5p", 1), OK),
    (nfs.security, ("krb5", 8), WARN),
    (nfs.retransmissions, nfs.Traffic(10, 1, 0.0, 0.0), OK),
    (nfs.retransmissions, nfs.Traffic(100_000, 100, 0.0, 0.0), OK),
    (nfs.retransmissions, nfs.Traffic(100_000, 101, 0.0, 0.0), WARN),
    (nfs.queue, nfs.Traffic(1_000, 0, 1.0, 1.0), OK),
    (nfs.queue, nfs.Traffic(1_000, 0, 1.1, 1.0), WARN),
    (nfs.queue, nfs.Traffic(999, 0, 1.1, 1.0), OK),
    (nfs.lease, nfs.Lease(30, 0), OK),
    (nfs.lease, nfs.Lease(91, 0), NOTE),
    (nfs.lease, nfs.Lease(30, 5), FAIL),
    (nfs.lease, nfs.Lease(None, None), NOTE),
    (nfs.client_id, nfs.ClientId("gpu-17", ""), OK),
    (nfs.client_id, nfs.ClientId("localhost", "0d9c"), OK),
    (nfs.client_id, nfs.ClientId("localhost.localdomain", ""), FAIL),
    (nfs.client_id, nfs.ClientId("", ""), FAIL),
]


def room(**changes: int) -> directory.Volume:
    values = {"total": 100 * GIB, "free": 50 * GIB, "limit": 80 * GIB, "floor": 5 * GIB, "used": 50 * GIB}
    return directory.Volume(**{**values, "files": 100_000, "free_files": 90_000, **changes})


NAMES = directory.Names(link=0, again=errno.EEXIST, across=0, rename=0, rename_across=0)

DIRECTORY: Table = [
    (directory.answers, 1.0, OK),
    (directory.answers, 1.1, WARN),
    (directory.mark, directory.Mark("", 1, 1, "0a1b", ""), OK),
    (directory.mark, directory.Mark("", None, 1, "", ""), NOTE),
    (directory.mark, directory.Mark("", 2, 1, "0a1b", ""), FAIL),
    (directory.mark, directory.Mark("", None, 1, "", "thesis.doc"), FAIL),
    (directory.mark, directory.Mark("was the backing directory", None, 1, "", ""), FAIL),
    (directory.owner, directory.Owner(writer=0, owner=0), OK),
    (directory.owner, directory.Owner(writer=0, owner=65534), FAIL),
    (directory.mode, 0o700, OK),
    (directory.mode, 0o755, OK),
    (directory.mode, 0o775, WARN),
    (directory.mode, 0o1777, WARN),
    (directory.room, room(), OK),
    (directory.room, room(limit=96 * GIB), WARN),
    (directory.room, room(free=5 * GIB), FAIL),
    (directory.room, room(free=0, used=94 * GIB), FAIL),
    (directory.inodes, room(), OK),
    (directory.inodes, room(files=0, free_files=0), OK),
    (directory.inodes, room(files=20_000, free_files=19_000), WARN),
    (directory.inodes, room(free_files=0), FAIL),
    (directory.folders, directory.Folders(0, "", 0, 0), OK),
    (directory.folders, directory.Folders(256, "a7", 2 * MIB, 27_000), OK),
    (directory.folders, directory.Folders(256, "a7", 2 * MIB + 1, 27_000), WARN),
    (directory.folders, directory.Folders(256, "a7", 200 * MIB + 1, 2_700_000), FAIL),
    (directory.snapshots, (), OK),
    (directory.snapshots, ("hourly.2026-01-01_0005",), WARN),
    (directory.snapshots, ("Anti_ransomware_periodic_backup.2026-01-01",), WARN),
    (directory.snapshots, ("snapmirror.1", "b", "c", "d"), WARN),
    (directory.direct, directory.Direct("nfs4", is_direct=True, is_same=True), OK),
    (directory.direct, directory.Direct("nfs4", is_direct=False, is_same=True), FAIL),
    (directory.direct, directory.Direct("tmpfs", is_direct=False, is_same=True), NOTE),
    (directory.direct, directory.Direct("nfs4", is_direct=True, is_same=False), FAIL),
    (directory.sparse, True, OK),
    (directory.sparse, False, FAIL),
    (directory.names, NAMES, OK),
    (directory.names, directory.Names(0, 0, 0, 0, 0), FAIL),
    (directory.names, directory.Names(0, errno.EEXIST, errno.EXDEV, 0, errno.EXDEV), FAIL),
    (directory.names, directory.Names(errno.EPERM, errno.EPERM, errno.EPERM, 0, 0), FAIL),
    (directory.locks, directory.Locks(0, excludes=True, is_freed=True), OK),
    (directory.locks, directory.Locks(errno.ENOLCK, excludes=False, is_freed=False), FAIL),
    (directory.locks, directory.Locks(0, excludes=False, is_freed=True), FAIL),
    (directory.locks, directory.Locks(0, excludes=True, is_freed=False), FAIL),
    (directory.lock_time, 1.0, OK),
    (directory.lock_time, 10.0, WARN),
    (directory.lock_bytes, 0, OK),
    (directory.lock_bytes, errno.EAGAIN, NOTE),
    (directory.clock, directory.Clock(ahead_s=-2.0, between_s=0.0), OK),
    (directory.clock, directory.Clock(ahead_s=2.1, between_s=0.0), NOTE),
    (directory.clock, directory.Clock(ahead_s=-10.1, between_s=0.0), WARN),
    (directory.clock, directory.Clock(ahead_s=0.0, between_s=2.1), WARN),
    (directory.atime, False, OK),
    (directory.atime, True, WARN),
    (directory.latency, directory.Latency(5.0, 90.0), OK),
    (directory.latency, directory.Latency(5.1, 5.2), WARN),
    (directory.speed, directory.Speed({1: 90.0, 8: 1000.0}), OK),
    (directory.speed, directory.Speed({1: 90.0, 8: 1000.0}, link_mb_s=1250.0), OK),
    (directory.speed, directory.Speed({1: 90.0, 8: 900.0}, link_mb_s=1250.0), NOTE),
    (directory.speed, directory.Speed({1: 90.0, 8: 99.0}), WARN),
    (directory.space_return, directory.SpaceReturn(64 * MIB, 0.1), OK),
    (directory.space_return, directory.SpaceReturn(64 * MIB, None), WARN),
]

ORIGIN: Table = [
    (origin.reach, 1.0, OK),
    (origin.reach, 1.1, WARN),
    (origin.transport, "https://s3.eu-central-1.amazonaws.com", OK),
    (origin.transport, "http://127.0.0.1:9000", OK),
    (origin.transport, "http://[::1]:9000", OK),
    (origin.transport, "http://10.0.0.7:9000", NOTE),
    (origin.clock, None, NOTE),
    (origin.clock, -60.0, OK),
    (origin.clock, 61.0, WARN),
    (origin.clock, -901.0, FAIL),
    (origin.credentials, True, OK),
    (origin.credentials, False, OK),
    (origin.listing, origin.Listing(1.0, 1000, 1000), OK),
    (origin.listing, origin.Listing(1.1, 1000, 1000), WARN),
    (origin.listing, origin.Listing(1.1, 0, 0), NOTE),
    (origin.etags, origin.Listing(0.0, 3, 3), OK),
    (origin.etags, origin.Listing(0.0, 3, 2), NOTE),
    (origin.first_byte, 1.0, OK),
    (origin.first_byte, 1.1, WARN),
    (origin.throughput, origin.Throughput(10.0, 50.0, 8, MIB), OK),
    (origin.throughput, origin.Throughput(49.0, 49.0, 8, MIB), WARN),
]

PAIR: Table = [
    (pair.met, 3.0, OK),
    (pair.versions, pair.Both("0.1.0", "0.1.0"), OK),
    (pair.versions, pair.Both("0.1.0", "0.2.0"), NOTE),
    (pair.mounts, pair.Both("vers=4.1", "vers=4.1"), OK),
    (pair.mounts, pair.Both("vers=4.1", "vers=3"), NOTE),
    (pair.client_ids, pair.Both("gpu-1", "gpu-2"), OK),
    (pair.client_ids, pair.Both("template", "template"), FAIL),
    (pair.users, pair.User(said=990, seen=990), OK),
    (pair.users, pair.User(said=990, seen=65534), FAIL),
    (pair.clocks, -2.0, OK),
    (pair.clocks, 2.1, NOTE),
    (pair.clocks, -3600.0, WARN),
    (pair.locks, pair.Locks(excluded=True, freed_s=0.0, bytes_error=0), OK),
    (pair.locks, pair.Locks(excluded=True, freed_s=0.0, bytes_error=errno.EIO), NOTE),
    (pair.locks, pair.Locks(excluded=True, freed_s=None, bytes_error=0), FAIL),
    (pair.locks, pair.Locks(excluded=False, freed_s=0.0, bytes_error=0), FAIL),
    (pair.names, pair.Seen(after_s=1.0, when_asked=True), OK),
    (pair.names, pair.Seen(after_s=1.1, when_asked=True), WARN),
    (pair.names, pair.Seen(after_s=None, when_asked=True), WARN),
    (pair.names, pair.Seen(after_s=None, when_asked=False), FAIL),
    (pair.sizes, pair.Seen(after_s=3.0, when_asked=True), OK),
    (pair.sizes, pair.Seen(after_s=None, when_asked=True), OK),
    (pair.sizes, pair.Seen(after_s=None, when_asked=False), FAIL),
    (pair.direct, True, OK),
    (pair.direct, False, FAIL),
    (pair.links, pair.Links(7, 13), OK),
    (pair.links, pair.Links(20, 13), FAIL),
    (pair.open_unlink, pair.OpenUnlink(0, 0), OK),
    (pair.open_unlink, pair.OpenUnlink(errno.ESTALE, 0), NOTE),
    (pair.open_unlink, pair.OpenUnlink(errno.ESTALE, signal.SIGBUS), NOTE),
    (pair.page_cache, pair.PageCache(256, 256), OK),
    (pair.page_cache, pair.PageCache(256, 0), WARN),
]

ALL = [*NODE, *NFS, *DIRECTORY, *ORIGIN, *PAIR]


@pytest.mark.parametrize(("judge", "measured", "verdict"), ALL)
def test_verdict_on_what_was_measured(judge: Callable[[Any], Finding], measured: object, verdict: Verdict) -> None:
    finding = judge(measured)
    assert finding.verdict is verdict
    assert finding.measured
    assert bool(finding.remedy) or verdict in (OK, NOTE)


@pytest.mark.parametrize("module", [node, nfs, directory, origin, pair])
def test_every_judgement_is_tried_with_something_good_and_something_else(module: Any) -> None:
    tried: dict[str, set[Verdict]] = {}
    for judge, _, verdict in ALL:
        if judge.__module__ == module.__name__:
            tried.setdefault(judge.__name__, set()).add(verdict)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    judges = {name for name in own if name.islower() and not name.startswith("_")}
    assert tried.keys() == judges
    only_good = {name for name, verdicts in tried.items() if verdicts == {OK}}
    assert only_good <= {"met", "credentials"}  # what fails there is the measurement itself


def test_words_name_what_is_wrong() -> None:
    assert "EXDEV" in directory.names(directory.Names(0, errno.EEXIST, errno.EXDEV, 0, 0)).measured
    assert "qtree" in directory.names(directory.Names(0, errno.EEXIST, errno.EXDEV, 0, 0)).remedy
    assert "anti-ransomware" in directory.snapshots(("Anti_ransomware_periodic_backup",)).remedy
    assert "SnapMirror" in directory.snapshots(("snapmirror.7",)).remedy
    assert "policy none" in directory.snapshots(("weekly.1",)).remedy
    assert "FlexGroup" in directory.room(room(free=0, used=GIB)).remedy
    assert "SIGBUS" in pair.open_unlink(pair.OpenUnlink(errno.ESTALE, signal.SIGBUS)).measured
