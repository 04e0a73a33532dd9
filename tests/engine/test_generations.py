"""Where catalogs lie: the newest whole generation is found, on whichever side it is left."""

import errno
import json
import os
import shutil
from contextlib import nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from dsfs.storage import faultpoint, filesystem
from dsfs.storage.filesystem import FileSystem
from dsfs.storage.generations import CATALOG, SUMMARY, GenerationStore, PlacedGeneration
from dsfs.storage.segmentlist import SegmentList
from tests.engine.segment_sample import flip
from tests.engine.stopping import DiedError, stopping_at
from tests.rig.segmentdir import age

A, B, C = "aa" * 20, "bb" * 20, "cc" * 20
damaged = pytest.mark.expects_log("is damaged and left out|describes no generation")


class Node:
    """A node with its own local disk; all share one backing directory."""

    def __init__(self, tmp_path: Path, name: str = "one") -> None:
        self.local = tmp_path / name / "catalogs"
        self.shared = tmp_path / "backing" / "versions"
        self._built = tmp_path / name / "built.mdb"
        self.local.mkdir(parents=True, exist_ok=True)
        self.shared.mkdir(parents=True, exist_ok=True)
        self.store = GenerationStore(self.local, self.shared, FileSystem("ceph"), lambda size: nullcontext())

    def add(self, generation: str, content: bytes | None = None) -> PlacedGeneration:
        """As after a listing; the catalog's bytes are told by the generation unless they are given."""
        self._built.write_bytes(content or generation.encode() * 1000)
        segments = SegmentList(bytes.fromhex(generation), 4096)
        placed = self.store.add("photos", "v1", self._built, {"generation": generation, "files": 3}, segments)
        self.store.share("photos", "v1", placed)
        return placed

    def current(self) -> str | None:
        """The generation that is current, after a look at whether it can be opened here."""
        placed = self.store.current("photos", "v1")
        if placed is None:
            return None
        assert placed.path == self.local / "photos" / "v1" / placed.generation
        assert (placed.path / CATALOG).stat().st_size == placed.size
        assert json.loads((placed.path / SUMMARY).read_text())["generation"] == placed.generation
        return placed.generation

    def known(self, dataset: str) -> list[str]:
        """Versions that have a catalog on either side; datasets if there is no dataset."""
        names = partial(self.store.versions, dataset) if dataset else self.store.datasets
        return sorted({*names(True), *names(False)})

    def folder(self, side: str) -> Path:
        return (self.local if side == "local" else self.shared) / "photos" / "v1"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def restart(monkeypatch: pytest.MonkeyPatch, token: str, folder: Path) -> None:
    """In another process, much later: names of what is not complete yet are other ones."""
    monkeypatch.setattr(filesystem, "NEW", f".new-{token}")
    age(folder)


def test_version_without_a_catalog_has_no_generation(node: Node) -> None:
    assert node.current() is None
    assert node.known("") == node.known("photos") == []
    assert node.store.catalogs("photos", "v1") == []


def test_generation_lies_on_both_sides_and_the_newest_is_current(node: Node) -> None:
    for generation in (A, B):
        placed = node.add(generation)
        assert placed.path == node.folder("local") / generation
        assert node.current() == generation
    assert sorted(os.listdir(node.folder("local"))) == sorted(os.listdir(node.folder("shared"))) == [A, B]
    assert node.known("") == ["photos"]
    assert node.known("photos") == ["v1"]
    assert sorted(node.store.catalogs("photos", "v1")) == [node.folder("local") / name / CATALOG for name in (A, B)]


def test_old_generation_that_comes_back_is_current_also_after_a_restart(tmp_path: Path, node: Node) -> None:
    for generation in (A, B, A):
        node.add(generation)
        assert node.current() == generation
    assert Node(tmp_path).current() == A
    assert Node(tmp_path, "two").current() == A
    node.add(B)
    assert Node(tmp_path, "two").current() == B


def test_old_generation_that_comes_back_keeps_its_catalog_file(node: Node) -> None:
    """It may be open."""
    path = node.add(A).path / CATALOG
    before = path.stat().st_ino
    node.add(B)
    node.add(A, b"the same files in a catalog of other bytes")
    assert path.stat().st_ino == before
    assert node.current() == A


def test_other_node_takes_the_catalog_from_the_backing_directory(tmp_path: Path, node: Node) -> None:
    node.add(A)
    two = Node(tmp_path, "two")
    assert two.current() == A
    assert (two.folder("local") / A / CATALOG).read_bytes() == (node.folder("local") / A / CATALOG).read_bytes()
    two.add(B)
    assert node.current() == B


def test_lost_local_disk_costs_a_copy(node: Node) -> None:
    node.add(A)
    shutil.rmtree(node.local)
    assert node.current() == A


def test_lost_backing_directory_costs_nothing_and_gets_the_catalog_again(node: Node) -> None:
    node.add(A)
    shutil.rmtree(node.folder("shared"))
    assert node.current() == A
    assert os.listdir(node.folder("shared")) == [A]


