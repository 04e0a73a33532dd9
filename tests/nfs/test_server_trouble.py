"""The server is away, read-only or full for a while: readers go on from the origin, and fills by themselves afterwards.

What was filled in all that trouble is read in the end by a node that cannot reach the origin.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsfs.cache.health import LOOK_S, PROBE_S
from tests.nfs.conftest import NewNode
from tests.nfs.test_many_nodes import Readers
from tests.nfs.test_one_node import wait_sealed
from tests.rig.faultproxy import FaultProxy
from tests.rig.held import Hold
from tests.rig.lake import MIB
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer, export_path
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion, make_version
from tests.rig.wait import wait_until

BACKING_TIMEOUT_S = 3.0
SETTINGS = {**PATIENT, "memory": {"limit": "64MiB"}, "backing": {"timeout": f"{BACKING_TIMEOUT_S:g}s"}}
# README: what a read waits for a server that has just become silent; then the bytes come from the origin.
NOTICED_S = BACKING_TIMEOUT_S + PROBE_S + LOOK_S
FETCHED_S = 10.0  # on a busy machine
GOES_ON_S = 60.0  # after the server is back: clients wait longer and longer before they try again
PAUSE_S = 10.0  # after a fill that failed
BALLAST = export_path("small") / "ballast"


@pytest.fixture(scope="module")
def version(booted: NfsRig) -> SourceVersion:
    """Three large files and a pack."""
    sizes = (5 * MIB + 1, 5 * MIB + 2, 5 * MIB + 3)
    return make_version(
        booted.origin.store.bucket("lake"), "trouble/v1", small_files=8, large_sizes_bytes=sizes, seed=9
    )


def state_of(node: Node) -> str:
    return str(node.ask("status")["backing"]["state"])


def read_on(nodes: Sequence[Node], version: SourceVersion, names: Sequence[str]) -> float:
    """Programs on all nodes read these files at once, past the kernel's pages; the longest read in seconds."""
    readers = Readers(version, names)
    for number, node in enumerate(nodes):
        readers.start(node, number)
    return readers.finish()


def forget_pages(server: NfsServer) -> None:
    """Of all nodes and of the server: they have one kernel."""
    server.check("sh", "-c", "echo 1 >/proc/sys/vm/drop_caches")


def assert_whole(rig: NfsRig, new_node: NewNode, version: SourceVersion, export: str = "large") -> None:
    """What is missing yet is filled by one more node; after that one without the origin reads right bytes."""
    c, d = rig.clients[2:]
    last = new_node(c, settings=SETTINGS, export=export).start()
    read_on([last], version, list(version.digests))
    wait_sealed(last, version)
    d.cut("origin")
    read_on([new_node(d, settings=SETTINGS, export=export).start()], version, list(version.digests))


@pytest.mark.expects_log(
    "does not answer; until it does", "answers again, after", "a (claim|fill) failed", "dsfs starts when it does",
    "has not answered for 2 s",
    # While the server grants no locks yet, two nodes fill the same blocks, and one may write to what the other sealed.
    "segment [0-9a-f]{40} was changed after it was sealed",
)
# So short is a client's patience with one request here, that it is over while the server is away, as it is after a
# minute by default; a mount that is not soft tries again.
@pytest.mark.parametrize(
    ("nfs_version", "options", "point"),
    [("4.2", "timeo=20", "segment.linked"), ("3", "timeo=20", "segment.seal")],
)
def test_server_that_is_away_for_a_while(
    rig: NfsRig, server: NfsServer, new_node: NewNode, version: SourceVersion, proxy: FaultProxy,
    nfs_version: str, options: str, point: str,
) -> None:  # fmt: skip
    """As long as everything takes that the nodes do when it is away: more than backing.timeout, and than `timeo`.

    It goes away in the middle of a seal: before its fsync, or between its link and the unlink of the old names.
    """
    for client in rig.clients:
        client.mount("large", nfs_version, options)
    nodes = [new_node(client, settings=SETTINGS) for client in rig.clients[:2]]
    hold = Hold(nodes[0], point)
    nodes[1].start()
    resident, missing, later = version.large
    read_on(nodes[:1], version, [resident])
    hold.wait_reached(GOES_ON_S)
    read_on(nodes[1:], version, [resident])
    forget_pages(server)
    server.stop_nfs()
    hold.end()
    assert read_on(nodes, version, [resident, missing]) < NOTICED_S + FETCHED_S
    assert [state_of(node) for node in nodes] == ["unstable", "unstable"]
    forget_pages(server)
    assert read_on(nodes, version, [resident, missing]) < FETCHED_S  # nobody waits for what is known to be silent
    late = new_node(rig.clients[2], settings=SETTINGS)
    starting = late.spawn()
    wait_until(lambda: "dsfs starts when it does" in late.log_tail(), GOES_ON_S, "the new node saying why it waits")
    server.start_nfs()
    assert starting.wait_ready(GOES_ON_S)
    late.stop()
    wait_until(lambda: {state_of(node) for node in nodes} == {"ok"}, GOES_ON_S, "the server being noticed")
    filled_bytes = [node.metric("dsfs_fill_bytes_total") for node in nodes]
    read_on(nodes, version, [later, *version.small])
    wait_until(
        lambda: [node.metric("dsfs_fill_bytes_total") for node in nodes] != filled_bytes, GOES_ON_S, "fills going on"
    )
    assert_whole(rig, new_node, version)


def make_full(path: Path) -> None:
    """Take what is free."""
    with path.open("wb") as file:
        while True:
            try:
                file.write(bytes(MIB))
                file.flush()
            except OSError:
                return


@pytest.mark.expects_log("a (claim|fill) failed", "cannot be sealed", "cannot be put into", "No space|Read-only")
@pytest.mark.parametrize(("nfs_version", "trouble"), [("4.2", "read-only"), ("3", "full")])
def test_export_that_takes_nothing_for_a_while(
    rig: NfsRig, server: NfsServer, new_node: NewNode, version: SourceVersion, nfs_version: str, trouble: str
) -> None:
    for client in rig.clients:
        client.mount("small", nfs_version)
    nodes = [new_node(client, settings=SETTINGS, export="small").start() for client in rig.clients[:2]]
    resident, missing, later = version.large
    read_on(nodes, version, [resident])
    wait_until(lambda: nodes[0].segment_files(), GOES_ON_S, "the seal")
    if trouble == "full":
        server.call(make_full, BALLAST)
    else:
        server.set_read_only("small", True)
    forget_pages(server)
    assert read_on(nodes, version, [resident, missing]) < FETCHED_S
    wait_until(lambda: {state_of(node) for node in nodes} == {"paused"}, what="the trouble being noticed")
    noticed_s = time.monotonic()
    if trouble == "full":
        server.check("rm", str(BALLAST))
    else:
        server.set_read_only("small", False)
    # The pause is a time, and no event ends it.
    wait_until(lambda: time.monotonic() - noticed_s > PAUSE_S, 2 * PAUSE_S, "the end of the pause")
    read_on(nodes, version, [later, *version.small])
    wait_until(lambda: "ok" in [state_of(node) for node in nodes], GOES_ON_S, "fills going on")
    assert_whole(rig, new_node, version, "small")
