"""What is measured with several nodes: bench/README.md says what each figure means."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from bench import loads
from bench.data import Sizes
from bench.figures import Direction
from bench.loads import TIMEOUT_S, Outcome
from bench.machine import Usage, usage_of
from bench.nfs import together
from bench.nfs.content import LARGE, SMALL, Content
from bench.nfs.site import Site, SiteNode, UnclaimedNode
from bench.origin import FAR, FAST, Distance
from bench.records import LOCAL, Result, Sample
from tests.rig.background import in_background
from tests.rig.nfs.client import NfsClient

P = ParamSpec("P")
T = TypeVar("T")

OURS, ONE, APART, PLAIN, UNCLAIMED = SUBJECTS = ("dsfs", "one node", "each for itself", "plain NFS", "no claims")
_LEAD_S = 2.0  # from telling the nodes to read until they do, all at once


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes/s from the far origin to all nodes together, and to and from the NFS server where that is bound."""

    line: int
    storage: int


class Measures:
    """`say` is told of each value."""

    def __init__(self, site: Site, sizes: Sizes, rates: Rates, say: Callable[[str], None]) -> None:
        self._site = site
        self._sizes = sizes
        self._rates = rates
        self._say = say
        self._results: dict[tuple[str, str, str], Result] = {}

    def run(self, rounds: int) -> list[Result]:
        """Everything, round by round."""
        for number in range(rounds):
            for content in (LARGE, SMALL):
                self._all_nodes(content, OURS, verify=number == 0)
                if content is LARGE:
                    self._all_nodes(content, APART)
                self._one_node_and_a_later_one(content)
                self._plain_files(content)
            self._full_speed(OURS)
            self._full_speed(UNCLAIMED)
        return list(self._results.values())

    # ---------------------------------------------------------------- what is measured

    def _all_nodes(self, content: Content, subject: str, *, verify: bool = False) -> None:
        with self._site.nodes(self._site.clients, FAR, share=subject == OURS) as nodes:
            self._fill(nodes, content, subject, FAR)
            if verify:
                _call(nodes[-1].client, loads.verify, content.load, nodes[-1].mountpoint, self._site.truth)

    def _one_node_and_a_later_one(self, content: Content) -> None:
        """The later one reads what lies on the server then; a large file there is read without dsfs as well."""
        with self._site.nodes(self._site.clients[:2], FAR) as (first, later):
            self._fill([first], content, ONE, FAR)
            claims = Sample(first.metric("dsfs_claims_asked_total") / content.amount(self._sizes))
            self._add(content, "claims", OURS, claims, f"1/{content.per}")
            _call(later.client, together.list_directory, later.mountpoint / content.target.parent)
            step = "read by a later node"
            self._read_later(content, step, OURS, later.client, loads.run, content.load, later.mountpoint, self._sizes)
            if content is LARGE:
                sealed = self._site.server.call(together.sealed_file, self._site.export, self._sizes.big_bytes)
                self._read_later(content, step, PLAIN, later.client, loads.dd, str(sealed))
                step = f"read by a later node, {self._rates.storage / 1e6:.0f} MB/s to its server"
                with self._site.storage_link(later.client, self._rates.storage):
                    arguments = content.load, later.mountpoint, self._sizes
                    self._read_later(content, step, OURS, later.client, loads.run, *arguments)
                    self._read_later(content, step, PLAIN, later.client, loads.dd, str(sealed))

    def _plain_files(self, content: Content) -> None:
        """The same without dsfs, each file one on the server."""
        first, later = self._site.clients[:2]
        copy = self._site.export / "plain"
        arguments = (content.load, self._site.truth, copy, self._sizes)
        _, requests = _counted(first, together.copy_plainly, *arguments)
        self._add_requests(content, "filled", PLAIN, requests)
        if content is SMALL:
            self._read_later(content, "read by a later node", PLAIN, later, loads.run, content.load, copy, self._sizes)
        self._site.clear()

    def _full_speed(self, subject: str) -> None:
        """One node, and an origin that is near and sends all it can."""
        kind = UnclaimedNode if subject == UNCLAIMED else SiteNode
        with self._site.nodes(self._site.clients[:1], FAST, kind=kind) as nodes:
            self._fill(nodes, LARGE, subject, FAST)

    # ---------------------------------------------------------------- one measurement

    def _fill(self, nodes: Sequence[SiteNode], content: Content, subject: str, distance: Distance) -> None:
        """All nodes read everything, beginning at the same moment; nothing of it is anywhere but at the origin."""
        site = self._site
        for node in nodes:
            _call(node.client, together.list_directory, node.mountpoint / content.target.parent)
        site.set_line(self._rates.line if distance is FAR else None)
        site.drop_caches()
        mark, before, stats = site.mark(), _used(nodes), nodes[0].client.mount_stats()
        readings = self._read_together(nodes, content)
        site.server.call_within(TIMEOUT_S, together.wait_sealed, site.export)
        requests = (nodes[0].client.mount_stats() - stats).operations
        traffic, after = site.traffic_since(mark, distance), _used(nodes)
        seconds, cpu_s = together.seconds_of_all(readings), after.cpu_s - before.cpu_s
        sample = Sample(
            value=seconds,
            seconds=seconds,
            operations=sum(reading.outcome.operations for reading in readings),
            read_bytes=sum(reading.outcome.read_bytes for reading in readings),
            cpu_s=cpu_s,
            cost=content.cost(self._sizes, cpu_s),
            peak_bytes=max(_used([node]).peak_bytes for node in nodes),
            gets=traffic.gets,
            heads=traffic.heads,
            lists=traffic.lists,
            data_bytes=traffic.data_bytes,
        )
        step = "all nodes, cold" if distance is FAR else "one node, cold"
        self._add(content, step, subject, sample, "s", distance=distance.name)
        if distance is FAR:
            ratio = Sample(traffic.data_bytes / content.size_bytes(self._sizes))
            self._add(content, "origin bytes / distinct bytes", subject, ratio, "times")
        if subject is ONE:
            self._add_requests(content, "filled", OURS, requests)

    def _read_together(self, nodes: Sequence[SiteNode], content: Content) -> list[together.Reading]:
        start_s = self._site.server.call(time.monotonic) + _LEAD_S
        running = [
            in_background(
                lambda node=node: _call(  # type: ignore[misc]
                    node.client, together.read_at, start_s, content.load, node.mountpoint, self._sizes
                )
            )
            for node in nodes
        ]
        return [reading.result(TIMEOUT_S) for reading in running]

    def _read_later(
        self,
        content: Content,
        step: str,
        subject: str,
        client: NfsClient,
        read: Callable[P, Outcome],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """What another node has filled, with no page of it in the memory of this one."""
        self._site.drop_caches()
        outcome, requests = _counted(client, read, *args, **kwargs)
        sample = Sample(
            value=content.value(outcome),
            seconds=outcome.seconds,
            operations=outcome.operations,
            read_bytes=outcome.read_bytes,
        )
        self._add(content, step, subject, sample, content.unit, direction="higher", cache="dropped")
        self._add_requests(content, step, subject, requests)

    # ---------------------------------------------------------------- results

    def _add_requests(self, content: Content, step: str, subject: str, requests: Counter[str]) -> None:
        sample = Sample(requests.total() / content.amount(self._sizes), nfs=dict(requests))
        self._add(content, f"{step}, NFS requests", subject, sample, f"1/{content.per}")

    def _add(
        self,
        content: Content,
        step: str,
        subject: str,
        sample: Sample,
        unit: str,
        *,
        direction: Direction = "lower",
        cache: str = "cold",
        distance: str = LOCAL,
    ) -> None:
        result = Result(
            content.name, f"{content.name}, {step}", cache, distance, subject, unit, direction, content.cost_unit
        )
        self._results.setdefault(result.key, result).samples.append(sample)
        self._say(f"{subject}: {result.step}: {sample.value:.3f} {unit} {sample.nfs or ''}")


def _call(client: NfsClient, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return client.call_within(TIMEOUT_S, function, *args, **kwargs)


def _counted(
    client: NfsClient, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> tuple[T, Counter[str]]:
    """What the function returned there, and the NFS requests meanwhile."""
    before = client.mount_stats()
    value = _call(client, function, *args, **kwargs)
    return value, (client.mount_stats() - before).operations


def _used(nodes: Sequence[SiteNode]) -> Usage:
    """By the daemons, together."""
    each = [node.client.call(usage_of, node.pid) for node in nodes]
    return Usage(
        sum(usage.cpu_s for usage in each),
        sum(usage.written_bytes for usage in each),
        sum(usage.peak_bytes for usage in each),
    )
