"""How much of a version is resident, as a node tells that has not filled it: what the evictor found."""

import time
from pathlib import Path
from typing import Any, cast

from tests.engine.engine import PREFIX, Engine, Settings, running
from tests.engine.evicting import age, evictor_beside
from tests.engine.fake_origin import FakeOrigin
from tests.engine.test_queries import queries_of

LARGE = b"x" * 6_000_000


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(f"{PREFIX}v1/large", LARGE)
    for name in range(5):
        origin.put(f"{PREFIX}v1/small/{name}", bytes(10_000))
    return origin


async def resident(engine: Engine) -> int:
    answer = await queries_of(engine).status("photos/v1")
    (version,) = cast(list[dict[str, Any]], answer["versions"])
    return int(version["resident_bytes"])


async def test_other_nodes_know_what_is_resident_and_what_was_evicted(tmp_path: Path) -> None:
    origin = sample()
    shared = Settings(backing=tmp_path / "backing")
    async with running(tmp_path / "a", origin, shared) as one, running(tmp_path / "b", origin, shared) as other:
        await one.read_path("v1/large")
        for name in range(5):
            await one.read_path(f"v1/small/{name}")
        await one.settle()
        total = len(LARGE) + 50_000
        assert await resident(one) == total
        assert await resident(other) == 0  # nobody has counted yet
        queries = queries_of(other)
        assert "no node has had a round for 5m" in str((await queries.status(None))["eviction"])
        queries.started_s = time.time()
        assert (await queries.status(None))["eviction"] is None
        async with evictor_beside(one, tmp_path) as found:
            await found.evictor.evict(0)
        assert await resident(one) == await resident(other) == total
        assert (await queries_of(other).status(None))["eviction"] is not None

        age(one, "v1")
        async with evictor_beside(other, tmp_path, name="other") as found:  # has not asked for the last uses yet
            assert len((await found.evictor.evict(0)).leaves) == 1
        assert await resident(one) == await resident(other) == 0

        assert await other.read_path("v1/large") == LARGE
        await other.settle()
        assert await resident(other) == len(LARGE)  # it has filled that since
