"""What `dsfs status --nodes` answers: every node as this one sees it, and which versions are in use by whom."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from dsfs.cache.heartbeat import Heartbeat
from dsfs.cache.versions import Version
from dsfs.model.errors import BackingError
from dsfs.model.nodes import Look

Answer = dict[str, object]


class AskBacking(Protocol):
    """Has a question answered that may wait for the backing directory; BackingError if it takes too long."""

    def __call__(self, question: Callable[[], Look]) -> Awaitable[Look]: ...


@dataclass
class Neighbours:
    """Looks at all nodes through the backing directory."""

    heartbeat: Heartbeat
    ask_backing: AskBacking

    async def answer(self, args: dict[str, Any]) -> Answer:
        """All nodes; BackingError if this one cannot see them."""
        look = await self._look()
        uses = look.uses()
        return {
            "this": self.heartbeat.nodes.node,
            "nodes": [
                {
                    "node": sighting.node,
                    "state": look.life(sighting).value,
                    "seen_ago_s": look.age_s(sighting),
                    "trouble": sighting.trouble,
                    "usage": asdict(sighting.usage) if sighting.usage else None,
                }
                for sighting in look.sightings
            ],
            "versions_in_use": [
                {"dataset": dataset, "version": version, "generation": generation, "open_files": open_files}
                for (dataset, version, generation), by_node in sorted(uses.versions.items())
                if (open_files := {node: told.open_files for node, told in by_node.items() if told.is_held})
            ],
            "segments_in_use": len(uses.segments),
            "nodes_with_unknown_use": sorted(uses.unknown),
        }

    async def users(self, version: Version) -> list[str]:
        """Which nodes have files of the version open, or warm it, or may do so, each with what it does, for people.

        This node is asked itself, the others said it some seconds ago.  BackingError if they cannot be seen.
        """
        look = await self._look()
        uses, this = look.uses(), self.heartbeat.nodes.node
        open_files = Counter({this: sum(generation.open_files for generation in version.generations)})
        warming = {this} if any(generation.warms for generation in version.generations) else set()
        for key, by_node in uses.versions.items():
            if key[:2] == (version.dataset.name, version.name):
                for node, told in by_node.items():
                    if node != this:
                        open_files[node] += told.open_files
                        if told.is_warmed:
                            warming.add(node)
        hosts = {sighting.node: sighting.usage.host.name for sighting in look.sightings if sighting.usage is not None}
        hosts[this] = socket.gethostname()
        known = [
            f"{hosts[node]} ({_use(open_files[node], is_warming=node in warming)})"
            for node in sorted(warming.union(+open_files))
        ]
        unknown = [f"{hosts.get(node, node)} (what it uses is not known)" for node in sorted(uses.unknown - {this})]
        return known + unknown

    async def _look(self) -> Look:
        try:
            return await self.ask_backing(self.heartbeat.look)
        except OSError as exc:
            raise BackingError(f"the nodes cannot be seen: {exc.strerror}") from exc


def _use(open_files: int, *, is_warming: bool) -> str:
    files = "1 file open" if open_files == 1 else f"{open_files:,} files open"
    return ", ".join([files] * (open_files > 0) + ["warming it"] * is_warming)
