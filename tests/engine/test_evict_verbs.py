"""The verbs that evict: what they answer, and refuse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dsfs.admin.evicting import EvictVerbs
from dsfs.admin.render import Page
from dsfs.model.errors import UsageError
from dsfs.model.retention import Amount
from tests.engine.engine import MIB
from tests.engine.evicting import age, evicting, hidden
from tests.engine.test_pin_verbs import kinds_told

Answer = dict[str, Any]


async def test_plan_changes_nothing_and_evict_does_what_it_says(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", "v2", grace_s=600) as (engine, found):
        age(engine, "v1")
        age(engine, "v2", days=1)
        verbs = EvictVerbs(found.evictor).table()
        assert (verbs["evict_plan"].changes, verbs["evict"].changes) == (False, True)
        plan: Answer = await verbs["evict_plan"].run({"need_bytes": 1000})  # type: ignore[assignment]
        assert hidden(engine) == []
        (leaves,), (stays,) = plan["leaves"], plan["stays"]
        assert (leaves["version"], leaves["rule"], leaves["segments"]) == ("v1", "stale", 2)
        assert leaves["last_used_ago_s"] == pytest.approx(30 * 86_400, rel=0.01)
        assert (stays["version"], stays["rule"], stays["nodes"]) == ("v2", "room", [])
        assert (plan["wanted_bytes"], plan["missing_bytes"], plan["grace_s"]) == (1000, 0, 600)
        assert plan["limit_bytes"] >= plan["high_bytes"] >= plan["low_bytes"] >= plan["used_bytes"] > leaves["bytes"]
        assert json.loads(json.dumps(plan)) == plan

        done: Answer = await verbs["evict"].run({})  # type: ignore[assignment]
        assert [verdict["version"] for verdict in done["leaves"]] == ["v1"]
        assert len(hidden(engine)) == 2
        assert "photos/v1" in Page(0).eviction(done, is_done=True)
        again: Answer = await verbs["evict_plan"].run({})  # type: ignore[assignment]
        assert (again["leaves"], again["leaving_bytes"] > 6_000_000) == ([], True)
        await engine.events.end()
        assert "evicted" in await kinds_told(engine, 3)


async def test_need_beyond_the_high_watermark_is_refused_and_nothing_leaves(tmp_path: Path) -> None:
    """Within the limit, too: all would leave, and there would be no room for that yet."""
    async with evicting(tmp_path, "v1", limit_bytes=1000 * MIB) as (engine, found):
        age(engine, "v1", days=1)
        verbs = EvictVerbs(found.evictor).table()
        for verb in ("evict", "evict_plan"):
            for need_bytes, named in ((5 * 2**40, "5.00 TiB"), (950 * MIB, "950 MiB")):
                with pytest.raises(UsageError, match=rf"{named} are more than retention.high_watermark, 900 MiB"):
                    await verbs[verb].run({"need_bytes": need_bytes})
        assert hidden(engine) == []


@pytest.mark.parametrize("need", [-1, "5", 1.5, True, 2**63])
async def test_need_that_is_no_size_is_refused(tmp_path: Path, need: object) -> None:
    async with evicting(tmp_path) as (_, found):
        with pytest.raises(UsageError, match="argument 'need_bytes' is no number of bytes"):
            await EvictVerbs(found.evictor).plan({"need_bytes": need})


async def test_what_versions_in_use_will_fill_is_not_told_as_wanted(tmp_path: Path) -> None:
    async with evicting(tmp_path, "v1", limit_bytes=32 * MIB) as (_, found):
        plan = await found.evictor.plan(0)
        ahead = replace(plan, survey=replace(plan.survey, ahead=Amount(32 * MIB)))  # as an epoch over more than fits
        assert ahead.missing.size_bytes <= 0
        assert replace(ahead, wanted=Amount(32 * MIB)).missing.size_bytes > 0
