"""The verbs of the control socket: what is asked for, and who answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dsfs.admin.control import Verb
from dsfs.admin.queries import Answer, Queries
from dsfs.cache.datasets import Datasets
from dsfs.cache.drop import Dropper
from dsfs.cache.library import Library, Version
from dsfs.metrics import Metrics
from dsfs.model.errors import UsageError


class Stop(Protocol):
    """Begins to stop the daemon."""

    def __call__(self, *, now: bool) -> None: ...


@dataclass
class Verbs:
    """One method for each verb; `table` is what the control server gets."""

    queries: Queries
    library: Library
    dropper: Dropper
    metrics: Metrics
    datasets: Datasets
    begin_stop: Stop

    def table(self) -> Mapping[str, Verb]:
        return {
            "status": Verb(self.status, changes=False),
            "ls": Verb(self.ls, changes=False),
            "why": Verb(self.why, changes=False),
            "metrics": Verb(self.metrics_text, changes=False),
            "drop": Verb(self.drop, changes=True),
            "refresh": Verb(self.refresh, changes=True),
            "stop": Verb(self.stop, changes=True),
        }

    async def status(self, args: dict[str, Any]) -> Answer:
        return await self.queries.status(_text(args, "target", default=""))

    async def ls(self, args: dict[str, Any]) -> Answer:
        return await self.queries.ls(_text(args, "target", default=""))

    async def why(self, args: dict[str, Any]) -> Answer:
        return await self.queries.why(_text(args, "path"))

    async def metrics_text(self, args: dict[str, Any]) -> Answer:
        self.datasets.count()
        resident = await self.queries.resident_bytes()
        self.metrics.resident_bytes.read_from(lambda: resident)
        free = await self.queries.free_bytes()
        self.metrics.backing_free_bytes.read_from(lambda: free)
        return {"text": self.metrics.text()}

    async def drop(self, args: dict[str, Any]) -> Answer:
        version = await self.queries.version(_text(args, "target"))
        dropped_bytes, segments = await self.dropper.drop(version)
        return _named(version) | {"dropped_bytes": dropped_bytes, "segments": segments}

    async def refresh(self, args: dict[str, Any]) -> Answer:
        version = await self.queries.version(_text(args, "target"))
        current, previous = await self.library.refresh(version)
        summary = current.catalog.summary
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


def _named(version: Version) -> Answer:
    return {"dataset": version.dataset.name, "version": version.name}


def _text(args: dict[str, Any], name: str, default: str | None = None) -> str:
    """The argument of that name; UsageError if it is no text, or missing (null counts as that) without a default."""
    value = args.get(name)
    if value is None:
        value = default
    if not isinstance(value, str):
        fault = "is missing" if value is None else f"is no text: {value!r}"
        raise UsageError(f"argument {name!r} {fault}")
    return value
