"""The folder of requests: what one node writes all nodes read, and nothing stays for ever."""

import errno
import os
from pathlib import Path

import pytest

from dsfs.model.errors import BackingError
from dsfs.model.request import WarmRequest
from dsfs.storage import requests
from dsfs.storage.filesystem import FileSystem
from dsfs.storage.requests import RequestFolder
from tests.engine.faults import Faults

LOCAL = FileSystem("ext4")
V1 = WarmRequest("photos", "v1")
V1_TRAIN = WarmRequest("photos", "v1", "train/**")
DAY_NS = 86_400 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> RequestFolder:
    return RequestFolder(tmp_path / "requests", LOCAL, lambda: None)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "requests").iterdir())


def test_request_is_read_by_whoever_looks_until_it_is_withdrawn(folder: RequestFolder, tmp_path: Path) -> None:
    assert folder.all() == {}
    folder.place(V1)
    folder.place(V1_TRAIN)
    other = RequestFolder(tmp_path / "requests", LOCAL, lambda: None)
    assert set(other.all()) == {V1, V1_TRAIN}
    other.withdraw(V1)
    other.withdraw(V1)  # another node was first
    assert set(folder.all()) == {V1_TRAIN}
    assert len(files(tmp_path)) == 1


def test_asking_again_renews_the_request(folder: RequestFolder, tmp_path: Path) -> None:
    folder.place(V1)
    (path,) = files(tmp_path)
    os.utime(path, ns=(0, 0))
    assert folder.all() == {V1: 0}
    folder.place(V1)
    assert folder.all()[V1] > 0


def test_old_requests_expire_by_the_clock_of_the_file_server(folder: RequestFolder, tmp_path: Path) -> None:
    folder.place(V1)
    folder.place(V1_TRAIN)
    asked_ns = folder.all()[V1]
    for path in files(tmp_path):
        if "train" in path.read_text():
            os.utime(path, ns=(0, asked_ns - 8 * DAY_NS))
    assert folder.expired(folder.all()) == [V1_TRAIN]
    assert len(files(tmp_path)) == 2  # nothing is left of the look at the clock


def test_what_a_crash_left_is_removed_when_it_is_old(folder: RequestFolder, tmp_path: Path) -> None:
    folder.place(V1)
    old, young = (tmp_path / "requests" / f"{name}.json.new-000000000000" for name in "ab")
    for path in (old, young):
        path.write_text("half")
    os.utime(old, ns=(0, 0))
    assert folder.expired(folder.all()) == []
    assert not old.exists()
    assert young.exists()  # of a node that lives, perhaps


@pytest.mark.expects_log("is left alone: it is a request of format 2 for 'warm'", "is left alone: Expecting value")
def test_request_of_an_unknown_format_is_left_to_those_who_know_it(folder: RequestFolder, tmp_path: Path) -> None:
    folder.place(V1)
    newer = tmp_path / "requests" / "newer.json"
    newer.write_bytes(V1.encode().replace(b'"format": 1', b'"format": 2'))
    (tmp_path / "requests" / "half.json").write_bytes(b"")
    (tmp_path / "requests" / ".nfs00012.json").write_bytes(b"")
    for _ in range(3):
        assert set(folder.all()) == {V1}
    assert newer.exists()


def test_number_of_requests_is_bounded(folder: RequestFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST", 2)
    folder.place(V1)
    folder.place(V1_TRAIN)
    with pytest.raises(BackingError, match="there are 2 requests already"):
        folder.place(WarmRequest("photos", "v2"))
    folder.place(V1)  # one that is there may be renewed
    assert set(folder.all()) == {V1, V1_TRAIN}


def test_nothing_is_written_below_a_mount_that_is_gone(tmp_path: Path) -> None:
    def is_away() -> None:
        raise OSError(errno.ESTALE, "dsfs.json is gone, is it still mounted?")

    folder = RequestFolder(tmp_path / "requests", LOCAL, is_away)
    with pytest.raises(BackingError, match="is it still mounted"):
        folder.place(V1)
    with pytest.raises(OSError, match="is it still mounted"):  # and not: there are none
        folder.all()
    assert not (tmp_path / "requests").exists()


@pytest.mark.parametrize("point", ["request.place", "file.create", "file.write", "file.rename"])
def test_request_that_cannot_be_written_is_said_so_and_leaves_nothing(
    folder: RequestFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    Faults(monkeypatch).fail(point, errno.EROFS)
    with pytest.raises(BackingError, match="Read-only file system"):
        folder.place(V1)
    assert files(tmp_path) == []


def test_file_that_is_gone_between_the_look_and_the_open_is_no_request(
    folder: RequestFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.place(V1)
    names = [*os.listdir(tmp_path / "requests"), "gone.json"]
    monkeypatch.setattr("dsfs.storage.requests.os.listdir", lambda path: names)
    assert set(folder.all()) == {V1}
