"""Where several nodes are measured: a guest with an NFS server, its clients, and a distant origin behind one line."""

import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from bench import machine
from bench.accesslog import Traffic, traffic
from bench.data import BUCKET, PREFIX, Sizes
from bench.errors import BenchError
from bench.loads import TIMEOUT_S
from bench.nfs.origin import URLS
from bench.origin import ACCESS_LOG, Distance
from tests.rig.nfs.client import NfsClient
from tests.rig.nfs.guest import KERNEL, MIB, Guest, missing
from tests.rig.nfs.machine import GuestMachine
from tests.rig.nfs.server import export_path
from tests.rig.node import Node

NODES = ("a", "b", "c", "d")
EXPORT = "large"
MEMORY_BYTES = 4096 * MIB  # so that neither the server nor the origin reads from a disk
START_TIMEOUT_S = 30.0

_RUN = Path("/run/bench-origin")
_ROOT = Path("/run/lake")  # in memory: the origin stands for another machine, whose disk is no matter
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_SETTINGS = {
    "origin": {"timeout": "60s", "stall_timeout": "20s", "names_ttl": "1h"},
    "backing": {"timeout": "50s"},
}
# The origin has a cable to each node; all of them go through one line, whose rate is set.
_ONE_LINE = """
modprobe -d {kernel} -a ifb sch_ingress cls_matchall act_mirred sch_cake
ip link add line type ifb
ip link set line up
for node in {nodes}; do
    tc qdisc add dev $node-origin clsact
    tc filter add dev $node-origin egress matchall action mirred egress redirect dev line
done
"""


class SiteNode(Node):
    """A dsfs on a client, patient enough for the guest."""

    def __init__(self, client: NfsClient, work: Path, endpoint_url: str, backing: Path) -> None:
        super().__init__(
            work, endpoint_url, _CREDENTIALS, url=f"s3://{BUCKET}/{PREFIX}", settings=_SETTINGS, backing=backing,
            machine=client,
        )  # fmt: skip
        self.client = client


class UnclaimedNode(SiteNode):
    module = "bench.nfs.unclaimed"


class Site:
    """Boots with the `with` statement.  `work`: an absolute path, writable in the guest; `root`: what is served."""

    def __init__(self, work: Path, root: Path, sizes: Sizes) -> None:
        if (reason := missing()) is not None:
            raise BenchError(reason)
        # Every node may have a copy of its own of everything, and there is one without dsfs.
        export_bytes = (len(NODES) + 1) * (sizes.big_bytes + sizes.small_files * sizes.small_bytes) + 512 * MIB
        images = {EXPORT: export_bytes, "small": 64 * MIB}
        self._guest = Guest(work, NODES, memory_bytes=MEMORY_BYTES, images=images)
        self._work = work
        self._root = root
        self._serial = itertools.count(1)
        self._urls: dict[str, str] = {}
        self._stack = ExitStack()
        self.server = self._guest.server
        self.clients = self._guest.clients
        self.truth = root / BUCKET / PREFIX
        self.export = export_path(EXPORT)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._guest)
            for client in self.clients:
                client.mount(EXPORT)
            self._start_origin()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def _start_origin(self) -> None:
        log = self._work / "origin.log"
        self.server.check("cp", "-r", str(self._root), str(_ROOT))
        process = self.server.start(sys.executable, "-m", "bench.nfs.origin", str(_ROOT), str(_RUN), log=log)
        if not process.wait_ready(START_TIMEOUT_S):
            raise BenchError(f"the origin did not start:\n{log.read_text()}")
        self._urls = json.loads(self.server.call(Path.read_text, _RUN / URLS))
        self.server.check("sh", "-ec", _ONE_LINE.format(kernel=KERNEL, nodes=" ".join(NODES)))

    # ---------------------------------------------------------------- the surroundings of a measurement

    def set_line(self, bytes_per_s: int | None) -> None:
        """What the origin sends to all nodes together; None: as much as it can."""
        self.server.run("tc", "qdisc", "delete", "dev", "line", "root")  # there may be none
        if bytes_per_s is not None:
            _limit(self.server, "line", bytes_per_s)

    @contextmanager
    def storage_link(self, client: NfsClient, bytes_per_s: int) -> Iterator[None]:
        """The most that the client and the NFS server send each other meanwhile."""
        ends = ((self.server, f"{client.name}-storage"), (client, "storage"))
        for end, device in ends:
            _limit(end, device, bytes_per_s)
        try:
            yield
        finally:
            for end, device in ends:
                end.check("tc", "qdisc", "delete", "dev", device, "root")

    def drop_caches(self) -> None:
        """Those of the nodes; what lies on the server is in its memory again afterwards."""
        self.server.call(machine.drop_caches)
        self.server.call_within(TIMEOUT_S, machine.read_through, self.export)

    def mark(self) -> int:
        """A place in the origin's log, for traffic_since."""
        return self.server.call(Path.stat, _RUN / ACCESS_LOG).st_size

    def traffic_since(self, mark: int, distance: Distance) -> Traffic:
        port = urlsplit(self._urls[distance.name]).port
        assert port is not None
        return self.server.call(traffic, _RUN / ACCESS_LOG, mark, port)

    @contextmanager
    def nodes(
        self, clients: Sequence[NfsClient], distance: Distance, *, share: bool = True, kind: type[SiteNode] = SiteNode
    ) -> Iterator[list[SiteNode]]:
        """A dsfs on each client, with one new backing directory or with one each; all is removed afterwards."""
        number = next(self._serial)
        nodes: list[SiteNode] = []
        try:
            for client in clients:
                backing = f"backing-{number}" if share else f"backing-{number}-{client.name}"
                work = self._work / f"{client.name}-{number}"
                node = kind(client, work, self._urls[distance.name], self.export / backing)
                nodes.append(node)
                node.start()
            yield nodes
        finally:
            for node in nodes:
                node.kill()
            self.clear()

    def clear(self) -> None:
        """Remove all that lies in the export."""
        self.server.clear(EXPORT)


def _limit(there: GuestMachine, device: str, bytes_per_s: int) -> None:
    """Fair, and with short queues: behind a long one each new answer would wait for seconds."""
    there.check("tc", "qdisc", "add", "dev", device, "root", "cake", "bandwidth", f"{bytes_per_s * 8}bit")
