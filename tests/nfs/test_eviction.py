"""Eviction on real NFS clients: an evictor that is killed, or frozen, and a server's clock that is set."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.nfs.conftest import NewNode, oldest_and_newest
from tests.nfs.test_many_nodes import LONGEST_WAIT_S, SETTINGS
from tests.nfs.test_nodes import open_files_seen_by
from tests.nfs.test_one_node import digests_on, wait_for_files
from tests.rig import hurried
from tests.rig.aged import DAY_S, set_back_version
from tests.rig.frozen import is_frozen
from tests.rig.lake import MIB, digest_file
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.lookout import Lookout
from tests.rig.nfs.rig import NfsRig
from tests.rig.nfs.server import NfsServer
from tests.rig.nfs.steadyreader import SteadyReader
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, make_version
from tests.rig.segmentdir import hidden_in, whole_segments
from tests.rig.wait import wait_until

WAIT_S = 60.0
TIGHT = 16 * MIB  # not all that is filled here fits
HOUR_S = 3600


@pytest.fixture(scope="module")
def versions(booted: NfsRig) -> list[SourceVersion]:
    """Three of some 6 MB."""
    bucket, sizes = booted.origin.store.bucket("lake"), [5 * MIB + 4_321]
    return [
        make_version(bucket, f"kept/v{number}", small_files=10, large_sizes_bytes=sizes, seed=20 + number)
        for number in range(3)
    ]


def settings(limit_bytes: int) -> Mapping[str, Mapping[str, object]]:
    backing = {**SETTINGS["backing"], "limit": f"{limit_bytes // MIB}MiB"}
    return {**SETTINGS, "backing": backing, "retention": {"grace": "0s", "keep_newest": 0}}


# ---------------------------------------------------------------- what lies there


def evict(node: Node, need_bytes: int = 0) -> list[dict[str, object]]:
    """As `dsfs evict` does; what has left."""
    return list(node.ask("evict", need_bytes=need_bytes)["leaves"])


def make_old(backing: Path, *versions: str) -> None:
    """At the server: nobody has used these versions for a month."""
    for version in versions:
        set_back_version(backing, version, 30 * DAY_S)


def fill(node: Node, *versions: SourceVersion, listed: Sequence[SourceVersion] = ()) -> None:
    """Have these versions there, and in use by nobody; of those that are `listed` only their catalogs."""
    client = node.start().machine
    assert isinstance(client, NfsClient)
    for version in listed:
        node.ask("ls", target=version.name)
    wanted: list[str] = []
    for version in versions:
        assert digests_on(client, version.tree(node.mountpoint)) == version.digests
        (catalog,) = node.state_dir.glob(f"catalogs/{version.name}/*/catalog.mdb")
        wanted += whole_segments(catalog)
    client.call(wait_for_files, node.backing / "segments", sorted(wanted))
    assert node.stop() == 0


def versions_there(backing: Path) -> set[str]:
    """The versions of which a sealed segment is there."""
    there = {path.name for path in backing.glob("segments/*/*") if not path.suffix}
    found = set()
    for file in backing.glob("versions/*/*/*/segments"):
        content = file.read_bytes()
        if any(content[at : at + 20].hex() in there for at in range(0, len(content), 20)):
            found.add("/".join(file.parts[-4:-2]))
    return found


def start_hurried(node: Node, env: Mapping[str, str] | None = None) -> None:
    """With rounds every second, see tests/rig/hurried.py."""
    node.module = hurried.__name__
    node.start(env=env)


def wait_evicted(server: NfsServer, backing: Path, version: SourceVersion) -> None:
    wait_until(lambda: version.name not in server.call(versions_there, backing), WAIT_S, f"{version.name} leaving")


# ---------------------------------------------------------------- who evicts


@oldest_and_newest
def test_another_node_evicts_when_the_one_whose_turn_it_was_is_killed(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion], nfs_version: str
) -> None:
    a, b, c, d = rig.clients
    for client in rig.clients:
        client.mount("large", nfs_version)
    roomy = settings(1024 * MIB)
    first, second, third = versions
    fill(new_node(d, settings=roomy), *versions)
    ill, other, asked = (new_node(client, settings=roomy) for client in (a, b, c))
    backing = ill.backing
    server.call(make_old, backing, first.name)
    start_hurried(ill)
    wait_evicted(server, backing, first)
    assert ill.process is not None
    ill.process.send_signal(signal.SIGKILL)
    server.call(make_old, backing, second.name)
    start_hurried(other)
    wait_evicted(server, backing, second)
    server.call(make_old, backing, third.name)  # which the other one does not look at for minutes
    evict(asked.start())  # without the turn
    assert server.call(versions_there, backing) == set()


# In the middle of hiding a segment; and with the account of room locked, which nobody else can change then.
@pytest.mark.parametrize("point", ["trash.rename", "account.write"])
def test_evictor_that_is_frozen_holds_up_neither_readers_nor_eviction_and_does_no_harm_afterwards(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion], tmp_path: Path, point: str
) -> None:
    a, b, c = rig.clients[:3]
    for client, nfs_version in ((a, "4.2"), (b, "3"), (c, "4.1")):
        client.mount("large", nfs_version)
    first, second, third = versions
    tight = settings(TIGHT)
    fill(new_node(c, settings=tight), first, second, listed=[third])
    ill, *others = (new_node(client, settings=tight) for client in (a, b, c))
    backing = ill.backing
    server.call(make_old, backing, first.name)
    start_hurried(ill, {"DSFS_FREEZE_AT": point})
    wait_until(lambda: a.call(is_frozen, ill.pid), WAIT_S, "an evictor that stands still")
    server.call(make_old, backing, second.name)
    for node in others:
        start_hurried(node)
    with Lookout(server, backing, tmp_path / "stop") as lookout:
        readers = [SteadyReader(node, tmp_path / str(number), third) for number, node in enumerate(others)]
        for version in (first, second):
            wait_evicted(server, backing, version)
        wait_until(lambda: any(node.metric("dsfs_fill_bytes_total") for node in others), WAIT_S, "fills that go on")
        for reader in readers:
            reader.wait_rounds(1)
        assert server.call(hidden_in, backing), "the frozen one may have it open"

        assert ill.process is not None
        ill.process.send_signal(signal.SIGCONT)
        wait_until(lambda: not server.call(hidden_in, backing), WAIT_S, "what has left being deleted")
        wait_until(lambda: server.call(versions_there, backing) == {third.name}, WAIT_S, "what is read being there")
        seen = [reader.finish() for reader in readers]
        assert digests_on(a, first.tree(ill.mountpoint)) == first.digests
        assert lookout.finish().named_bytes <= TIGHT
    assert not [wrong for each in seen for wrong in each.wrong]
    assert max(each.longest_s for each in seen) < LONGEST_WAIT_S


# ---------------------------------------------------------------- the server's clock


def test_clock_of_the_server_that_is_set_lets_nothing_go_that_is_open_and_rounds_go_on(
    rig: NfsRig, server: NfsServer, new_node: NewNode, versions: list[SourceVersion]
) -> None:
    a, b, c = rig.clients[:3]
    for client, nfs_version in ((a, "3"), (b, "4.2"), (c, "4.2")):
        client.mount("large", nfs_version)
    roomy = settings(1024 * MIB)
    open_one, *others = versions
    fill(new_node(c, settings=roomy), *versions)
    reader, evicting = (new_node(client, settings=roomy) for client in (a, b))
    backing = reader.backing
    server.call(make_old, backing, *(version.name for version in others))
    reader.start()
    path = open_one.tree(reader.mountpoint) / open_one.large[0]
    a.start("tail", "-f", str(path), log=reader.work / "tail.log")
    evicting.start()
    wait_until(lambda: open_files_seen_by(evicting), what="an open file")
    server.call(make_old, backing, open_one.name)
    server.set_clock(HOUR_S)
    wait_until(lambda: evict(evicting), WAIT_S, "a round in which something leaves")
    assert server.call(versions_there, backing) == {open_one.name}
    assert server.call(hidden_in, backing)
    server.set_clock(0)
    is_gone = lambda: not evict(evicting) and not server.call(hidden_in, backing)  # noqa: E731
    wait_until(is_gone, WAIT_S, "what has left being deleted")
    assert server.call(versions_there, backing) == {open_one.name}
    assert a.call(digest_file, path) == open_one.digests[open_one.large[0]]
