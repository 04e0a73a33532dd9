"""One dsfs node whose backing directory lies on a real NFS server: the whole life of a version there."""

import json
import os
from pathlib import Path

import pytest

from tests.nfs.conftest import NewNode, oldest_and_newest
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.nfs.client import VERSIONS, NfsClient
from tests.rig.node import Node
from tests.rig.reading import SourceVersion, forget_tree, read_at
from tests.rig.segmentdir import files_below, whole_segments
from tests.rig.wait import wait_until

BLOCK = 128 * 1024
SEAL_TIMEOUT_S = 30


def digests_on(client: NfsClient, tree: Path) -> dict[str, str]:
    """The SHA-256 of every file below `tree`, as an ordinary program on the node reads it."""
    lines = client.check("find", str(tree), "-type", "f", "-exec", "sha256sum", "{}", "+").splitlines()
    return {path.removeprefix(f"{tree}/"): digest for digest, path in (line.split("  ", 1) for line in lines)}


def forget_pages_on(client: NfsClient, node: Node) -> None:
    """Neither the node's own pages nor those of its NFS client are of use from now on."""
    for top in (node.mountpoint, node.backing):
        client.call(forget_tree, top)


def wait_sealed(node: Node, version: SourceVersion) -> None:
    """Every segment of the version is sealed, and nothing else lies beside.

    As the server has it: a client of NFSv3 may go on believing what it saw in the middle of that.
    """
    assert isinstance(node.machine, NfsClient)
    (catalog,) = node.state_dir.glob(f"catalogs/{version.name}/*/catalog.mdb")
    wanted = whole_segments(catalog)
    node.machine.server.call(wait_for_files, node.backing / "segments", wanted)


def wait_for_files(folder: Path, wanted: list[str]) -> None:
    """These, and no others; in a guest, whose failures are told without what pytest says of them."""
    try:
        wait_until(lambda: files_below(folder) == wanted, SEAL_TIMEOUT_S, "all being sealed")
    except TimeoutError as exc:
        there = set(files_below(folder))
        missing, beside = sorted(set(wanted) - there), sorted(there - set(wanted))
        raise AssertionError(f"{exc}: {missing} are missing, {beside} are too many") from None


def flags_of_open_files(pid: int, suffix: str) -> list[int]:
    """How the process has opened the files whose names end so."""
    flags = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(link).endswith(suffix):
            info = dict(line.split(":") for line in Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().splitlines())
            flags.append(int(info["flags"], 8))
    return flags


@pytest.mark.parametrize("nfs_version", VERSIONS)
def test_a_version_is_fetched_once_and_served_from_the_server_ever_after(
    a: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy, nfs_version: str
) -> None:
    a.mount("large", nfs_version)
    node = new_node(a).start()
    tree = version.tree(node.mountpoint)
    assert digests_on(a, tree) == version.digests
    assert proxy.data_bytes == version.size_bytes
    wait_sealed(node, version)

    proxy.reset()
    forget_pages_on(a, node)
    assert digests_on(a, tree) == version.digests

    node.restart()  # now with nothing in memory
    forget_pages_on(a, node)
    before = a.mount_stats()
    assert digests_on(a, tree) == version.digests
    assert (a.mount_stats() - before).bytes["received"] >= version.size_bytes
    assert proxy.count("GET") == 0


@oldest_and_newest
def test_a_segment_being_filled_is_written_and_read_past_the_page_cache(
    a: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy, nfs_version: str
) -> None:
    a.mount("large", nfs_version)
    node = new_node(a).start()
    (name,) = version.large
    path = version.tree(node.mountpoint) / name
    expected = (version.source / name).read_bytes()[MIB : MIB + BLOCK]
    before = a.mount_stats()
    assert a.call(read_at, path, MIB, BLOCK) == expected
    wait_until(lambda: node.metric("dsfs_fill_bytes_total") >= BLOCK, what="the block being written")
    assert (a.mount_stats() - before).bytes["written_direct"] >= BLOCK

    node.restart()
    proxy.reset()
    before = a.mount_stats()
    assert a.call(read_at, path, MIB, BLOCK) == expected
    assert proxy.count("GET") == 0
    assert (a.mount_stats() - before).bytes["read_direct"] >= BLOCK
    for suffix in (".part", ".map"):
        flags = a.call(flags_of_open_files, node.pid, suffix)
        assert flags
        assert all(flag & os.O_DIRECT for flag in flags)


def test_what_another_node_has_sealed_is_trusted_at_once(
    a: NfsClient, b: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy
) -> None:
    """fstat says of a sealed file there what it said here when it was sealed: nothing is checked or refilled."""
    first = new_node(a).start()
    digests_on(a, version.tree(first.mountpoint))
    wait_sealed(first, version)
    assert first.stop() == 0

    proxy.reset()
    second = new_node(b).start()
    assert digests_on(b, version.tree(second.mountpoint)) == version.digests
    assert proxy.count("GET") == 0
    written = b.mount_stats().bytes
    # A page now and then, of what the node tells of itself.
    assert written["written"] + written["written_direct"] < BLOCK


def test_status_says_how_much_is_cached(a: NfsClient, new_node: NewNode, version: SourceVersion) -> None:
    node = new_node(a).start()
    digests_on(a, version.tree(node.mountpoint))
    wait_sealed(node, version)
    (shown,) = json.loads(node.command("status", "--json").stdout)["versions"]
    assert (shown["version"], shown["resident_bytes"]) == ("v1", version.size_bytes)


def test_a_daemon_that_was_killed_leaves_what_it_has_sealed(
    a: NfsClient, new_node: NewNode, version: SourceVersion, proxy: FaultProxy
) -> None:
    node = new_node(a).start()
    digests_on(a, version.tree(node.mountpoint))
    wait_sealed(node, version)
    node.kill()
    proxy.reset()
    node.start()
    assert digests_on(a, version.tree(node.mountpoint)) == version.digests
    assert proxy.count("GET") == 0
