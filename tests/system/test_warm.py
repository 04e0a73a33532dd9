"""`dsfs warm` with real daemons: all of it is there, fetched once; killed, stopped, full, and on two nodes at once."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dsfs.model.blocks import RUN
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node, Settings
from tests.rig.reading import SourceVersion
from tests.rig.smallfs import SmallFilesystem
from tests.rig.wait import wait_until

NewNode = Callable[..., Node]


def units(version: SourceVersion, names: list[str] | None = None) -> int:
    """GETs that bring the files when none is made twice."""
    sizes = [version.size_of(name) for name in version.digests if names is None or name in names]
    return sum(-(-size // RUN) for size in sizes)


def state_of(node: Node) -> str:
    """The state of the last warm, as the command prints it."""
    warms = json.loads(node.command("warm", "--list", "--json").stdout)["warms"]
    return str(warms[-1]["state"]) if warms else "none"


def resident(node: Node, version: SourceVersion) -> int:
    return int(node.version(version.name)["resident_bytes"])


def test_warmed_version_is_read_without_the_origin(
    node: Node, proxy: FaultProxy, version: SourceVersion
) -> None:
    node.start()
    done = node.command("warm", version.name, "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"{version.name}: complete, 100 % of ")
    assert proxy.count("GET") == units(version)
    assert proxy.data_bytes == version.size_bytes
    proxy.reset()
    assert version.wrong_files(node.mountpoint) == []
    node.restart()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.requests == []
    assert node.stop() == 0


def test_pattern_events_and_a_second_time(node: Node, proxy: FaultProxy, version: SourceVersion) -> None:
    node.start()
    done = node.command("warm", version.name, "--path", "large/000*", "--wait", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert (events[-1]["event"], events[-1]["state"], events[-1]["path"]) == ("end", "complete", "large/000*")
    assert events[-1]["resident_bytes"] == events[-1]["total_bytes"] == version.size_of("large/000.tar")
    assert proxy.count("GET") == units(version, ["large/000.tar"])
    assert node.command("warm", version.name, "--wait").returncode == 0
    assert proxy.count("GET") == units(version)
    assert node.command("warm", version.name, "--nodes", "all", "--wait").returncode == 0
    assert proxy.count("GET") == units(version)
    nothing = node.command("warm", version.name, "--path", "nothing", "--wait")
    assert nothing.returncode == 1
    assert "--path nothing has no file with content" in nothing.stderr
    missing = node.command("warm", "photos/v9")
    assert (missing.returncode, missing.stderr) == (1, "dsfs: dataset 'photos' has no version 'v9'\n")
    assert node.stop() == 0


@pytest.mark.parametrize("nodes", ["this", "all"])
def test_killed_daemon_goes_on_where_it_was(
    node: Node, proxy: FaultProxy, version: SourceVersion, nodes: str
) -> None:
    node.start()
    proxy.add(Fault("stall", key="*/large/001.tar"))
    begun = node.command("warm", version.name, "--nodes", nodes)
    assert begun.returncode == 0, begun.stderr
    rest = version.size_of("large/001.tar")
    wait_until(lambda: resident(node, version) == version.size_bytes - rest, what="everything else being filled")
    assert f"warm        {version.name}" in node.command("status").stdout
    node.kill()
    proxy.clear()
    proxy.release()
    proxy.reset()
    node.start()
    wait_until(lambda: state_of(node) == "complete", what="the end of the warm")
    assert (proxy.count("GET"), proxy.data_bytes) == (units(version, ["large/001.tar"]), rest)
    proxy.reset()
    assert version.wrong_files(node.mountpoint) == []
    assert proxy.requests == []
    node.restart()
    assert state_of(node) == "none"  # it is done, and not begun again
    assert node.stop() == 0


def test_interrupted_command_leaves_the_warm_which_can_be_stopped(
    node: Node, proxy: FaultProxy, version: SourceVersion, tmp_path: Path
) -> None:
    node.start()
    proxy.add(Fault("stall", key="*/large/*"))
    words = ["warm", version.name, "--wait", "--config", str(node.config)]
    output = tmp_path / "output"
    waiting = node.machine.start(sys.executable, "-m", "dsfs", *words, env={}, log=output)
    wait_until(lambda: "filling" in output.read_text(), what="the first line")
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(10) == 130
    hint = f"dsfs: the warm goes on by itself; dsfs warm --stop {version.name} ends it"
    assert output.read_text().splitlines()[-1] == hint
    assert state_of(node) == "filling"
    stopped = node.command("warm", "--stop", version.name)
    assert stopped.stdout == f"{version.name}: 1 stopped\n"
    assert state_of(node) == "stopped"
    proxy.clear()
    proxy.release()
    node.restart()
    assert state_of(node) == "none"
    assert version.wrong_files(node.mountpoint) == []
    assert node.stop() == 0


def test_full_backing_directory_is_the_reason_and_no_readers_matter(
    tmp_path: Path, new_node: NewNode, proxy: FaultProxy, version: SourceVersion
) -> None:
    with SmallFilesystem(tmp_path / "small", "tmpfs", 24 * MIB) as small:
        node = new_node(settings=PATIENT, backing=small.path).start()
        done = node.command("warm", version.name, "--wait", "--patience", "2s")
        assert done.returncode == 1
        assert "(free space would fall below backing.floor)" in done.stderr
        assert "the warm goes on by itself" in done.stderr
        assert proxy.data_bytes <= 24 * MIB  # nothing was fetched in vain
        assert version.wrong_files(node.mountpoint) == []
        assert state_of(node) == "paused"
        assert node.stop() == 0


def test_two_nodes_warm_one_directory_together(
    new_node: NewNode, proxy: FaultProxy, version: SourceVersion, record_property: Callable[[str, object], None]
) -> None:
    settings: Settings = {"origin": {**PATIENT["origin"], "connections": 2}}
    a = new_node(settings=settings).start()
    proxy.add(Fault("delay", seconds=0.1))
    assert a.command("warm", version.name, "--nodes", "all").returncode == 0
    b = new_node(settings=settings, backing=a.backing).start()  # finds the request
    wait_until(lambda: state_of(b) != "none", what="the request being found")
    for node in (a, b):
        wait_until(lambda node=node: state_of(node) == "complete", 60, "the end of the warm")  # type: ignore[misc]
    own = [node.metric("dsfs_origin_bytes_total") for node in (a, b)]
    ratio = proxy.data_bytes / version.size_bytes
    record_property("origin bytes / distinct bytes", ratio)
    assert min(own) > 0
    assert 1 <= ratio <= 1.01
    assert list((a.backing / "requests").iterdir()) == []
    proxy.clear()
    proxy.reset()
    for node in (a, b):
        node.restart()
        assert version.wrong_files(node.mountpoint) == []
    assert proxy.requests == []
    for node in (a, b):
        assert node.stop() == 0
