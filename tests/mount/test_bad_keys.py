"""Keys of every kind through a real mount: those no path can hold, those that only look so, and very many."""

import errno
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from dsfs.model.keys import Unusable
from dsfs.model.printable import printable
from tests.mount.conftest import Lake, NewNode
from tests.mount.sample import errno_of, walk
from tests.rig.canned import MODIFIED_S, CannedOrigin
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import MIB, Node

V = "a/v1"
MANY = 100_000
MANY_GROWTH_BYTES = 48 * MIB  # 100,000 Python objects with their keys would take more


@contextmanager
def mounted(new_node: NewNode, objects: Mapping[str, bytes]) -> Iterator[tuple[Node, FaultProxy]]:
    """A running daemon over exactly these objects."""
    with CannedOrigin(objects) as canned, FaultProxy(canned.endpoint_url) as proxy:
        node = new_node(endpoint_url=proxy.endpoint_url, url="s3://lake").start()
        yield node, proxy
        assert node.stop() == 0


def tree(top: Path) -> dict[str, bytes | None]:
    """The files and directories (None) below a directory, by their relative paths."""
    return {str(path.relative_to(top)): None if path.is_dir() else path.read_bytes() for path in walk(top)}


def peak_bytes(pid: int) -> int:
    """The most memory the process has had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


UNUSABLE = {
    "/leading": Unusable.EMPTY_NAME,
    "in//between": Unusable.EMPTY_NAME,
    "at/the/end//": Unusable.EMPTY_NAME,
    ".": Unusable.DOT_NAME,
    "..": Unusable.DOT_NAME,
    "../../../etc/passwd": Unusable.DOT_NAME,
    "deep/./dot": Unusable.DOT_NAME,
    "deep/..": Unusable.DOT_NAME,
    "nul\0": Unusable.NUL,
    "n" * 256: Unusable.LONG_NAME,
    "ž" * 128: Unusable.LONG_NAME,
    "l" * 256 + "/file": Unusable.LONG_NAME,
    "marker/": Unusable.MARKER_WITH_CONTENT,
}


def test_each_key_no_path_can_hold_is_left_out_with_its_reason(new_node: NewNode) -> None:
    objects = {f"{V}/{name}": b"1" for name in (*UNUSABLE, "good", "...", ".hidden", "..x")}
    with mounted(new_node, objects) as (node, _):
        assert tree(node.mountpoint / V) == {"good": b"1", "...": b"1", ".hidden": b"1", "..x": b"1"}
        facts = node.version(V)
        assert facts["left_out"] == len(UNUSABLE)
        named = {key.removeprefix(f"{V}/"): reason for key, reason in facts["left_out_examples"]}
        assert named == UNUSABLE
        shown = node.command("status", V).stdout
        assert f"{len(UNUSABLE)} keys that no path can hold are left out" in shown
        assert all(printable(f"{V}/{key}: {reason}") in shown for key, reason in UNUSABLE.items())


def test_of_many_left_out_keys_all_are_counted_and_some_named(new_node: NewNode) -> None:
    objects = {f"{V}/d{number}//file": b"1" for number in range(2_345)} | {f"{V}/good": b"1"}
    with mounted(new_node, objects) as (node, _):
        assert tree(node.mountpoint / V) == {"good": b"1"}
        facts = node.version(V)
        assert facts["left_out"] == 2_345
        assert 1 <= len(facts["left_out_examples"]) <= 100


@pytest.mark.parametrize(
    "below",
    [["x/y"], ["x/"], ["x/deep/er/y"], ["x!", "x-1", "x.b", "x/y", "x0"], ["x" + chr(code) for code in range(33, 64)]],
    ids=["file", "marker", "deep", "far apart", "every neighbour"],
)
def test_where_a_key_is_also_a_directory_the_directory_wins(new_node: NewNode, below: list[str]) -> None:
    if all(name[1] != "/" or len(name) == 2 for name in below):
        below = [*below, "x/z"]
    objects = {f"{V}/{name}": b"below" for name in below if name != "x/"} | {f"{V}/x": b"the file"}
    objects |= {f"{V}/x/": b""} if "x/" in below else {}
    with mounted(new_node, objects) as (node, _):
        found = tree(node.mountpoint / V)
        assert found["x"] is None
        assert sorted(name for name in found if found[name] is not None) == sorted(set(below) - {"x/"})
        assert node.version(V)["left_out_examples"] == [[f"{V}/x", Unusable.ALSO_DIRECTORY]]


def test_keys_of_1024_bytes_are_files(new_node: NewNode) -> None:
    deep = f"{V}/" + "d/" * 509 + "f"
    wide = f"{V}/" + "/".join(["w" * 254] * 4)[:1019]
    unicode = f"{V}/" + "/".join(["ž" * 127] * 4)[:509] + "code"
    objects = {key: key[-1:].encode() for key in (deep, wide, unicode)}
    assert [len(key.encode()) for key in objects] == [1024, 1024, 1024]
    with mounted(new_node, objects) as (node, proxy):
        for key, content in objects.items():
            assert (node.mountpoint / key).read_bytes() == content
        assert node.version(V)["left_out"] == 0
        assert proxy.count("GET") >= 1
        assert node.command("ls", V).returncode == 0


def test_names_that_mean_something_to_urls_shells_and_xml_are_just_names(lake: Lake, new_node: NewNode) -> None:
    """Against the server that verifies signatures, which is where a wrongly quoted key shows."""
    odd = "%2F|%25|%|+|a+b|?x=1|#|&amp;|<b>|;|:|@|$HOME|,|'|\"|*|[a]|{b}|^|`|~|!|(c)|\\|="
    odd += "|  |a b |é|e\u0301|日本|🦆|\u202e|%E9"
    names = [*odd.split("|"), "|", "...", "-rf", "x" * 255]
    contents = {f"{folder}{name}": f"{folder}{name}".encode() for name in names for folder in ("", "odd %+/")}
    for name, content in contents.items():
        lake.put(f"da+ta %/v 1/{name}", content)
    node = new_node().start()
    assert os.listdir(node.mountpoint) == ["da+ta %"]
    assert os.listdir(node.mountpoint / "da+ta %") == ["v 1"]
    found = tree(node.mountpoint / "da+ta %/v 1")
    assert {name: content for name, content in found.items() if content is not None} == contents
    for name in names:
        assert node.ask("why", path=f"da+ta %/v 1/{name}")["object"]["key"].endswith(name)
    assert node.version("da+ta %/v 1")["left_out"] == 0


def test_large_objects_with_odd_keys_are_read_in_ranges(lake: Lake, node: Node) -> None:
    content = random.Random(5).randbytes(6 * MIB)
    names = ("a+b %2B.bin", "ž日本.bin", "?#&.bin", "two  spaces")
    for name in names:
        lake.put(f"{V}/{name}", content)
    for name in names:
        assert (node.mountpoint / V / name).read_bytes() == content


@pytest.mark.time_limit(120)
def test_a_folder_of_100_000_files_is_mounted_without_an_object_for_each(new_node: NewNode) -> None:
    objects = {f"small/v1/{number}": b"" for number in range(2_000)}
    objects |= {f"large/v1/folder/file-{number:06d}.jpg": b"" for number in range(MANY)}
    objects["large/v1/folder/file-050000.jpg"] = b"middle"
    with mounted(new_node, objects) as (node, proxy):
        os.listdir(node.mountpoint / "small/v1")
        before = peak_bytes(node.pid)
        folder = node.mountpoint / "large/v1/folder"
        names = os.listdir(folder)
        assert len(names) == MANY
        assert len(set(names)) == MANY
        assert (folder / "file-050000.jpg").read_bytes() == b"middle"
        assert (folder / "file-099999.jpg").stat().st_mtime == MODIFIED_S
        assert node.version("large/v1")["files"] == MANY
        assert node.ask("ls", target="large/v1/folder")["truncated"]
        assert peak_bytes(node.pid) - before < MANY_GROWTH_BYTES
        assert proxy.count("LIST") < 1.5 * (MANY + 2_000) / 1000 + 20


def test_what_lies_beside_datasets_and_versions_is_neither(new_node: NewNode) -> None:
    objects = {"stray": b"1", "a/stray": b"1", "a/v1/file": b"1", "n" * 256 + "/v1/x": b"1", "../v1/x": b"1"}
    objects |= {"a/" + "v" * 256 + "/x": b"1", "a//x": b"1", "/v1/x": b"1", "a/../x": b"1"}
    with mounted(new_node, objects) as (node, _):
        assert os.listdir(node.mountpoint) == ["a"]
        assert os.listdir(node.mountpoint / "a") == ["v1"]
        assert errno_of(os.stat, node.mountpoint / "stray") == errno.ENOENT
        assert errno_of(os.stat, node.mountpoint / "a/stray") == errno.ENOENT
        assert errno_of(os.stat, node.mountpoint / ("n" * 256)) == errno.ENAMETOOLONG


def test_a_version_of_nothing_but_empty_objects_is_read_without_a_get(new_node: NewNode) -> None:
    with mounted(new_node, {f"{V}/{number}": b"" for number in range(50)}) as (node, proxy):
        assert set(tree(node.mountpoint / V).values()) == {b""}
        assert proxy.count("GET") == 0
        facts = node.version(V)
        assert (facts["files"], facts["bytes"], facts["resident_bytes"]) == (50, 0, 0)
        assert node.ask("why", path=f"{V}/7")["segment"] is None
        dropped = {"dataset": "a", "version": "v1", "dropped_bytes": 0, "segments": 0}
        assert node.ask("drop", target=V) == dropped
        assert (node.mountpoint / V / "7").read_bytes() == b""


def test_a_version_of_nothing_but_bad_keys_is_an_empty_directory_whose_status_tells(new_node: NewNode) -> None:
    with mounted(new_node, {f"{V}//x": b"1"}) as (node, _):
        assert os.listdir(node.mountpoint / V) == []
        assert node.version(V)["left_out"] == 1
