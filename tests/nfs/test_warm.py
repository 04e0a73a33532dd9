"""`dsfs warm --nodes all` on nodes that are real NFS clients: they find the request, share the work, and agree on its end."""

import json
from collections.abc import Callable

import pytest

from tests.nfs.conftest import NewNode
from tests.nfs.test_many_nodes import SETTINGS, START_S, assert_fetched_once
from tests.nfs.test_one_node import digests_on
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.nfs.client import NfsClient
from tests.rig.node import Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until

DONE_S = 60


def state_of(node: Node) -> str:
    """The state of the last warm of the node."""
    warms = json.loads(node.command("warm", "--list", "--json").stdout)["warms"]
    return str(warms[-1]["state"]) if warms else "none"


@pytest.mark.parametrize(("nfs_version", "options"), [("4.2", "actimeo=600"), ("3", "")])
def test_nodes_warm_one_version_together_and_fetch_it_once(
    a: NfsClient, b: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy,
    record_property: Callable[[str, object], None], nfs_version: str, options: str,
) -> None:  # fmt: skip
    for client in (a, b):
        client.mount("large", nfs_version, options)
    (large,) = version.large
    first = new_node(a, settings=SETTINGS).start()
    proxy.add(Fault("stall", key=f"*/{large}", times=1))
    assert first.command("warm", version.name, "--nodes", "all").returncode == 0
    wait_until(lambda: proxy.stalled == 1, START_S, "a fetch that stands still")
    second = new_node(b, settings=SETTINGS).start()  # finds the request
    nodes = (first, second)
    try:
        wait_until(lambda: state_of(second) == "waiting", 20, "the second node's having done the rest")
    except TimeoutError:
        print(second.command("warm", "--list").stdout, second.command("status").stdout)
        raise
    proxy.release()
    for node in nodes:
        wait_until(lambda node=node: state_of(node) == "complete", DONE_S, "the end of the warm")  # type: ignore[misc]
    assert_fetched_once(proxy, version, nodes)
    record_property("origin bytes / distinct bytes", proxy.data_bytes / version.size_bytes)
    proxy.reset()
    for client, node in ((a, first), (b, second)):
        assert digests_on(client, version.tree(node.mountpoint)) == version.digests
    assert proxy.requests == []
