"""Nodes on one directory see each other; what others leave there harms nobody."""

import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from dsfs.model.nodes import FORGOTTEN_AFTER_S, LEASE_S, SILENT_AFTER_S, Life, Look, Sighting
from dsfs.model.usage import Dependency, Usage
from dsfs.storage import nodes
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.nodes import HEARTBEAT, USAGE, NodesDirectory, nfs_unique_id, node_id
from tests.engine.backing_sample import Clock
from tests.engine.faults import Faults
from tests.rig.aged import set_back
from tests.rig.smallfs import BALLAST, SmallFilesystem
from tests.rig.usages import usage_of, used

HOUR_S = 3600
MIB = 1024 * 1024
WAIT_S = 20
NewNode = Callable[..., NodesDirectory]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "nodes"
    path.mkdir()
    return path


@pytest.fixture
def new_node(place: Path) -> Iterator[NewNode]:
    made = []

    def make(name: str, clock: Clock | None = None) -> NodesDirectory:
        made.append(NodesDirectory(place, name, file_system_of(place), clock or Clock()))
        return made[-1]

    yield make
    place.mkdir(exist_ok=True)  # for those whose test has taken it away
    for node in made:
        node.leave(usage_of())


def pass_time(place: Path, node: str, seconds: float) -> None:
    """As far as the server's clock goes, the node beat so much earlier."""
    set_back(place / node / HEARTBEAT, seconds)


def seen(look: Look, node: str) -> Sighting:
    return next(sighting for sighting in look.sightings if sighting.node == node)


def life_of(look: Look, node: str) -> Life:
    return look.life(seen(look, node))


def told(sighting: Sighting) -> Usage:
    """What it told, but for when."""
    assert sighting.usage is not None
    return replace(sighting.usage, beat_ns=0)


def test_nodes_see_what_the_others_tell(new_node: NewNode) -> None:
    a, b = new_node("a"), new_node("b")
    a.beat(usage_of("a", segments=("s1",)))
    b.beat(usage_of("b"))
    for look in (a.look(), b.look()):
        assert [sighting.node for sighting in look.sightings] == ["a", "b"]
        assert look.alive == 2
        assert told(seen(look, "a")) == usage_of("a", segments=("s1",))
        assert told(seen(look, "b")) == usage_of("b")
        assert all(sighting.is_current for sighting in look.sightings)
    a.beat(usage_of("a", files=5))
    assert told(seen(b.look(), "a")) == usage_of("a", files=5)


def test_node_that_does_not_beat_is_silent_and_comes_back(place: Path, new_node: NewNode) -> None:
    a, b = new_node("a"), new_node("b")
    a.beat(usage_of("a"))
    b.leave(usage_of("b"))  # without a word that it stops
    pass_time(place, "b", SILENT_AFTER_S + 1)
    assert life_of(a.look(), "b") is Life.SILENT
    b.beat(usage_of("b"))
    assert life_of(a.look(), "b") is Life.ALIVE


def test_node_that_leaves_is_stopped(new_node: NewNode) -> None:
    a, b = new_node("a"), new_node("b")
    b.beat(usage_of("b"))
    b.leave(usage_of("b", is_stopped=True))
    assert life_of(a.look(), "b") is Life.STOPPED


def test_looking_needs_no_beat_before(new_node: NewNode) -> None:
    look = new_node("a").look()
    assert life_of(look, "a") is Life.ALIVE
    assert seen(look, "a").trouble == "usage: No such file or directory"


