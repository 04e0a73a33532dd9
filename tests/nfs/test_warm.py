"""`dsfs warm --nodes all` on nodes that are real NFS clients: they find the request, and share the work."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dsfs.model.request import WarmRequest
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.requests import RequestFolder
from tests.nfs.conftest import NewNode, oldest_and_newest
from tests.nfs.test_many_nodes import SETTINGS, START_S, assert_fetched_once
from tests.nfs.test_one_node import digests_on
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.server import export_path
from tests.rig.node import Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until

DONE_S = 60


def request_folder(path: Path) -> RequestFolder:
    return RequestFolder(path, file_system_of(path.parent), lambda: None)


def place_request(path: Path, number: int) -> None:
    request_folder(path).place(WarmRequest("photos", f"v{number}"))


def count_requests(path: Path) -> int:
    return len(request_folder(path).all())


@oldest_and_newest
def test_request_is_seen_at_once_by_who_looked_right_before(a: NfsClient, b: NfsClient, nfs_version: str) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    folder = export_path("large") / "requests"
    for number in range(3):  # at first there is no folder
        assert b.call(count_requests, folder) == number
        a.call(place_request, folder, number)
    assert b.call(count_requests, folder) == 3


def state_of(node: Node) -> str:
    """The state of the last warm of the node."""
    warms = node.ask("warms")["warms"]
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
    wait_until(lambda: state_of(second) == "waiting", DONE_S, "the second node's having done the rest")
    proxy.release()
    nodes = (first, second)
    for node in nodes:
        wait_until(lambda node=node: state_of(node) == "complete", DONE_S, "the end of the warm")  # type: ignore[misc]
    assert_fetched_once(proxy, version, nodes)
    record_property("origin bytes / distinct bytes", proxy.data_bytes / version.size_bytes)
    proxy.reset()
    for client, node in ((a, first), (b, second)):
        assert digests_on(client, version.tree(node.mountpoint)) == version.digests
    assert proxy.requests == []
