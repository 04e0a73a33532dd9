"""The verb `evict`: what would leave the cache now and why, and what would stay; or has it leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dsfs.admin.control import Verb
from dsfs.admin.queries import Answer
from dsfs.admin.targets import size_of
from dsfs.cache.evictor import Evictor, Plan
from dsfs.model.errors import UsageError
from dsfs.model.eviction import Verdict
from dsfs.model.pin import NO_END_NS
from dsfs.model.quantity import format_size


@dataclass
class EvictVerbs:
    """One method for each verb."""

    evictor: Evictor

    def table(self) -> Mapping[str, Verb]:
        return {"evict": Verb(self.evict, changes=True), "evict_plan": Verb(self.plan, changes=False)}

    async def plan(self, args: dict[str, Any]) -> Answer:
        """What would leave, and what would stay."""
        return _facts(await self.evictor.plan(self._need(args)))

    async def evict(self, args: dict[str, Any]) -> Answer:
        """The same, and it has left."""
        return _facts(await self.evictor.evict(self._need(args)))

    def _need(self, args: dict[str, Any]) -> int:
        """UsageError if it is more than there can ever be: that would empty the cache for nothing."""
        need_bytes, high_bytes = size_of(args, "need_bytes"), self.evictor.high_bytes
        if need_bytes > high_bytes:
            most = format_size(high_bytes)
            raise UsageError(f"{format_size(need_bytes)} are more than retention.high_watermark, {most}")
        return need_bytes


def _facts(plan: Plan) -> Answer:
    survey = plan.survey
    room = survey.room
    return {
        "limit_bytes": room.limit_bytes,
        "high_bytes": room.high_bytes,
        "low_bytes": room.low_bytes,
        "used_bytes": survey.account.used.size_bytes,
        "granted_bytes": survey.account.unspent.size_bytes,
        "leaving_bytes": room.leaving.size_bytes,
        "wanted_bytes": plan.wanted.size_bytes,
        "missing_bytes": max(0, plan.missing.size_bytes),
        "missing_inodes": max(0, plan.missing.inodes),
        "grace_s": plan.grace_s,
        "leaves": [_leaves(verdict, plan) for verdict in plan.leaves],
        "stays": [_stays(verdict, plan) for verdict in plan.stays],
    }


def _leaves(verdict: Verdict, plan: Plan) -> Answer:
    return _named(verdict, plan) | {"segments": len(verdict.segments)}


def _stays(verdict: Verdict, plan: Plan) -> Answer:
    survey = plan.survey
    return _named(verdict, plan) | {
        "nodes": [survey.host(node) for node in verdict.nodes],
        "in_use_for_s": (survey.now_ns - verdict.since_ns) / 1e9 if verdict.since_ns else None,
        "pinned_until_s": verdict.until_ns / 1e9 if 0 < verdict.until_ns < NO_END_NS else None,
    }


def _named(verdict: Verdict, plan: Plan) -> Answer:
    dataset, version, generation = verdict.key
    return {
        "dataset": dataset,
        "version": version,
        "generation": generation,
        "is_current": plan.survey.by_key[verdict.key].is_current,
        "rule": verdict.rule.name.lower(),
        "why": verdict.rule.value,
        "bytes": verdict.amount.size_bytes,
        "inodes": verdict.amount.inodes,
        "last_used_ago_s": plan.survey.idle_s(verdict.key),
    }