def test_what_is_no_news_is_not_written(place: Path, new_node: NewNode) -> None:
    a = new_node("a")
    a.beat(usage_of("a"))
    before = (place / "a" / USAGE).stat()
    a.beat(usage_of("a"))
    after = (place / "a" / USAGE).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_usage_file_that_cannot_be_written_is_told_by_its_age(
    place: Path, new_node: NewNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = new_node("a")
    a.beat(usage_of("a"))
    usage = place / "a" / USAGE
    found = json.loads(usage.read_text())
    usage.write_text(json.dumps(found | {"beat_ns": found["beat_ns"] - round((LEASE_S + 1) * 1e9)}))
    Faults(monkeypatch).fail("direct.rename", errno.EACCES)
    with pytest.raises(OSError, match="Permission denied"):
        a.beat(usage_of("a", files=2))
    look = a.look()
    assert life_of(look, "a") is Life.ALIVE
    assert not seen(look, "a").is_current
    assert sorted(os.listdir(place / "a")) == [HEARTBEAT, USAGE]


@pytest.mark.needs("mkfs.ext4")
def test_full_medium_keeps_no_node_from_telling_what_it_has_in_use(tmp_path: Path) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", 8 * MIB) as small:
        a = NodesDirectory(small.path, "a", file_system_of(small.path))
        a.beat(usage_of("a", segments=tuple(f"{number:040x}" for number in range(200))))
        small.fill_to_the_last_block()
        for segments in ((f"{7:040x}",), (), tuple(f"{number:040x}" for number in range(150))):
            a.beat(usage_of("a", segments=segments))
            assert told(seen(a.look(), "a")) == usage_of("a", segments=segments)
        assert sorted(os.listdir(small.path / "a")) == [HEARTBEAT, USAGE]
        a.leave(usage_of("a"))


@pytest.mark.needs("mkfs.ext4")
def test_full_medium_holds_what_matters_most_of_a_usage_that_has_grown(tmp_path: Path) -> None:
    """First to go is what nobody holds, then which segments are open; what is held only where nothing else helps.

    All of it is told once there is room.
    """
    held, idle = usage_of("a"), replace(used(0), version="v" * 200)
    segments = tuple(f"{number:040x}" for number in range(1000))
    many = replace(held, versions=held.versions * 50, segments=segments)
    with SmallFilesystem(tmp_path / "small", "ext4", 8 * MIB) as small:
        a = NodesDirectory(small.path, "a", file_system_of(small.path))
        a.beat(held)
        small.fill_to_the_last_block()
        for usage, expected in (
            (replace(held, versions=held.versions + (idle,) * 50), held),
            (replace(held, segments=segments), replace(held, segments_left_out=1000)),
            (many, replace(held, versions=(), versions_left_out=50, segments_left_out=1000)),
        ):
            a.beat(usage)
            assert told(seen(a.look(), "a")) == expected
        assert a.look().uses().unknown == {"a"}
        (small.path / BALLAST).unlink()
        a.beat(many)
        assert told(seen(a.look(), "a")) == many
        a.leave(held)


@pytest.mark.needs("mkfs.ext4")
def test_usage_of_which_nothing_fits_leaves_what_was_told_before(tmp_path: Path) -> None:
    with SmallFilesystem(tmp_path / "small", "ext4", 8 * MIB) as small:
        a = NodesDirectory(small.path, "a", file_system_of(small.path))
        a.beat(usage_of("a"))
        small.fill_to_the_last_block()
        with pytest.raises(OSError, match="No space left"):
            a.beat(replace(usage_of("a"), origins=(Dependency("s3://lake", "ok", "x" * 5000),)))
        assert told(seen(a.look(), "a")) == usage_of("a")
        a.leave(usage_of("a"))


def test_server_whose_clock_is_set_declares_nobody_silent(place: Path, new_node: NewNode) -> None:
    """An hour ahead: that the seconds which this node counts go an hour back is the same."""
    clock = Clock()
    a = new_node("a", clock)
    a.beat(usage_of("a"))
    for name, ago_s in (("b", HOUR_S), ("dead", HOUR_S + SILENT_AFTER_S + 1)):
        new_node(name).leave(usage_of(name))
        pass_time(place, name, ago_s)
    assert [life_of(a.look(), name) for name in ("b", "dead")] == [Life.SILENT, Life.SILENT]
    clock.now_s -= HOUR_S
    assert [life_of(a.look(), name) for name in ("b", "dead")] == [Life.ALIVE, Life.SILENT]


def make_endless(usage: Path) -> None:
    usage.touch()
    os.truncate(usage, 1 << 40)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": lambda usage: None,
    "empty": Path.touch,
    "of zeros": lambda usage: usage.write_bytes(bytes(4096)),
    "endless": make_endless,
    "of another format": lambda usage: usage.write_text('{"format": 2}'),
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link": lambda usage: usage.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("place_instead", DAMAGE.values(), ids=DAMAGE)
def test_damaged_usage_of_another_node_is_its_own_trouble(
    place: Path, new_node: NewNode, place_instead: Callable[[Path], object]
) -> None:
    a = new_node("a")
    a.beat(usage_of("a"))
    new_node("b").leave(usage_of("b"))
    usage = place / "b" / USAGE
    usage.unlink()
    place_instead(usage)
    look = a.look()
    assert [life_of(look, node) for node in ("a", "b")] == [Life.ALIVE, Life.ALIVE]
    assert seen(look, "b").usage is None
    assert seen(look, "b").trouble.startswith("usage: ")
    assert look.uses().unknown == {"b"}
    if usage.is_dir():
        usage.rmdir()


def test_what_is_no_node_is_passed_over(place: Path, new_node: NewNode) -> None:
    a = new_node("a")
    (place / "note").write_text("hello")
    (place / ".snapshot").mkdir()
    (place / "empty").mkdir()
    (place / "linked").symlink_to("a/usage")
    look = a.look()
    assert [sighting.node for sighting in look.sightings] == ["a"]
    a.forget(look)
    assert sorted(os.listdir(place)) == [".snapshot", "a", "linked", "note"]


# -- one directory, two nodes --------------------------------------------------------------------------------


@pytest.mark.expects_log("another node calls itself a: ")
def test_two_nodes_of_one_name_notice_and_part(new_node: NewNode, caplog: pytest.LogCaptureFixture) -> None:
    first, second = new_node("a"), new_node("a")
    first.beat(usage_of("first"))
    second.beat(usage_of("second"))
    first.beat(usage_of("first"))
    second.beat(usage_of("second"))
    first.beat(usage_of("first"))
    assert (first.node == "a", second.node == "a") == (False, True)
    assert len([record for record in caplog.records if "calls itself" in record.message]) == 1
    look = first.look()
    assert {sighting.usage.host.name for sighting in look.sightings if sighting.usage} == {"first", "second"}


def test_beat_that_may_have_been_done_is_nobody_else(new_node: NewNode, monkeypatch: pytest.MonkeyPatch) -> None:
    a = new_node("a")
    a.beat(usage_of("a"))
    utime = os.utime

    def late(fd: int) -> None:
        utime(fd)
        raise TimeoutError(110, "Connection timed out")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", late)
        with pytest.raises(TimeoutError):
            a.beat(usage_of("a"))
    a.beat(usage_of("a"))
    assert a.node == "a"


def test_node_is_the_same_after_a_restart_and_another_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = node_id(tmp_path / "one")
    assert node_id(tmp_path / "one") == first
    names = {first, node_id(tmp_path / "two")}
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    names.add(node_id(tmp_path / "one"))
    monkeypatch.setattr(nodes, "_MACHINE_ID", tmp_path / "machine-id")
    names.add(node_id(tmp_path / "one"))
    (tmp_path / "machine-id").write_text("0123\n")
    names.add(node_id(tmp_path / "one"))
    assert len(names) == 5
    assert all(len(name) == 16 for name in names)


def test_nfs_client_is_told_apart_by_what_its_administrator_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_network, of_module = tmp_path / "identifier", tmp_path / "nfs4_unique_id"
    monkeypatch.setattr(nodes, "_NFS_UNIQUE_IDS", (of_network, of_module))
    assert nfs_unique_id() == ""
    of_module.write_text("7\n")
    of_network.write_text("(null)\n")
    assert nfs_unique_id() == "7"
    of_network.write_text("8\n")
    assert nfs_unique_id() == "8"


# -- the dead ------------------------------------------------------------------------------------------------


def test_node_that_is_dead_for_days_is_forgotten_by_several_at_once(place: Path, new_node: NewNode) -> None:
    living = [new_node(name) for name in ("a", "b", "c")]
    for node in living:
        node.beat(usage_of(node.node))
    for number in range(20):
        new_node(f"dead-{number}").leave(usage_of())
        pass_time(place, f"dead-{number}", FORGOTTEN_AFTER_S + 1)
    looks = [node.look() for node in living]
    together = threading.Barrier(len(living))

    def forget(node: NodesDirectory, look: Look) -> None:
        together.wait(WAIT_S)
        node.forget(look)

    with ThreadPoolExecutor(len(living)) as pool:
        for forgetting in [pool.submit(forget, *pair) for pair in zip(living, looks, strict=True)]:
            forgetting.result(WAIT_S)
    assert sorted(os.listdir(place)) == ["a", "b", "c"]


def test_node_that_was_forgotten_joins_anew(place: Path, new_node: NewNode) -> None:
    a, b = new_node("a"), new_node("b")
    a.beat(usage_of("a"))
    b.beat(usage_of("b"))
    pass_time(place, "b", FORGOTTEN_AFTER_S + 1)
    a.forget(a.look())
    assert os.listdir(place) == ["a"]
    b.beat(usage_of("b"))
    assert life_of(a.look(), "b") is Life.ALIVE
    assert told(seen(a.look(), "b")) == usage_of("b")


def test_what_a_crash_left_of_a_usage_file_goes(place: Path, new_node: NewNode) -> None:
    (place / "a").mkdir()
    (place / "a" / f"{USAGE}.new-0123456789ab").write_text("half")
    new_node("a").beat(usage_of("a"))
    assert sorted(os.listdir(place / "a")) == [HEARTBEAT, USAGE]


def test_nothing_is_begun_where_the_directory_is_gone(place: Path, new_node: NewNode) -> None:
    """It may be the disk below an NFS that is not mounted any more."""
    a = new_node("a")
    a.beat(usage_of("a"))
    away = place.rename(place.with_name("away"))
    place.parent.joinpath("elsewhere").mkdir()
    with pytest.raises(FileNotFoundError):
        a.beat(usage_of("a", files=3))
    for late in (a, new_node("late")):
        with pytest.raises(FileNotFoundError):
            late.look()
    assert not place.exists()
    away.rename(place)
    a.beat(usage_of("a"))
    assert life_of(a.look(), "a") is Life.ALIVE
