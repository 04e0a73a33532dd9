"""Pins, events and last use with real daemons: on two nodes, after a restart, a kill -9, and while nothing answers."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dsfs.cache.lastuse import LOOK_S
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]
SOON_S = LOOK_S + 10  # a look and its way through a busy machine


def answer_of(node: Node, *words: str) -> Any:
    """What a command answers with --json."""
    done = node.command(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def events_seen_by(node: Node, *words: str) -> list[tuple[str, str]]:
    """Kind and version of each event."""
    return [(event["kind"], event["version"]) for event in answer_of(node, "events", *words)["events"]]


def wait_events(node: Node, expected: list[tuple[str, str]]) -> None:
    wait_until(lambda: events_seen_by(node) == expected, SOON_S, f"{expected}")


class Follower:
    """`dsfs events -f --json`, under way."""

    def __init__(self, node: Node) -> None:
        words = ["events", "-f", "--json", "--config", str(node.config)]
        self._output = node.work / "followed"
        self._process = node.machine.start(sys.executable, "-m", "dsfs", *words, env={}, log=self._output)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def interrupted(self) -> list[dict[str, Any]]:
        """What it has shown, until Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(10) == 130
        return self.events

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait(10)


@contextmanager
def following(node: Node) -> Iterator[Follower]:
    follower = Follower(node)
    try:
        yield follower
    finally:
        follower.kill()


@pytest.fixture
def pair(new_node: NewNode, tmp_path: Path) -> tuple[Node, Node]:
    first, second = (new_node(settings=PATIENT, backing=tmp_path / "shared").start() for _ in range(2))
    return first, second


def test_nodes_see_each_other_s_pins_events_and_uses(pair: tuple[Node, Node], version: SourceVersion) -> None:
    first, second = pair
    started = [("started", ""), ("started", "")]
    wait_events(first, started)
    with following(second) as follower:
        done = first.command("pin", version.name, "--until", "30d", "--note", "for the paper")
        assert (done.returncode, done.stderr) == (0, "")
        assert "for the paper" in done.stdout
        (pin,) = answer_of(second, "pins")["pins"]
        assert (pin["dataset"], pin["version"], pin["note"]) == ("photos", "v1", "for the paper")
        assert pin["until_s"] - pin["at_s"] == pytest.approx(30 * 86_400)
        assert version.name in second.command("pins").stdout
        again = second.command("pin", version.name)
        assert again.returncode == 0
        assert [pin["until_s"] for pin in answer_of(first, "pins")["pins"]] == [None]
        assert second.command("unpin", version.name).stdout == f"{version.name}: unpinned\n"
        gone = first.command("unpin", version.name)
        assert (gone.returncode, gone.stderr) == (1, f"dsfs: {version.name} is not pinned\n")
        assert answer_of(first, "pins") == {"pins": []}
        wrong = first.command("pin", "photos/v11")
        assert wrong.returncode == 1
        assert wrong.stderr == "dsfs: dataset 'photos' has no version 'v11' (did you mean v1?)\n"

        assert version.wrong_files(first.mountpoint) == []
        used = lambda: second.version(version.name)["last_used_ago_s"]  # noqa: E731
        assert wait_until(lambda: used() is not None, SOON_S, "the use being told")
        assert used() < 60
        assert first.command("warm", version.name, "--wait").returncode == 0
        assert first.command("drop", version.name, "--yes").returncode == 0
        assert used() is not None
        told = [
            *started, ("pinned", "v1"), ("pinned", "v1"), ("unpinned", "v1"),
            ("published", "v1"), ("warmed", "v1"), ("dropped", "v1"),
        ]  # fmt: skip
        wait_events(second, told)
        assert events_seen_by(first, version.name) == told[2:]
        assert events_seen_by(first, "--since", "1h", "photos") == told[2:]
        assert events_seen_by(first, "--since", "2100-01-01") == []

        assert first.stop() == 0
        wait_until(lambda: follower.events[-1]["kind"] == "stopped", SOON_S, "the follower being told")
        followed = follower.interrupted()
        assert [(event["kind"], event["version"]) for event in followed] == [*told, ("stopped", "")]
        assert {event["bytes"] for event in followed if event["kind"] == "warmed"} == {version.size_bytes}


def test_all_of_it_outlives_the_daemon(node: Node, version: SourceVersion) -> None:
    node.start()
    assert node.command("pin", version.name).returncode == 0
    assert version.wrong_files(node.mountpoint) == []
    node.restart()  # which tells the use before it stops
    assert [pin["state"] for pin in answer_of(node, "pins")["pins"]] == ["pinned"]
    assert node.version(version.name)["last_used_ago_s"] is not None
    told = [("started", ""), ("pinned", "v1"), ("published", "v1"), ("stopped", ""), ("started", "")]
    wait_events(node, told)
    node.kill()
    node.start()
    assert [pin["state"] for pin in answer_of(node, "pins")["pins"]] == ["pinned"]
    wait_events(node, [*told, ("started", "")])
    assert node.stop() == 0


@pytest.mark.parametrize(("point", "left"), [("pins.place", ["old"]), ("pins.placed", ["new", "old"])])
def test_daemon_killed_while_it_writes_a_pin_leaves_the_version_pinned(
    node: Node, version: SourceVersion, point: str, left: list[str]
) -> None:
    node.start(env={"DSFS_CRASH_AT": f"{point}:2"})
    assert node.command("pin", version.name, "--note", "old").returncode == 0
    assert node.command("pin", version.name, "--note", "new").returncode == 3
    assert node.wait() == -signal.SIGKILL
    node.kill()
    node.start()
    assert [pin["note"] for pin in answer_of(node, "pins")["pins"]] == left
    assert node.command("unpin", version.name).returncode == 0
    assert answer_of(node, "pins") == {"pins": []}


def test_daemon_killed_while_it_writes_an_event_loses_that_one(node: Node, version: SourceVersion) -> None:
    node.start(env={"DSFS_CRASH_AT": "events.write:2"})
    wait_until(lambda: events_seen_by(node) == [("started", "")], SOON_S, "the start being told")
    assert node.command("pin", version.name).returncode == 0
    assert node.wait() == -signal.SIGKILL
    node.kill()
    node.start()
    wait_events(node, [("started", ""), ("started", "")])
    assert answer_of(node, "events")["damaged_lines"] == 0


@pytest.mark.expects_log("counts as a pin")
def test_damaged_files_are_told_and_spoil_nothing_else(node: Node, version: SourceVersion) -> None:
    node.start()
    assert node.command("pin", version.name).returncode == 0
    (path,) = (node.backing / "pins").iterdir()
    path.write_bytes(b"\0" * 10)
    (log,) = (node.backing / "events").iterdir()
    wait_events(node, [("started", ""), ("pinned", "v1")])
    with log.open("ab") as file:
        file.write(b'{"half')
    node.restart()
    assert [(pin["version"], pin["state"]) for pin in answer_of(node, "pins")["pins"]] == [("v1", "damaged")]
    assert "damaged" in node.command("pins").stdout
    wait_events(node, [("started", ""), ("pinned", "v1"), ("stopped", ""), ("started", "")])
    assert answer_of(node, "events")["damaged_lines"] == 1
    assert "1 lines cannot be understood" in node.command("events").stdout
    assert node.command("unpin", version.name).returncode == 0
    assert os.listdir(node.backing / "pins") == []
