"""The fake origin answers as the real one does, for every outcome that the tests of the engine use."""

from collections.abc import Iterator
from random import Random
from typing import Protocol

import pytest

from dsfs.model.errors import AccessDeniedError, DriftedError, OriginError
from dsfs.model.objects import ObjectRef
from dsfs.storage.origin import Origin, OriginSettings
from tests.engine.fake_origin import FakeOrigin
from tests.rig.fault import Fault
from tests.rig.faultproxy import FaultProxy
from tests.rig.s3server import S3Server

CONTENT = Random(3).randbytes(1024 * 1024 + 17)
BUCKET = "lake"


class Side(Protocol):
    """The real origin or the fake one, with what is needed to provoke an outcome."""

    origin: Origin

    def put(self, key: str, content: bytes) -> None: ...

    def delete(self, key: str) -> None: ...

    def refuse(self) -> None: ...


class RealSide:
    def __init__(self, server: S3Server, proxy: FaultProxy) -> None:
        self._server, self._proxy = server, proxy
        self.origin = Origin(OriginSettings(BUCKET, proxy.endpoint_url, None, connections=2))

    def put(self, key: str, content: bytes) -> None:
        self._server.put(BUCKET, key, content)

    def delete(self, key: str) -> None:
        self._server.delete(BUCKET, key)

    def refuse(self) -> None:
        self._proxy.add(Fault("status", status=403))


class FakeSide:
    def __init__(self) -> None:
        self._fake = FakeOrigin()
        self.origin: Origin = self._fake

    def put(self, key: str, content: bytes) -> None:
        self._fake.put(key, content)

    def delete(self, key: str) -> None:
        self._fake.delete(key)

    def refuse(self) -> None:
        self._fake.fail_everything(AccessDeniedError("403"))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as running, running.environment():
        running.bucket(BUCKET)
        yield running


@pytest.fixture
def sides(server: S3Server) -> Iterator[list[Side]]:
    with FaultProxy(server.endpoint_url, root=server.root) as proxy:
        real = RealSide(server, proxy)
        yield [real, FakeSide()]
        real.origin.close()


def listed(origin: Origin, key: str) -> ObjectRef:
    objects, truncated = origin.list_page(key, "")
    assert not truncated
    return next(obj for obj in objects if obj.key == key)


def outcome(origin: Origin, obj: ObjectRef, offset: int, length: int) -> bytes | type[OriginError]:
    try:
        return b"".join(origin.fetch(obj, offset, length))
    except OriginError as exc:
        return type(exc)


def test_both_origins_come_to_the_same_outcome(sides: list[Side]) -> None:
    for side in sides:
        side.put("v1/a", CONTENT)
        side.put("v1/b/c", b"small")
        side.put("v1/gone", b"gone")
        side.put("v1/replaced", b"version 1")
        origin = side.origin
        obj, gone, replaced = (listed(origin, f"v1/{name}") for name in ("a", "gone", "replaced"))
        assert (obj.key, obj.size) == ("v1/a", len(CONTENT))
        assert origin.names_below("") == ["v1"]
        assert origin.names_below("v1/") == ["b"]
        assert [found.key for found in origin.list_page("v1/", "v1/b/")[0]] == ["v1/b/c", "v1/gone", "v1/replaced"]
        assert outcome(origin, obj, 0, len(CONTENT)) == CONTENT
        assert outcome(origin, obj, 300_000, 5) == CONTENT[300_000:300_005]
        assert all(len(chunk) for chunk in origin.fetch(obj, 1, len(CONTENT) - 1))
        side.delete("v1/gone")
        assert outcome(origin, gone, 0, 4) is DriftedError
        side.put("v1/replaced", b"version 2")
        assert outcome(origin, replaced, 0, 9) is DriftedError
        assert outcome(origin, replaced, 3, 2) is DriftedError
        side.refuse()
        assert outcome(origin, obj, 0, 5) is AccessDeniedError
