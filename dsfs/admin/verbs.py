"""The verbs of the control socket: what is asked for, and who answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dsfs.admin.control import ASKED_BY, Verb
from dsfs.admin.nodes import Neighbours
from dsfs.admin.queries import Answer, Queries
from dsfs.admin.targets import text_of
from dsfs.cache.datasets import Datasets
from dsfs.cache.drop import Dropper
from dsfs.cache.events import Events
from dsfs.cache.library import Library
from dsfs.cache.versions import Version
from dsfs.metrics import Metrics
from dsfs.model.errors import BusyError
from dsfs.model.event import Kind


class Stop(Protocol):
    """Begins to stop the daemon."""

    def __call__(self, *, now: bool) -> None: ...


@dataclass
class Verbs:
    """One method for each verb; `table` is what the control server gets."""

    queries: Queries
    library: Library
    dropper: Dropper
    neighbours: Neighbours
    metrics: Metrics
    datasets: Datasets
    events: Events
    begin_stop: Stop

    def table(self) -> Mapping[str, Verb]:
        return {
            "nodes": Verb(self.neighbours.answer, changes=False),
            "status": Verb(self.status, changes=False),
            "ls": Verb(self.ls, changes=False),
            "why": Verb(self.why, changes=False),
            "metrics": Verb(self.metrics_text, changes=False),
            "drop": Verb(self.drop, changes=True),
            "refresh": Verb(self.refresh, changes=True),
            "stop": Verb(self.stop, changes=True),
            "ping": Verb(self.ping, changes=False),
        }

    async def status(self, args: dict[str, Any]) -> Answer:
        return await self.queries.status(text_of(args, "target", default=""))

    async def ls(self, args: dict[str, Any]) -> Answer:
        return await self.queries.ls(text_of(args, "target", default=""))

    async def why(self, args: dict[str, Any]) -> Answer:
        return await self.queries.why(text_of(args, "path"))

    async def metrics_text(self, args: dict[str, Any]) -> Answer:
        self.datasets.count()
        found = await self.queries.found()
        self.metrics.evict_leaving_bytes.read_from(lambda: found.standing.leaving_bytes if found else None)
        self.metrics.evict_troubled_nodes.read_from(lambda: bool(found.standing.trouble) if found else None)
        resident = await self.queries.resident_bytes(found)
        self.metrics.resident_bytes.read_from(lambda: resident)
        free = await self.queries.free_bytes()
        self.metrics.backing_free_bytes.read_from(lambda: free)
        return {"text": self.metrics.text()}

    async def drop(self, args: dict[str, Any]) -> Answer:
        """BusyError if somebody has files of the version open, or warms it, on any node, unless it is forced."""
        version = await self.queries.version(text_of(args, "target"))
        if not args.get("force") and (users := await self.neighbours.users(version)):
            name = f"{version.dataset.name}/{version.name}"
            raise BusyError(f"{name} is in use by {', '.join(users)}; --force drops it all the same")
        dropped_bytes, segments = await self.dropper.drop(version)
        self._tell(Kind.DROPPED, version, args, dropped_bytes)
        return _named(version) | {"dropped_bytes": dropped_bytes, "segments": segments}

    async def refresh(self, args: dict[str, Any]) -> Answer:
        version = await self.queries.version(text_of(args, "target"))
        current, previous = await self.library.refresh(version)
        summary = current.catalog.summary
        if current is not previous:
            self._tell(Kind.REFRESHED, version, args, summary.bytes)
        return _named(version) | {
            "changed": current is not previous,
            "generation": current.id,
            "previous": previous.id if previous else None,
            "files": summary.files,
            "bytes": summary.bytes,
        }

    async def stop(self, args: dict[str, Any]) -> Answer:
        self.begin_stop(now=bool(args.get("now")))
        return {}

    async def ping(self, args: dict[str, Any]) -> Answer:
        """That the daemon does not stand still."""
        return {}

    def _tell(self, kind: Kind, version: Version, args: dict[str, Any], bytes: int) -> None:
        user = text_of(args, ASKED_BY, default="")
        self.events.tell(kind, version.dataset.name, version.name, f"by {user}" if user else "", bytes)


def _named(version: Version) -> Answer:
    return {"dataset": version.dataset.name, "version": version.name}