@pytest.mark.expects_log("cannot be put into the backing directory yet: .*No such file")
def test_backing_directory_that_is_not_mounted_any_more_is_not_written_to(node: Node) -> None:
    shutil.rmtree(node.shared)
    node.add(A)
    assert node.current() == A
    assert not node.shared.exists()


@damaged
@pytest.mark.parametrize("side", ["local", "shared"])
@pytest.mark.parametrize("how", ["flipped", "cut", "removed", "no summary", "summary cut", "summary of another kind"])
def test_damaged_generation_is_replaced_by_the_other_side(tmp_path: Path, node: Node, side: str, how: str) -> None:
    node.add(A)
    node.add(B)
    spoil(node.folder(side) / B, how)
    assert node.current() == B
    node.add(B)
    for name in ("one", "two"):
        assert Node(tmp_path, name).current() == B


@damaged
@pytest.mark.parametrize("how", ["flipped", "cut", "removed", "summary cut"])
def test_generation_damaged_on_both_sides_gives_way_to_the_one_before(node: Node, how: str) -> None:
    node.add(A)
    node.add(B)
    for side in ("local", "shared"):
        spoil(node.folder(side) / B, how)
    assert node.current() == A
    if "summary" not in how:  # a cut catalog ends the process that opens it
        assert node.store.catalogs("photos", "v1") == [node.folder("local") / A / CATALOG]
    node.add(B)
    assert node.current() == B


def spoil(folder: Path, how: str) -> None:
    if how == "flipped":
        flip(folder / CATALOG, 77)
    elif how == "cut":
        os.truncate(folder / CATALOG, 4096)
    elif how == "removed":
        (folder / CATALOG).unlink()
    elif how == "no summary":
        (folder / SUMMARY).unlink()
    elif how == "summary cut":
        os.truncate(folder / SUMMARY, 10)
    else:
        (folder / SUMMARY).write_text("[]")


@damaged
def test_foreign_files_are_passed_over(node: Node) -> None:
    node.add(A)
    (node.folder("shared") / "note.txt").write_text("")
    (node.folder("shared") / ".snapshot").mkdir()
    (node.shared / ".snapshot").mkdir()
    assert node.current() == A
    assert node.known("") == ["photos"]


@pytest.mark.expects_log("cannot be put into the backing directory")
def test_backing_directory_that_takes_no_catalog_costs_the_other_nodes_theirs(tmp_path: Path, node: Node) -> None:
    shutil.rmtree(node.shared)
    node.shared.write_text("not a directory")
    node.add(A)
    assert node.current() == A
    node.shared.unlink()
    node.shared.mkdir()
    assert node.current() == A
    assert Node(tmp_path, "two").current() == A


def test_generation_that_another_node_places_at_the_same_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = Node(tmp_path), Node(tmp_path, "two")
    passed: list[str] = []

    def overtake(point: str) -> None:
        passed.append(point)
        if point == "generation.place" and passed.count(point) == 2:  # the first was on the local disk
            monkeypatch.setattr(faultpoint, "hook", None)
            two.add(A)

    monkeypatch.setattr(faultpoint, "hook", overtake)
    one.add(A)
    assert os.listdir(one.folder("shared")) == [A]
    assert one.current() == two.current() == A


@pytest.mark.expects_log("is damaged|describes no generation|cannot be (copied|put)")
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "sick"), DiedError()], ids=repr)
@pytest.mark.parametrize("before", ["nothing", "the one before", "the same, older"])
def test_add_that_stops_at_any_step_leaves_a_whole_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, before: str
) -> None:
    old = {"nothing": [], "the one before": [A], "the same, older": [B, A]}[before]
    for step in count(1):
        folder = tmp_path / str(step)
        node = Node(folder)
        for generation in old:
            node.add(generation)
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(OSError):
            node.add(B)
        restart(monkeypatch, f"{step:012}", folder)
        for name in ("one", "two"):
            current = Node(folder, name).current()
            assert current == B or (stop.was_reached and current == (old[-1] if old else None))
        node.add(B)
        for name in ("one", "two"):
            assert Node(folder, name).current() == B
        for side in ("local", "shared"):
            assert set(os.listdir(node.folder(side))) == {B, *old}
        if not stop.was_reached:
            assert step > 15
            break


@pytest.mark.expects_log("is damaged|describes no generation|cannot be (copied|put)")
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "sick"), DiedError()], ids=repr)
def test_copy_that_stops_at_any_step_is_made_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    for step in count(1):
        folder = tmp_path / str(step)
        Node(folder).add(A)
        two = Node(folder, "two")
        with stopping_at(step, type(error)(*error.args)) as stop:
            two.store.current("photos", "v1")
        restart(monkeypatch, f"{step:012}", folder)
        assert Node(folder, "two").current() == A
        assert os.listdir(Node(folder, "two").folder("local")) == [A]
        if not stop.was_reached:
            assert step > 10
            break
