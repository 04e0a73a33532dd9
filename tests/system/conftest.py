"""One real S3 server and one version for this folder, a fault proxy before it, and daemons that are treated badly.

The log of each daemon is read at the end of its test: what is at WARNING or above, and not declared by
`expects_log(regex)`, fails the test.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.rig.daemonlog import judge, unexpected_lines
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB
from tests.rig.node import PATIENT, Node
from tests.rig.prepared import Prepared
from tests.rig.reading import SourceVersion, make_version
from tests.rig.s3server import S3Server
from tests.rig.wait import wait_until

TIME_LIMIT_S = 90  # of a phase of a test, where it does not say another

NewNode = Callable[..., Node]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("time_limit"):
            item.add_marker(pytest.mark.time_limit(TIME_LIMIT_S))


@pytest.fixture(scope="package")
def s3() -> Iterator[S3Server]:
    with S3Server() as running:
        yield running


@pytest.fixture(scope="package")
def version(s3: S3Server) -> SourceVersion:
    """Two packs, an object of a few runs, one of a few more, and an empty one: about 45 MB."""
    sizes = (9 * MIB + 12_345, 16 * MIB)
    return make_version(
        s3.bucket("lake"), "photos/v1", small_files=100, small_max_bytes=400_000, large_sizes_bytes=sizes
    )


@pytest.fixture(scope="package")
def shared_proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint_url, root=s3.root) as running:
        yield running


@pytest.fixture
def proxy(shared_proxy: FaultProxy) -> Iterator[FaultProxy]:
    wait_until(lambda: not shared_proxy.connections, what="the connections of the test before being closed")
    shared_proxy.reset()
    yield shared_proxy
    shared_proxy.clear()
    shared_proxy.release()


@pytest.fixture
def new_node(
    request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, proxy: FaultProxy
) -> Iterator[NewNode]:
    """Makes nodes, not started yet; ends them and reads their logs afterwards."""
    nodes: list[Node] = []

    def make(**options: object) -> Node:
        place = tmp_path / f"node-{len(nodes)}"
        nodes.append(Node(place, proxy.endpoint_url, s3.env(), **options))  # type: ignore[arg-type]
        return nodes[-1]

    yield make
    end_and_judge(nodes, request)


def end_and_judge(nodes: Sequence[Node], request: pytest.FixtureRequest) -> None:
    """End the daemons, whatever they are in, and read their logs."""
    for node in nodes:
        node.kill()
    judge(nodes, request)


@pytest.fixture
def node(new_node: NewNode) -> Node:
    """A patient node, not started yet."""
    return new_node(settings=PATIENT)


@pytest.fixture(scope="module")
def prepared(
    s3: S3Server, shared_proxy: FaultProxy, version: SourceVersion, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    """Everything was read once, and the daemon is down."""
    place = tmp_path_factory.mktemp("prepared")
    with Node(place, shared_proxy.endpoint_url, s3.env(), settings=PATIENT) as node:
        assert version.wrong_files(node.mountpoint) == []
        assert node.stop() == 0
    assert not unexpected_lines(node.log_text())
    return Prepared(node)


@pytest.fixture
def resident(prepared: Prepared, proxy: FaultProxy, request: pytest.FixtureRequest) -> Iterator[Node]:
    """The node of `prepared`, as it was then.  A test must not damage its segments."""
    node = prepared.restore()
    yield node
    end_and_judge([node], request)
