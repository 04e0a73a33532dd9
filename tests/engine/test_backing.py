"""The backing directory: whose it is, and how it begins."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.errors import BackingError
from dsfs.model.retention import Amount
from dsfs.storage.backing import BackingDirectory
from tests.engine.backing_sample import room_of
from tests.engine.stopping import fault_or_death, stopping_at
from tests.rig.segmentdir import age

WAIT_S = 30
MADE = ["dsfs.json", "events", "nodes", "pins", "segments", "turns", "uses", "versions"]


# ---------------------------------------------------------------- whose it is


def test_empty_or_missing_directory_becomes_ours(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "empty"):
        if path.name == "empty":
            path.mkdir()
        BackingDirectory(path)
        assert sorted(os.listdir(path)) == MADE
        described = json.loads((path / "dsfs.json").read_text())
        assert described["format"] == 1


def test_second_node_keeps_the_mark_of_the_first(tmp_path: Path) -> None:
    BackingDirectory(tmp_path)
    before = (tmp_path / "dsfs.json").read_text()
    BackingDirectory(tmp_path)
    assert (tmp_path / "dsfs.json").read_text() == before


def test_nodes_that_begin_at_once_agree_on_one_mark(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / str(number)
        path.mkdir()
        barrier = threading.Barrier(6)

        def begin(path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(WAIT_S)
            BackingDirectory(path)

        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(begin) for _ in range(6)]:
                future.result(WAIT_S)
        assert sorted(os.listdir(path)) == MADE


def test_foreign_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BackingError, match=r"not empty \('thesis\.tex'\), and there is no dsfs\.json"):
        BackingDirectory(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("name", [".snapshot", "lost+found", ".nfs0001", "dsfs.json.new-0123456789ab"])
def test_what_file_systems_and_crashes_leave_does_not_make_it_foreign(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    BackingDirectory(tmp_path)
    assert (tmp_path / "dsfs.json").exists()
    assert (tmp_path / name).exists(), "another node may be about to complete it"
    age(tmp_path)
    BackingDirectory(tmp_path)
    assert (tmp_path / name).exists() == (".new-" not in name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "format 2; this version of dsfs knows format 1 only"),
        ('{"format": "1"}', "format '1'"),
        ("{}", "format None"),
        ("[]", "format None"),
        ('{"format": 1}', "has no cluster id"),
        ('{"format": 1, "cluster": 7}', "has no cluster id"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
    ],
)
def test_unknown_format_is_refused_in_clear_words(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dsfs.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BackingError, match=message):
        BackingDirectory(tmp_path)
    assert os.listdir(tmp_path) == ["dsfs.json"]


def test_absent_parent_is_refused(tmp_path: Path) -> None:
    """Usually the NFS is not mounted: nothing is made on the disk below."""
    with pytest.raises(BackingError, match="No such file or directory"):
        BackingDirectory(tmp_path / "nfs" / "dsfs")
    assert os.listdir(tmp_path) == []


def test_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "backing").write_text("")
    with pytest.raises(BackingError):
        BackingDirectory(tmp_path / "backing")


@fault_or_death
def test_beginning_that_stops_at_any_step_can_be_begun_again(tmp_path: Path, error: BaseException) -> None:
    for step in count(1):
        path = tmp_path / str(step)
        with stopping_at(step, type(error)(*error.args)) as stop, suppress(BackingError):
            BackingDirectory(path)
        room_of(BackingDirectory(path)).reserve(Amount(1))
        assert sorted(name for name in os.listdir(path) if ".new-" not in name) == ["account", *MADE]
        if not stop.was_reached:
            assert step > 5
            break
