"""The verbs for warms: to ask for one, to see them, to stop one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from dsfs.admin.control import Verb
from dsfs.admin.targets import VERSION
from dsfs.cache.library import Library
from dsfs.cache.warm import ALL, THIS, Warm
from dsfs.cache.warmer import Warmer
from dsfs.model.errors import UsageError
from dsfs.model.pathglob import PathGlob
from dsfs.model.request import WarmRequest

Answer = dict[str, object]


@dataclass
class WarmVerbs:
    """One method for each verb."""

    warmer: Warmer
    library: Library
    mountpoint: Path

    def table(self) -> Mapping[str, Verb]:
        return {
            "warm": Verb(self.warm, changes=True),
            "warms": Verb(self.warms, changes=False),
            "warm_stop": Verb(self.warm_stop, changes=True),
        }

    async def warm(self, args: dict[str, Any]) -> Answer:
        """Begin to warm NAME/VERSION, or go on with it."""
        dataset, version = self._names(args)
        path, nodes = args.get("path"), args.get("nodes") or THIS
        if nodes not in (ALL, THIS):
            raise UsageError(f"argument 'nodes': expected {ALL!r} or {THIS!r}, found {nodes!r}")
        try:
            pattern = None if path is None else PathGlob(path).pattern
        except (ValueError, AttributeError) as exc:
            raise UsageError(f"argument 'path': {exc}") from None
        await self.library.version(await self.library.dataset(dataset), version)  # it is there
        return facts_of(await self.warmer.begin(WarmRequest(dataset, version, pattern), nodes))

    async def warms(self, args: dict[str, Any]) -> Answer:
        """Every warm under way, and the last that have ended."""
        return {"warms": [facts_of(warm) for warm in self.warmer.warms]}

    async def warm_stop(self, args: dict[str, Any]) -> Answer:
        """End the warms of NAME/VERSION on all nodes; also of a version that is gone."""
        dataset, version = self._names(args)
        return {"stopped": await self.warmer.stop(dataset, version)}

    def _names(self, args: dict[str, Any]) -> list[str]:
        """The dataset and the version that are meant."""
        target = args.get("target")
        if not isinstance(target, str):
            raise UsageError(f"argument 'target': expected {VERSION.expected}")
        return VERSION.names_in(target, self.mountpoint)


def facts_of(warm: Warm) -> Answer:
    """What is told of a warm; bytes are those of the files that it was asked for."""
    plan, now_s = warm.plan, trio.current_time()
    total, done = (plan.total, plan.done) if plan is not None else (0, 0)
    rate = 0.0 if warm.is_over else warm.pace.rate(now_s)
    return {
        "id": f"{warm.request.id}-{warm.nodes}",
        "dataset": warm.request.dataset,
        "version": warm.request.version,
        "path": warm.request.path,
        "nodes": warm.nodes,
        "state": warm.phase.value,
        "is_over": warm.is_over,
        "reason": warm.reason or ("" if warm.is_over else warm.course.trouble),
        "total_bytes": total,
        "resident_bytes": done,
        "rate_bytes_per_s": round(rate),
        "left_s": None if warm.is_over else warm.pace.left_s(now_s, total - done),
        "quiet_s": 0.0 if warm.is_over else now_s - warm.course.progress_s,
        "missing": [
            {"reason": reason, "bytes": missing.bytes, "example": missing.example}
            for reason, missing in warm.missing.items()
        ],
        "started_s": warm.started_s,
        "ended_s": warm.ended_s or None,
    }
