"""One real S3 server for this folder, a fault proxy before it, and daemons with real mounts that look through it.

A test has a lake of its own (a place in the bucket), so that it sees nothing of the others.  The log of each daemon
is read at the end of the test that used it: a line at WARNING or above, or one that is no log line at all, fails the
test unless it is declared by `expects_log(regex)`.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.daemonlog import judge
from tests.rig.faultproxy import FaultProxy
from tests.rig.node import Node, Settings
from tests.rig.reader import ReaderProcess
from tests.rig.s3server import S3Server

BUCKET = "lake"
TIME_LIMIT_S = 60
STRICT = {"PYTHONWARNINGS": "always::ResourceWarning,always::RuntimeWarning"}  # coroutines never awaited, too

_serial = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("time_limit"):
            item.add_marker(pytest.mark.time_limit(TIME_LIMIT_S))


@dataclass(frozen=True)
class Lake:
    """A place at the origin: `root` is its directory, `prefix` what the keys of its objects begin with."""

    server: S3Server
    prefix: str

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def root(self) -> Path:
        return self.server.root / BUCKET / self.prefix

    def put(self, name: str, content: bytes, mtime_s: int | None = None) -> None:
        """Place an object; its time is now unless it is told."""
        path = self.server.put(BUCKET, f"{self.prefix}/{name}", content)
        if mtime_s is not None:
            os.utime(path, (mtime_s, mtime_s))

    def delete(self, name: str) -> None:
        self.server.delete(BUCKET, f"{self.prefix}/{name}")


@pytest.fixture(scope="package")
def s3() -> Iterator[S3Server]:
    with S3Server() as running:
        running.bucket(BUCKET)
        yield running


@pytest.fixture(scope="package")
def shared_proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint_url, root=s3.root) as running:
        yield running


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    shared_proxy.reset()
    yield shared_proxy
    shared_proxy.clear()
    shared_proxy.release()


@pytest.fixture
def lake(s3: S3Server) -> Lake:
    return Lake(s3, f"place-{next(_serial)}")


NewNode = Callable[..., Node]


@pytest.fixture
def new_node(
    request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, proxy: FaultProxy, lake: Lake
) -> Iterator[NewNode]:
    """Makes nodes (not started) that look at the lake of the test; ends them and reads their logs afterwards."""
    nodes: list[Node] = []

    def make(
        settings: Settings | None = None,
        *,
        endpoint_url: str | None = None,
        env: Mapping[str, str] | None = None,
        **options: object,
    ) -> Node:
        node = Node(
            tmp_path / f"node-{len(nodes)}",
            endpoint_url or proxy.endpoint_url,
            {**STRICT, **(s3.env() if env is None else env)},
            settings=settings,
            **{"url": lake.url, **options},  # type: ignore[arg-type]
        )
        nodes.append(node)
        return node

    yield make
    proxy.clear()
    proxy.release()
    for node in nodes:
        if node.process is not None:
            assert node.stop() == 0, node.log_tail()
        node.kill()
        assert not node.is_mounted()
    judge(nodes, request)


@pytest.fixture
def node(new_node: NewNode) -> Node:
    """A running daemon over the lake of the test; its mount answers."""
    return new_node().start()


@pytest.fixture(scope="package")
def shared_reader() -> Iterator[ReaderProcess]:
    with ReaderProcess() as running:
        yield running


@pytest.fixture
def reader(shared_reader: ReaderProcess) -> ReaderProcess:
    """Reads, above all through mappings, from another process."""
    return shared_reader
