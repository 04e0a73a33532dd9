"""A version to warm, and warms of it in an engine."""

from pathlib import Path
from random import Random

from dsfs.cache.warm import THIS, Phase, Warm
from dsfs.model.request import WarmRequest
from tests.engine.engine import DATASET, MIB, PREFIX, Engine, until
from tests.engine.fake_origin import FakeOrigin

LARGE = Random(1).randbytes(24 * MIB + 77)


def sample() -> tuple[FakeOrigin, dict[str, bytes]]:
    """Two packs, a large object of seven runs, an empty file."""
    origin = FakeOrigin()
    contents = {f"v1/small/{number:03}": Random(number).randbytes(150_000 + number) for number in range(100)}
    contents["v1/large"] = LARGE
    contents["v1/empty"] = b""
    for path, content in contents.items():
        origin.put(PREFIX + path, content)
    return origin, contents


async def begin(engine: Engine, path: str | None = None, nodes: str = THIS) -> Warm:
    return await engine.warmer.begin(WarmRequest(DATASET, "v1", path), nodes)


async def found(engine: Engine) -> Warm:
    """The only warm of the engine, as soon as it has found the request."""
    await until(lambda: engine.warmer.warms, "the request being found")
    (warm,) = engine.warmer.warms
    return warm


async def ended(warm: Warm) -> Phase:
    await until(lambda: warm.is_over, "the end of the warm")
    return warm.phase


async def warmed(engine: Engine, path: str | None = None, nodes: str = THIS) -> Warm:
    """A warm that has come to its end."""
    warm = await begin(engine, path, nodes)
    await ended(warm)
    return warm


def requests_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("requests/*"))
