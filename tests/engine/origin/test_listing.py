"""What is listed, and that a listing which fails is never taken for an empty one."""

import os

import pytest

from dsfs.model.errors import AccessDeniedError, OriginTemporaryError
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin
from tests.engine.origin.sample import BUCKET, KEY, listed, read
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.s3server import S3Server

LISTING = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{}</ListBucketResult>'
OBJECT = "<Contents><Key>{}</Key><Size>3</Size><LastModified>2026-01-02T03:04:05.678Z</LastModified>{}</Contents>"


def lists(text: str) -> Fault:
    """Answers every LIST with `text`."""
    return Fault("status", method="LIST", status=200, body=text)


def test_pages_of_a_listing_cover_every_object_once_in_key_order(
    server: S3Server, origin: Origin, proxy: FaultProxy
) -> None:
    keys = sorted(f"paged/{name}" for name in ["a", "a b", "a+b", "a%41", "b/c", "b0", "ü", "z&<>"])
    for key in keys:
        server.put(BUCKET, key, b"x")
    found: list[str] = []
    more = True
    while more:
        page, more = origin.list_page("paged/", found[-1] if found else "", max_keys=3)
        assert len(page) <= 3
        found += (obj.key for obj in page)
    assert found == keys
    assert proxy.count("LIST") == 3


def test_listing_gives_size_time_and_the_etag_that_a_fetch_sees(server: S3Server, origin: Origin) -> None:
    path = server.put(BUCKET, "dated", b"12345")
    os.utime(path, (1_700_000_000.9, 1_700_000_000.9))
    obj = listed(origin, "dated")
    assert (obj.size, obj.modified_s) == (5, 1_700_000_000)
    assert read(origin, obj, 0, 5) == b"12345"
    assert obj.etag is not None
    assert '"' not in obj.etag


def test_names_below_are_the_directories_of_all_pages(server: S3Server, origin: Origin, proxy: FaultProxy) -> None:
    names = [f"v{number:04d}" for number in range(1_005)]
    for name in names:
        server.put(BUCKET, f"many/{name}/x", b"")
    server.put(BUCKET, "many/file", b"x")
    assert sorted(origin.names_below("many/")) == names
    assert proxy.count("LIST") == 2


def test_names_at_the_root_of_the_bucket_are_found(origin: Origin) -> None:
    assert "photos" in origin.names_below("")


def test_prefix_that_nothing_has_lists_empty(origin: Origin) -> None:
    assert origin.list_page("nothing/", "") == ([], False)
    assert origin.names_below("nothing/") == []


def test_listing_is_tried_again(origin: Origin, proxy: FaultProxy) -> None:
    proxy.add(Fault("status", method="LIST", status=503, code="SlowDown", times=1))
    assert [obj.key for obj in origin.list_page("photos/", "")[0]] == [KEY]
    assert proxy.count("LIST") == 2


FAULTS = {
    "server error": (Fault("status", method="LIST", status=500), OriginTemporaryError, "answered 500"),
    "denied": (Fault("status", method="LIST", status=403), AccessDeniedError, "answered 403"),
    "silence": (Fault("stall", method="LIST"), OriginTemporaryError, "no answer in time"),
    "reset": (Fault("reset", method="LIST"), OriginTemporaryError, "the connection broke"),
    "page": (lists("<html><body>welcome</body></html>"), OriginTemporaryError, "none that S3 would give"),
    "no XML": (lists("<p>welcome<p>"), OriginTemporaryError, "answered 500"),  # so botocore puts it
    "page that is not there": (
        Fault("status", method="LIST", status=404, body="<p/>"),
        OriginTemporaryError,
        "answered 404",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_listing_that_fails_is_never_an_empty_one(impatient_origin: Origin, proxy: FaultProxy, name: str) -> None:
    fault, error, message = FAULTS[name]
    before = sum(impatient_origin.failures().values())
    proxy.add(fault)
    with pytest.raises(error, match=message):
        impatient_origin.list_page("photos/", "")
    assert sum(impatient_origin.failures().values()) == before + 1


def test_listing_that_ignores_start_after_is_refused(origin: Origin, proxy: FaultProxy) -> None:
    proxy.add(lists(LISTING.format("<IsTruncated>true</IsTruncated>" + OBJECT.format("a", ""))))
    with pytest.raises(OriginTemporaryError, match="ignores start-after"):
        origin.list_page("", "a")


def test_listing_that_does_not_go_on_is_refused(origin: Origin, proxy: FaultProxy) -> None:
    proxy.add(lists(LISTING.format("<IsTruncated>true</IsTruncated>")))
    with pytest.raises(OriginTemporaryError, match="does not go on"):
        origin.list_page("", "a")
    with pytest.raises(OriginTemporaryError, match="does not go on"):
        origin.names_below("")


@pytest.mark.parametrize("etag", ["", "<ETag></ETag>", '<ETag>""</ETag>'])
def test_listing_without_etags_gives_none(origin: Origin, proxy: FaultProxy, etag: str) -> None:
    proxy.add(lists(LISTING.format("<IsTruncated>false</IsTruncated>" + OBJECT.format("a", etag))))
    assert origin.list_page("", "") == ([ObjectRef("a", 3, None, 1_767_323_045)], False)


def test_etag_of_any_shape_is_kept_as_it_is(origin: Origin, proxy: FaultProxy) -> None:
    etag = "<ETag>&quot;65a1-beef:7&quot;</ETag>"
    proxy.add(lists(LISTING.format("<IsTruncated>false</IsTruncated>" + OBJECT.format("a", etag))))
    assert origin.list_page("", "")[0][0].etag == "65a1-beef:7"
