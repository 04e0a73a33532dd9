"""Daemons that share a backing directory see each other: alive, stopped, and killed."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsfs.cache.shares import LOOK_S
from dsfs.model.nodes import BEAT_S, SILENT_AFTER_S
from dsfs.model.share import Share, Shares
from dsfs.storage.bulletin import shares_at
from dsfs.storage.filesystem import file_system_of
from tests.rig.background import in_background
from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]
SOON_S = 4 * BEAT_S + 5  # a beat and its way through a busy machine


def nodes_seen_by(node: Node) -> dict[str, dict[str, Any]]:
    """The rows of `status --nodes --json`, by mountpoint."""
    answer = json.loads(node.command("status", "--nodes", "--json").stdout)
    return {row["usage"]["program"]["mountpoint"]: row for row in answer["nodes"] if row["usage"]}


def states_seen_by(node: Node) -> dict[str, str]:
    return {mountpoint: row["state"] for mountpoint, row in nodes_seen_by(node).items()}


@pytest.fixture
def pair(new_node: NewNode, tmp_path: Path) -> tuple[Node, Node]:
    first, second = (new_node(settings=PATIENT, backing=tmp_path / "shared").start() for _ in range(2))
    return first, second


def test_nodes_see_each_other_and_what_each_reads(pair: tuple[Node, Node], version: SourceVersion) -> None:
    first, second = pair
    both = {str(node.mountpoint): "alive" for node in pair}
    for node in pair:
        wait_until(lambda node=node: states_seen_by(node) == both, SOON_S, "both nodes being alive")  # type: ignore[misc]
    (name, *_) = version.large
    with (version.tree(first.mountpoint) / name).open("rb") as file:
        file.read(4096)

        def open_here() -> list[dict[str, Any]]:
            versions = nodes_seen_by(second)[str(first.mountpoint)]["usage"]["versions"]
            return [version for version in versions if version["open_files"]]

        (found,) = wait_until(open_here, SOON_S, "the open file being told")
        assert (found["dataset"], found["version"], found["open_files"]) == ("photos", "v1", 1)
        assert abs(found["since_ns"] - time.time_ns()) < 60e9
        page = second.command("status", "--nodes").stdout
        assert "photos/v1 (1 file, " in page
    wait_until(lambda: not open_here(), SOON_S, "the closed file being told")
    seen = nodes_seen_by(second)[str(first.mountpoint)]["usage"]
    assert seen["traffic"]["origin_bytes"] >= 4096
    assert (seen["backing"]["state"], seen["origins"][0]["state"]) == ("ok", "ok")
    assert seen["program"]["pid"] == first.pid


def test_daemons_keep_no_more_of_a_version_than_its_share(
    pair: tuple[Node, Node], version: SourceVersion, tmp_path: Path
) -> None:
    first, second = pair
    for node in pair:
        node.ask("ls", target=version.name)
    most = 16 * MIB
    share = Share("photos", "v1", first.version(version.name)["generation"], most, held_bytes=0, nodes=2)
    place = tmp_path / "shared" / "shares"
    shares_at(place, file_system_of(tmp_path)).place(Shares(time.time_ns(), (share,)))
    for node in pair:
        wait_until(lambda node=node: node.version(version.name)["share"], LOOK_S + SOON_S, "the share being seen")  # type: ignore[misc]
    reading = in_background(lambda: version.wrong_files(second.mountpoint))
    assert version.wrong_files(first.mountpoint) == []
    assert reading.result(60) == []
    filled = [node.metric("dsfs_fill_bytes_total") for node in pair]
    assert most / 4 < sum(filled) <= most
    assert max(filled) <= most / 2
    for node in pair:
        assert 'dsfs_fill_skipped_bytes_total{reason="share"} 0\n' not in node.ask("metrics")["text"]
        why = node.command("why", f"{version.name}/{version.large[0]}").stdout
        assert "of the 16.0 MiB that it may; what else is read of it here is not kept for now" in why


def test_node_that_was_killed_is_silent_and_one_that_ended_is_stopped(pair: tuple[Node, Node], tmp_path: Path) -> None:
    first, second = pair
    wait_until(lambda: len(states_seen_by(first)) == 2, SOON_S, "both nodes being seen")
    directories = set((tmp_path / "shared" / "nodes").iterdir())
    assert second.stop() == 0
    assert states_seen_by(first)[str(second.mountpoint)] == "stopped"
    second.start()
    wait_until(lambda: states_seen_by(first)[str(second.mountpoint)] == "alive", SOON_S, "it being back")
    second.kill()
    wait_until(
        lambda: states_seen_by(first)[str(second.mountpoint)] == "silent", SILENT_AFTER_S + SOON_S, "it being silent"
    )
    second.start()
    wait_until(lambda: states_seen_by(first)[str(second.mountpoint)] == "alive", SOON_S, "it being back")
    assert set((tmp_path / "shared" / "nodes").iterdir()) == directories
