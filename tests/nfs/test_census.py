"""The census and the trash on real NFS: what other nodes do is counted, whatever is cached; readers lose no more than a
block; and what a round costs the server."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from crc32c import crc32c

from dsfs.model.blocks import BLOCK, UniformBlocks, pages
from dsfs.model.errors import BlockLostError
from dsfs.model.nodes import VersionKey
from dsfs.model.retention import Amount
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.segment import SegmentFile, State
from dsfs.storage.trash import Trash
from tests.nfs.conftest import oldest_and_newest
from tests.rig.background import in_background
from tests.rig.bell import Bell
from tests.rig.censused import A, B, Place, held_in, identity, recount
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.server import NfsServer, export_path

BACKING = export_path("large") / "counted"
HOUR_NS = 3600 * 10**9
TIMEOUT_S = 60


def act(state: Path, *steps: Callable[[Place], object]) -> None:
    """On one node."""
    place = Place(state, BACKING)
    for step in steps:
        step(place)
    place.census.close()


def count(state: Path, now_ns: int) -> tuple[Amount, dict[VersionKey, Amount], VersionKey | None]:
    """On one node: what everything takes, what each generation holds, and which one is current."""
    place = Place(state, BACKING)
    assert place.census.scan(now_ns).since_ns == now_ns
    generations = place.census.generations()
    current = next((generation.key for generation in generations if generation.is_current), None)
    held = {generation.key: generation.held for generation in generations}
    total = place.census.total()
    place.census.close()
    return total, held, current


def truth(state: Path) -> tuple[Amount, dict[VersionKey, Amount]]:
    """At the server."""
    return recount(BACKING), {key: sum(found.values(), Amount()) for key, found in held_in(BACKING).items()}


def fill_in(place: Place) -> None:
    for number in range(8):
        place.seal(number)
    place.fill(8)
    place.place(A, list(range(5)))


def grow(place: Place) -> None:
    place.fill(8, pages=20)


def finish(place: Place) -> None:
    place.seal(8, pages=20)


def replace(place: Place) -> None:
    place.drop(1)
    place.seal(1)


def hide(place: Place) -> None:
    assert Trash(place.backing).hide(identity(2), 1) is not None


def list_anew(place: Place) -> None:
    place.place(B, [3, 4, 5, 8])


def come_back(place: Place) -> None:
    place.place(A, list(range(5)))


def take_old(place: Place) -> None:
    assert Trash(place.backing).hide_generation(B, 2) != Amount()


def empty_trash(place: Place) -> None:
    for name in BACKING.rglob("*.trash-*"):
        assert Trash(place.backing).delete(str(name.relative_to(BACKING))) != Amount()


STEPS = (fill_in, grow, finish, replace, hide, list_anew, come_back, take_old, empty_trash)


@oldest_and_newest
def test_what_another_node_does_is_counted_by_the_next_round(
    a: NfsClient, b: NfsClient, server: NfsServer, tmp_path: Path, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    now_ns = time.time_ns() + HOUR_NS  # no mtime is of this moment, so a folder is not read twice to be sure
    current = None
    for step in STEPS:
        a.call(act, tmp_path / "a", step)
        now_ns += 10**9
        total, held, found = b.call(count, tmp_path / "b", now_ns)
        assert (total, held) == server.call(truth, tmp_path), step.__name__
        current = {fill_in: A, list_anew: B, come_back: A}.get(step, current)
        assert found == current


# ---------------------------------------------------------------- readers

SEGMENT = "ab" * 20
CONTENT = Random(3).randbytes(3 * BLOCK)
BLOCKS = UniformBlocks(len(CONTENT))


def segment() -> SegmentFile:
    file = SegmentFile(BACKING / "segments" / SEGMENT[:2] / SEGMENT, SEGMENT, BLOCKS, file_system_of(BACKING))
    file.open()
    return file


def make(state: Path, is_sealed: bool) -> None:
    """On one node."""
    act(state)
    file = segment()
    room = memoryview(bytearray(pages(len(CONTENT))))
    room[:] = CONTENT
    file.write(0, [crc32c(CONTENT[at : at + BLOCK]) for at in range(0, len(CONTENT), BLOCK)], room)
    assert file.seal() is True if is_sealed else True
    file.close()


def is_there(file: SegmentFile, block: int) -> bool:
    """Whether the block is read, and right; else it is a miss."""
    room = memoryview(bytearray(BLOCK))
    try:
        file.read_filling(block, block + 1, room)
    except BlockLostError:
        return False
    assert room == CONTENT[block * BLOCK : (block + 1) * BLOCK]
    return True


def read_on(bells: Path) -> tuple[list[bool], State, State]:
    """On another node: a block before each ring of the bell; then what the segment is, to it and to who opens it."""
    told, done = Bell(bells / "told"), Bell(bells / "done")
    file = segment()
    found = []
    for block in range(len(BLOCKS)):
        found.append(is_there(file, block))
        done.ring()
        told.wait(TIMEOUT_S)
    file.look_again(anew=True)
    other = segment()
    states = file.state, other.state
    for each in (file, other):
        each.close()
    return found, *states


def take_away(state: Path) -> None:
    place = Place(state, BACKING)
    hidden = Trash(place.backing).hide(SEGMENT, time.time_ns())
    assert hidden is not None
    assert hidden.taken.size_bytes >= len(CONTENT)
    place.census.close()


@oldest_and_newest
@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "filling"])
def test_reader_reads_on_what_another_node_hides_and_misses_at_most_what_it_deletes(
    a: NfsClient, b: NfsClient, tmp_path: Path, nfs_version: str, is_sealed: bool
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    a.call(make, tmp_path / "a", is_sealed)
    told, done = Bell(tmp_path / "told"), Bell(tmp_path / "done")
    reading = in_background(lambda: b.call(read_on, tmp_path))
    for step in (take_away, empty):
        done.wait(TIMEOUT_S)
        a.call(step, tmp_path / "a")
        b.check("sh", "-c", "echo 3 > /proc/sys/vm/drop_caches")  # nothing is read out of the page cache
        told.ring()
    done.wait(TIMEOUT_S)
    told.ring()
    (before, hidden, deleted), state, other = reading.result(TIMEOUT_S)
    assert before
    assert hidden
    assert not (deleted and nfs_version == "3")
    assert (state, other) == (State.ABSENT, State.ABSENT)


class Warnings(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def open_it() -> tuple[State, bool, list[str]]:
    """On another node: what the segment is, whether its first block is read, and what of that was worth a warning."""
    warnings = Warnings()
    logging.getLogger("dsfs").addHandler(warnings)
    file = segment()
    state = file.state
    is_read = state is not State.ABSENT and is_there(file, 0)
    file.close()
    return state, is_read, warnings.said


@oldest_and_newest
def test_segment_that_was_taken_away_and_sealed_anew_is_opened_by_who_knows_the_old_one(
    a: NfsClient, b: NfsClient, tmp_path: Path, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    for is_again in (False, True):
        a.call(make, tmp_path / "a", True)
        assert b.call(open_it) == (State.SEALED, True, [])
        a.call(take_away, tmp_path / "a")
        if is_again:
            a.call(empty, tmp_path / "a")
            assert b.call(open_it) == (State.ABSENT, False, [])


def empty(state: Path) -> None:
    act(state, empty_trash)
    assert not list(BACKING.glob("segments/*/*"))


# ---------------------------------------------------------------- what it costs

SEGMENTS = 600
VERSIONS = 5


def prepare(state: Path) -> None:
    place = Place(state, BACKING)
    for number in range(SEGMENTS):
        path = place.path(number)
        for each in (path, path.with_name(path.name + ".sum")):
            each.write_bytes(b"x")
    for version in range(VERSIONS):
        place.place(("photos", f"v{version}", "aa" * 20), list(range(version, SEGMENTS, VERSIONS)))
    place.census.close()


def drop_some(place: Place) -> None:
    for number in range(0, SEGMENTS, SEGMENTS // 10):
        place.drop(number)


@oldest_and_newest
def test_a_round_costs_a_request_for_each_folder_and_for_what_has_changed(
    a: NfsClient, b: NfsClient, server: NfsServer, tmp_path: Path, nfs_version: str
) -> None:
    for client in (a, b):
        client.mount("large", nfs_version, "actimeo=600")
    server.call(prepare, tmp_path / "server")
    now_ns = time.time_ns() + HOUR_NS
    costs = []
    for step in (None, None, drop_some, None):
        if step is not None:
            a.call(act, tmp_path / "a", step)
        before = b.mount_stats()
        now_ns += 10**9
        total, held, _ = b.call(count, tmp_path / "b", now_ns)
        costs.append(sum((b.mount_stats() - before).operations.values()))
        assert (total, held) == server.call(truth, tmp_path)
    first, quiet, changed, quiet_again = costs
    folders = 7 + 5 + 1 + VERSIONS + 1  # below the directory, of segments, the dataset, of versions; itself
    opening = 20  # of the directory and of the census
    assert first <= 2 * SEGMENTS + opening + 10 * (folders + VERSIONS)
    assert quiet <= folders + opening
    assert changed <= folders + opening + 5 * 10 + 10
    assert quiet_again <= folders + opening
