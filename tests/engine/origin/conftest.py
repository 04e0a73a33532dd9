"""One real S3 server for this folder, a proxy before it, and origins that look through the proxy."""

from collections.abc import Iterator

import pytest

from dsfs.storage.origin import Origin
from tests.engine.origin.sample import BUCKET, CONTENT, KEY, settings
from tests.rig.faultproxy import FaultProxy
from tests.rig.s3server import S3Server


@pytest.fixture(scope="package")
def server() -> Iterator[S3Server]:
    with S3Server() as running, running.environment():
        running.put(BUCKET, KEY, CONTENT)
        yield running


@pytest.fixture(scope="package")
def shared_proxy(server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(server.endpoint_url, root=server.root) as running:
        yield running


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    shared_proxy.reset()
    yield shared_proxy
    shared_proxy.clear()
    shared_proxy.release()


@pytest.fixture(scope="package")
def shared_origin(shared_proxy: FaultProxy) -> Iterator[Origin]:
    made = Origin(settings(shared_proxy.endpoint_url))
    yield made
    made.close()


@pytest.fixture
def origin(shared_origin: Origin, proxy: FaultProxy) -> Origin:
    """One for all tests that do not look at its state: making one takes boto3 a fifth of a second."""
    return shared_origin


@pytest.fixture(scope="package")
def shared_impatient_origin(shared_proxy: FaultProxy) -> Iterator[Origin]:
    made = Origin(settings(shared_proxy.endpoint_url, stall_timeout_s=1))
    yield made
    made.close()


@pytest.fixture
def impatient_origin(shared_impatient_origin: Origin, proxy: FaultProxy) -> Origin:
    """Gives up after a second of silence."""
    return shared_impatient_origin


@pytest.fixture
def fresh_origin(proxy: FaultProxy) -> Iterator[Origin]:
    made = Origin(settings(proxy.endpoint_url))
    yield made
    made.close()


@pytest.fixture(params=["obstore", "boto3"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets all data come by one of the two ways."""
    if request.param == "boto3":
        monkeypatch.setattr("dsfs.storage.origin.can_send", lambda key: False)
