"""The limit of all nodes together, on real NFS clients that fill at once; looked at on the server."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dsfs.model.blocks import PAGE
from dsfs.model.retention import Amount
from tests.nfs.conftest import NewNode, oldest_and_newest
from tests.nfs.test_many_nodes import SETTINGS, Readers
from tests.rig.background import in_background
from tests.rig.filler import FillingNode, allocated_below, fill_up, most_seen
from tests.rig.lake import MIB
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer, export_path
from tests.rig.reading import SourceVersion

LIMIT = 24 * MIB
LOOK_S = 1.0
WAIT_S = 60


def fill_one(place: Path) -> None:
    node = FillingNode(place, "first", LIMIT)
    node.fill_segment()
    node.room.leave()


@oldest_and_newest
def test_nodes_that_fill_at_once_never_exceed_the_limit_and_use_it(rig: NfsRig, nfs_version: str) -> None:
    for client in rig.clients:
        client.mount("large", nfs_version)
    place = export_path("large") / "backing"
    rig.clients[0].call(fill_one, place)
    filling = [
        in_background(partial(client.call_within, WAIT_S, fill_up, place, client.name, LIMIT)) for client in rig.clients
    ]
    most = 0
    while not all(each.done() for each in filling):
        most = max(most, rig.server.call_within(WAIT_S, most_seen, place, LOOK_S))
    assert all(each.result() > 1 for each in filling)
    assert most <= LIMIT
    assert 0.9 * LIMIT < rig.server.call(allocated_below, place) <= LIMIT


def exchange(place: Path, times: int) -> None:
    """One node takes a grant and gives it back, so often: two exchanges each time, after what the start costs.

    In no time: however slow the machine, what statvfs said is not asked for once more.
    """
    node = FillingNode(place, "a", LIMIT, clock=lambda: 0.0)
    for _ in range(times):
        node.room.check(Amount(PAGE))
        node.room.leave()


@pytest.mark.parametrize(("nfs_version", "most"), [("3", 10), ("4.2", 15)])
def test_exchange_costs_few_requests(
    a: NfsClient, server: NfsServer, record_property: Callable[[str, object], None], nfs_version: str, most: int
) -> None:
    server.set_delegations(False)  # with one, which is not always given, two opens and closes are not sent
    a.mount("large", nfs_version)
    place = export_path("large") / "backing"
    costs = []
    for times in (1, 2, 12):  # the first makes the folders
        before = a.mount_stats()
        a.call(exchange, place, times)
        costs.append((a.mount_stats() - before).operations)
    of_twenty = costs[2] - costs[1]
    record_property("requests for an exchange", of_twenty.total() / 20)
    assert of_twenty.total() / 20 <= most, of_twenty


def test_daemons_that_fill_at_once_keep_the_limit_and_tell_what_is_used(
    rig: NfsRig, new_node: NewNode, version: SourceVersion
) -> None:
    for client in rig.clients:
        client.mount("large", "4.2")
    settings = {**SETTINGS, "backing": {**SETTINGS["backing"], "limit": "6MiB"}}
    nodes = [new_node(client, settings=settings).start() for client in rig.clients]
    readers = Readers(version)
    for number, node in enumerate(nodes):
        readers.start(node, number)
    reading, most = in_background(readers.finish), 0
    while not reading.done():
        most = max(most, rig.server.call_within(WAIT_S, most_seen, nodes[0].backing, LOOK_S))
    reading.result()
    assert 3 * MIB < most <= 6 * MIB
    for node in nodes:
        assert node.stop() == 0
    there = rig.server.call(allocated_below, nodes[0].backing)
    used = nodes[0].start().ask("status")["backing"]["used_bytes"]
    assert abs(used - there) <= 6 * MIB / 100
