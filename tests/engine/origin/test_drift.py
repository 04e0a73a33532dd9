"""Objects that are no longer the catalog's: not a byte of them is given out."""

import pytest

from dsfs.model.errors import DriftedError, OriginTemporaryError
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin
from tests.engine.origin.sample import BUCKET, CONTENT, KEY, listed, read
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.s3server import S3Server

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("length", [4, 9])
def test_replaced_object_of_the_same_size_is_drifted_though_the_server_ignores_if_match(
    server: S3Server, origin: Origin, length: int
) -> None:
    server.put(BUCKET, "replaced", b"version 1")
    obj = listed(origin, "replaced")
    server.put(BUCKET, "replaced", b"version 2")
    with pytest.raises(DriftedError, match="has ETag"):
        next(origin.fetch(obj, 0, length))


@pytest.mark.parametrize("length", [3, 5])
def test_object_that_grew_is_drifted(server: S3Server, origin: Origin, length: int) -> None:
    server.put(BUCKET, "grown", b"12345")
    obj = listed(origin, "grown")
    server.put(BUCKET, "grown", b"123456")
    with pytest.raises(DriftedError, match="has 6 bytes, the catalog says 5"):
        next(origin.fetch(obj, 0, length))


def test_object_that_shrank_is_drifted(server: S3Server, origin: Origin) -> None:
    server.put(BUCKET, "shrunk", b"12345")
    obj = listed(origin, "shrunk")
    server.put(BUCKET, "shrunk", b"1")
    with pytest.raises(DriftedError, match=r"416|has 1 bytes"):
        next(origin.fetch(obj, 3, 2))


def test_deleted_object_is_drifted_and_no_failure_of_the_origin(server: S3Server, fresh_origin: Origin) -> None:
    server.put(BUCKET, "deleted", b"12345")
    obj = listed(fresh_origin, "deleted")
    server.delete(BUCKET, "deleted")
    with pytest.raises(DriftedError, match="answered 404 NoSuchKey"):
        next(fresh_origin.fetch(obj, 0, 5))
    assert fresh_origin.last_error is None
    assert fresh_origin.failures() == {}


def test_object_without_an_etag_is_known_by_its_last_modified(origin: Origin, proxy: FaultProxy) -> None:
    found = listed(origin)
    obj = ObjectRef(KEY, found.size, None, found.modified_s)
    assert read(origin, obj, 5, 10) == CONTENT[5:15]
    with pytest.raises(DriftedError, match="was modified at"):
        next(origin.fetch(ObjectRef(KEY, found.size, None, found.modified_s - 1), 5, 10))
    proxy.add(Fault("headers", drop=("Last-Modified",)))
    with pytest.raises(OriginTemporaryError, match="neither ETag nor Last-Modified"):
        next(origin.fetch(obj, 5, 10))
