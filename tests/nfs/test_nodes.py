"""Nodes see each other through a real NFS server, by its clock, whatever theirs say and their clients have cached."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from dsfs.model.errors import BackingError
from dsfs.model.nodes import BEAT_S, SILENT_AFTER_S
from dsfs.storage.nodes import HEARTBEAT
from tests.nfs.conftest import NewNode
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.server import NfsServer
from tests.rig.node import Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until

HOUR_S = 3600
SOON_S = 4 * BEAT_S + 10
CACHE_FOR_LONG = "actimeo=600"
RECONNECTED_S = 45  # a client that was cut off tries again after a pause that is twice as long each time


def states_seen_by(node: Node) -> dict[str, str]:
    """The state of each node, by mountpoint."""
    rows = node.ask("nodes")["nodes"]
    return {row["usage"]["program"]["mountpoint"]: row["state"] for row in rows if row["usage"]}


def wait_seen(by: Node, node: Node, state: str, timeout_s: float = SOON_S) -> None:
    def is_seen() -> bool:
        try:
            return states_seen_by(by).get(str(node.mountpoint)) == state
        except BackingError:  # not yet
            return False

    wait_until(is_seen, timeout_s, f"{node.mountpoint} being {state}")


def open_files_seen_by(node: Node) -> int:
    return sum(sum(version["open_files"].values()) for version in node.ask("nodes")["versions_in_use"])


def pins_seen_by(node: Node) -> list[dict[str, Any]]:
    """None while the server takes the file back that it has lent to the client of version 4.2, for which one of version
    3 waits for seconds.
    """
    try:
        return list(node.ask("pins")["pins"])
    except BackingError:
        return []


def mtimes_of(folder: Path) -> list[float]:
    return [path.stat().st_mtime for path in folder.glob(f"*/{HEARTBEAT}")]


# The one that is cut off says so, if that lasts longer than its patience.
@pytest.mark.expects_log("the backing directory (does not answer|answers again)")
def test_neither_clocks_nor_caches_of_the_nodes_matter_and_one_that_was_cut_off_comes_back(
    a: NfsClient, b: NfsClient, server: NfsServer, new_node: NewNode, version: SourceVersion
) -> None:
    a.mount("large", "3", CACHE_FOR_LONG)
    b.mount("large", "4.2", CACHE_FOR_LONG)
    first = new_node(a).start()
    b.set_clock(-HOUR_S)
    second = new_node(b).start()
    for by, node in itertools.product((first, second), repeat=2):
        wait_seen(by, node, "alive")
    times = server.call(mtimes_of, first.backing / "nodes")
    assert max(times) - min(times) < SILENT_AFTER_S
    first.ask("ls", target=version.name)  # the origin has no answer for who has the wrong time; the catalog has
    assert second.command("pin", version.name, "--until", "30m").returncode == 0
    (pin,) = wait_until(lambda: pins_seen_by(first), what="the pin")
    assert (pin["version"], pin["state"]) == ("v1", "pinned")
    assert abs(pin["at_s"] - max(times)) < HOUR_S / 2

    b.cut()
    reading = a.start("tail", "-f", str(version.tree(first.mountpoint) / version.small[0]), log=first.work / "tail.log")
    refused = second.command("status", "--nodes")
    assert (refused.returncode, refused.stderr) == (1, "dsfs: backing directory does not answer\n")
    not_pinned = second.command("pin", version.name)
    assert not_pinned.returncode == 1
    assert re.fullmatch("dsfs: backing directory(:| does not answer).*\n", not_pinned.stderr)
    wait_seen(first, second, "silent", SILENT_AFTER_S + SOON_S)
    b.mend()
    wait_seen(first, second, "alive", RECONNECTED_S)
    wait_seen(second, first, "alive")
    assert open_files_seen_by(second) == 1
    # None while its directory does not answer: another probe may have to tell that it does.
    last_used_ago_s = wait_until(lambda: second.version(version.name)["last_used_ago_s"], what="a last use")
    assert last_used_ago_s < HOUR_S / 2

    reading.kill()
    assert first.stop() == 0
    assert states_seen_by(second)[str(first.mountpoint)] == "stopped"
    assert open_files_seen_by(second) == 0
    kinds = [event["kind"] for event in second.ask("events")["events"]]
    # The pin that was not answered in time may have been made afterwards.
    assert [kind for kind, _ in itertools.groupby(kinds)] == ["started", "published", "pinned", "stopped"]
