"""What a fetch brings: exactly the wanted bytes, of exactly the wanted key."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin
from tests.engine.origin.sample import BUCKET, CONTENT, listed, read, settings
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

PIECE_MIN_BYTES = 256 * 1024


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, len(CONTENT)), (0, 1), (0, 131_072), (131_072, 1_048_576), (1_000_001, 777), (len(CONTENT) - 1, 1)],
)
def test_fetch_yields_exactly_the_wanted_bytes(origin: Origin, offset: int, length: int) -> None:
    pieces = list(origin.fetch(listed(origin), offset, length))
    assert b"".join(pieces) == CONTENT[offset : offset + length]
    assert all(len(piece) >= PIECE_MIN_BYTES for piece in pieces[:-1])


@pytest.mark.usefixtures("way")
def test_whole_object_is_asked_for_without_a_range(origin: Origin, proxy: FaultProxy) -> None:
    obj = listed(origin)
    read(origin, obj, 0, obj.size)
    read(origin, obj, 0, obj.size - 1)
    assert [r.range for r in proxy.requests if r.method == "GET"] == [None, f"bytes=0-{obj.size - 2}"]


@pytest.mark.parametrize(
    "key",
    [
        "plus+and space", "percent%20%41", "hash#question?amp&eq=", "quotes'\"", "brackets[]{}()*",
        "pipe|\\^`~", "ünïcödé/☃/😀", "e\u0301 decomposed", "trailing...", ".hidden/..x", " space ",
        "comma,;:@$!<>", "\x80", "n" * 255 + "/" + "m" * 255,
    ],
)  # fmt: skip
def test_odd_key_is_listed_and_fetched_under_exactly_its_name(
    server: S3Server, origin: Origin, proxy: FaultProxy, key: str
) -> None:
    content = key.encode() * 2
    server.put(BUCKET, key, content)
    obj = listed(origin, key)
    assert read(origin, obj, 0, obj.size) == content
    assert read(origin, obj, 1, 3) == content[1:4]
    assert [r.key for r in proxy.requests if r.method == "GET"] == [key, key]


@pytest.mark.parametrize(
    "key", ["a\nb", "a\tb", "\x01", "a\x7fb", "a//b", "/a", "a/", "a/./b", "../a", "k" * 1024, "☃" * 341]
)
def test_key_that_few_servers_hold_is_fetched_under_exactly_its_name(
    origin: Origin, proxy: FaultProxy, key: str
) -> None:
    proxy.add(Fault("status", status=200, body="12345", headers={"ETag": '"e"'}))
    assert read(origin, ObjectRef(key, 5, "e", 0), 0, 5) == b"12345"
    assert [r.key for r in proxy.requests] == [key]


def test_many_threads_fetch_at_once(fresh_origin: Origin) -> None:
    obj = listed(fresh_origin)
    step = 100_003
    starts = range(0, obj.size, step)
    with ThreadPoolExecutor(16) as threads:
        parts = threads.map(lambda at: read(fresh_origin, obj, at, min(step, obj.size - at)), starts)
    assert b"".join(parts) == CONTENT
    statistics = fresh_origin.statistics()
    assert (statistics["get_requests"], statistics["get_bytes"]) == (len(starts), obj.size)
    assert fresh_origin.failures() == {}


def test_first_fetches_of_many_threads_may_come_together(fresh_origin: Origin) -> None:
    obj = listed(fresh_origin)
    together = threading.Barrier(8)

    def first(_: int) -> bytes:
        together.wait()
        return read(fresh_origin, obj, 0, 5)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(first, range(8))) == {CONTENT[:5]}


@pytest.mark.usefixtures("way")
def test_closing_a_fetch_early_closes_its_connection(server: S3Server, fresh_origin: Origin, proxy: FaultProxy) -> None:
    size = 64 * 1024 * 1024
    with server.put(BUCKET, "long", b"").open("r+b") as file:
        file.truncate(size)
    obj = listed(fresh_origin, "long")
    fetch = fresh_origin.fetch(obj, 0, size)
    assert len(next(fetch)) > 0
    before = proxy.connections
    fetch.close()
    wait_until(lambda: proxy.connections < before, what="the end of the connection")
    assert proxy.data_bytes < size
    assert fresh_origin.statistics()["get_bytes"] < size


def test_fetch_that_is_never_begun_asks_for_nothing(origin: Origin, proxy: FaultProxy) -> None:
    origin.fetch(listed(origin), 0, 10).close()
    assert proxy.count("GET") == 0


def test_many_threads_that_learn_at_once_how_a_server_answers_say_it_once(
    server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultProxy(server.endpoint_url, mends_status=False) as proxy:
        origin = Origin(settings(proxy.endpoint_url))
        obj = listed(origin)
        together = threading.Barrier(8)

        def first(number: int) -> bytes:
            together.wait()
            return read(origin, obj, number, 5)

        with caplog.at_level(logging.INFO, "dsfs"), ThreadPoolExecutor(8) as threads:
            assert list(threads.map(first, range(8))) == [CONTENT[start : start + 5] for start in range(8)]
        origin.close()
    assert len([line for line in caplog.messages if "answers ranges with status 200" in line]) == 1


def test_server_that_answers_ranges_with_status_200_is_read_by_boto3(server: S3Server) -> None:
    with FaultProxy(server.endpoint_url, mends_status=False) as proxy:
        origin = Origin(settings(proxy.endpoint_url))
        obj = listed(origin)
        for start in (1, 2, 3):
            assert read(origin, obj, start, 9) == CONTENT[start : start + 9]
        assert read(origin, obj, 0, obj.size) == CONTENT
        origin.close()
        assert proxy.count("GET") == 1 + 3 + 1  # obstore's only attempt, boto3's three, the whole object


def test_variables_that_mean_something_to_obstore_alone_change_nothing(
    fresh_origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("S3_EXPRESS", "SKIP_SIGNATURE", "REQUEST_PAYER", "VIRTUAL_HOSTED_STYLE_REQUEST"):
        monkeypatch.setenv(f"AWS_{name}", "true")
    monkeypatch.setenv("AWS_BUCKET", "other")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    assert read(fresh_origin, listed(fresh_origin), 5, 10) == CONTENT[5:15]
