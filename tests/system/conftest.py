"""One real S3 server and one version for this folder, a fault proxy before it, and daemons that are treated badly.

The log of each daemon is read at the end of its test: what is at WARNING or above, and not declared by
`expects_log(regex)`, fails the test.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.daemonlog import unexpected_lines
from tests.rig.faultproxy import FaultProxy
from tests.rig.lake import MIB, make_lake
from tests.rig.node import PATIENT, Node
from tests.rig.reading import SourceVersion
from tests.rig.s3server import S3Server

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
    source = s3.bucket("lake") / "datasets" / "photos" / "v1"
    sizes = (9 * MIB + 12_345, 16 * MIB)
    return SourceVersion(
        "photos/v1", source, make_lake(source, small_files=100, small_max_bytes=400_000, large_sizes_bytes=sizes)
    )


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(s3.endpoint_url, root=s3.root) as running:
        yield running


@pytest.fixture
def new_node(
    request: pytest.FixtureRequest, tmp_path: Path, s3: S3Server, proxy: FaultProxy
) -> Iterator[NewNode]:
    """Makes nodes, not started yet; ends them, whatever they are in, and reads their logs afterwards."""
    nodes: list[Node] = []

    def make(**options: object) -> Node:
        place = tmp_path / f"node-{len(nodes)}"
        nodes.append(Node(place, proxy.endpoint_url, s3.env(), **options))  # type: ignore[arg-type]
        return nodes[-1]

    yield make
    for node in nodes:
        node.kill()
    expected = [regex for mark in request.node.iter_markers("expects_log") for regex in mark.args]
    unexpected = [line for node in nodes for line in unexpected_lines(node.log_text(), expected)]
    assert not unexpected, "in the daemon's log, and not declared by expects_log"


@pytest.fixture
def node(new_node: NewNode) -> Node:
    """A patient node, not started yet."""
    return new_node(settings=PATIENT)
