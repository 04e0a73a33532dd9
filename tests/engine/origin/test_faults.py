"""Every fault of the wire: one attempt, the right error, never a byte that was not asked for."""

import pytest

from dsfs.model.errors import (
    AccessDeniedError,
    BucketMissingError,
    DriftedError,
    DsfsError,
    OriginTemporaryError,
)
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin
from tests.engine.origin.sample import CONTENT, KEY, listed, read, settings
from tests.rig.fault import Fault, load_faults, script_names
from tests.rig.faultproxy import FaultProxy

OFFSET, LENGTH = 4096, 700_000
WANTED = CONTENT[OFFSET : OFFSET + LENGTH]
BROKEN = "the connection (broke|was closed)"


def collect(origin: Origin, obj: ObjectRef, received: list[bytes], offset: int = OFFSET, length: int = LENGTH) -> None:
    """Fetch; what came before an error is in `received` too."""
    received.extend(bytes(piece) for piece in origin.fetch(obj, offset, length))


def answers(status: int, code: str = "SomeCode") -> Fault:
    return Fault("status", status=status, code=code)


BEFORE_THE_BODY = {
    "server error": (answers(500, "InternalError"), OriginTemporaryError, "answered 500 InternalError"),
    "slow down": (answers(503, "SlowDown"), OriginTemporaryError, "answered 503 SlowDown"),
    "too many requests": (answers(429), OriginTemporaryError, "answered 429"),
    "gateway with a page": (Fault("status", status=502, body="<p>"), OriginTemporaryError, "answered 502"),
    "denied": (answers(403, "AccessDenied"), AccessDeniedError, "answered 403 AccessDenied"),
    "unauthorized": (answers(401), AccessDeniedError, "answered 401"),
    "expired token": (answers(400, "ExpiredToken"), AccessDeniedError, "answered 400 ExpiredToken"),
    "no such key": (answers(404, "NoSuchKey"), DriftedError, "answered 404 NoSuchKey"),
    "no such bucket": (answers(404, "NoSuchBucket"), BucketMissingError, "answered 404 NoSuchBucket"),
    "no such page": (Fault("status", status=404, body="<p/>"), OriginTemporaryError, "answered 404"),
    "precondition": (answers(412, "PreconditionFailed"), DriftedError, "answered 412"),
    "no such range": (answers(416, "InvalidRange"), DriftedError, "answered 416"),
    "redirect": (answers(301, "PermanentRedirect"), OriginTemporaryError, "redirect"),
    "reset": (Fault("reset"), OriginTemporaryError, BROKEN),
    "silence": (Fault("stall"), OriginTemporaryError, "no answer in time"),
    "moved range": (Fault("content_range", shift=1), OriginTemporaryError, "4097"),
    "range without sense": (
        Fault("headers", headers={"Content-Range": "rubbish"}),
        OriginTemporaryError,
        "rubbish",
    ),
    "other total size": (
        Fault("content_range", grow=1),
        DriftedError,
        f"has {len(CONTENT) + 1} bytes, the catalog says {len(CONTENT)}",
    ),
    "no ETag": (Fault("headers", drop=("ETag",)), OriginTemporaryError, "names no ETag"),
    "empty ETag": (Fault("headers", headers={"ETag": '""'}), OriginTemporaryError, "names no ETag"),
    "other ETag": (Fault("headers", headers={"ETag": '"other"'}), DriftedError, "has ETag other"),
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", BEFORE_THE_BODY)
def test_fault_before_the_body_is_one_attempt_and_yields_nothing(
    impatient_origin: Origin, proxy: FaultProxy, name: str
) -> None:
    fault, error, message = BEFORE_THE_BODY[name]
    obj = listed(impatient_origin)
    proxy.add(fault)
    received: list[bytes] = []
    with pytest.raises(error, match=message) as caught:
        collect(impatient_origin, obj, received)
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{impatient_origin.origin_id}/{KEY}: ")
    assert received == []
    assert proxy.count("GET") == 1


WITHIN_THE_BODY = {
    "reset": (Fault("reset", after_bytes=400_000), BROKEN),
    "silence": (Fault("stall", after_bytes=400_000), "no answer in time"),
    "short body": (Fault("cut", after_bytes=400_000), BROKEN),
    "short by one byte": (Fault("cut", after_bytes=LENGTH - 1), BROKEN),
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", WITHIN_THE_BODY)
def test_fault_within_the_body_is_one_attempt_and_yields_right_bytes_only(
    impatient_origin: Origin, proxy: FaultProxy, name: str
) -> None:
    fault, message = WITHIN_THE_BODY[name]
    obj = listed(impatient_origin)
    proxy.add(fault)
    received: list[bytes] = []
    with pytest.raises(OriginTemporaryError, match=message):
        collect(impatient_origin, obj, received)
    got = b"".join(received)
    assert len(got) < LENGTH
    assert WANTED.startswith(got)
    assert proxy.count("GET") == 1


@pytest.mark.usefixtures("way")
def test_whole_object_instead_of_a_range_is_refused(origin: Origin, proxy: FaultProxy) -> None:
    obj = listed(origin)
    proxy.add(Fault("whole"))
    received: list[bytes] = []
    for _ in range(2):
        with pytest.raises(OriginTemporaryError, match=f"the answer holds {len(CONTENT)} at 0"):
            collect(origin, obj, received)
    assert received == []
    proxy.clear()
    proxy.reset()
    assert read(origin, obj, OFFSET, LENGTH) == WANTED
    assert proxy.count("GET") == 1  # nothing was learned from the fault


@pytest.mark.usefixtures("way")
def test_whole_object_of_another_size_is_drifted_before_its_bytes(origin: Origin) -> None:
    obj = listed(origin)
    shorter = ObjectRef(KEY, obj.size - 1, obj.etag, obj.modified_s)
    received: list[bytes] = []
    with pytest.raises(DriftedError, match=f"has {obj.size} bytes"):
        collect(origin, shorter, received, 0, shorter.size)
    assert received == []


@pytest.mark.usefixtures("way")
def test_slow_but_steady_answer_is_not_given_up(impatient_origin: Origin, proxy: FaultProxy) -> None:
    obj = listed(impatient_origin)
    proxy.add(Fault("stall", after_bytes=100_000, seconds=0.3))
    assert read(impatient_origin, obj, OFFSET, LENGTH) == WANTED


@pytest.mark.usefixtures("way")
def test_answer_has_a_time_limit_as_a_whole(proxy: FaultProxy) -> None:
    origin = Origin(settings(proxy.endpoint_url, stall_timeout_s=5, request_timeout_s=0.3))
    obj = listed(origin)
    proxy.add(Fault("stall", after_bytes=400_000, seconds=0.6))
    with pytest.raises(OriginTemporaryError, match=r"no (complete )?answer (in time|within)"):
        collect(origin, obj, [])
    origin.close()


@pytest.mark.usefixtures("way")
def test_checksum_of_the_whole_object_on_a_range_is_not_held_against_it(origin: Origin, proxy: FaultProxy) -> None:
    obj = listed(origin)
    checksum = {"x-amz-checksum-crc32": "AAAAAA==", "x-amz-checksum-type": "FULL_OBJECT"}
    proxy.add(Fault("headers", headers=checksum))
    assert read(origin, obj, OFFSET, LENGTH) == WANTED


def test_failure_is_counted_and_remembered(fresh_origin: Origin, proxy: FaultProxy) -> None:
    obj = listed(fresh_origin)
    proxy.load("slow_down_first_get")
    with pytest.raises(OriginTemporaryError) as caught:
        read(fresh_origin, obj, OFFSET, LENGTH)
    assert fresh_origin.last_error is not None
    assert fresh_origin.last_error[1] == str(caught.value)
    read(fresh_origin, obj, OFFSET, LENGTH)
    assert fresh_origin.last_success_at is not None
    assert fresh_origin.last_success_at >= fresh_origin.last_error[0]
    assert fresh_origin.statistics() == {
        "list_requests": 1,
        "get_requests": 2,
        "get_bytes": LENGTH,
    }
    assert fresh_origin.failures() == {"temporary": 1}


@pytest.mark.parametrize("name", script_names())
def test_every_fault_script_strikes(impatient_origin: Origin, proxy: FaultProxy, name: str) -> None:
    obj = listed(impatient_origin)
    assert load_faults(name)
    proxy.load(name)
    errors: list[DsfsError] = []
    for _ in range(2):
        try:
            read(impatient_origin, obj, OFFSET, LENGTH)
        except DsfsError as error:
            errors.append(error)
    assert errors
