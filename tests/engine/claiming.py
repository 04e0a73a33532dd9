"""Nodes that share a backing directory, for tests of their claims."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import trio

from dsfs.cache.memory import Discarding
from dsfs.cache.read import OpenFile
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running
from tests.engine.fake_origin import FakeOrigin

LARGE = PREFIX + "v1/large"
CONTENT = Random(8).randbytes(11 * MIB + 77)
SMALL = {f"v1/small/{number:02d}": Random(number).randbytes(40_000 + number) for number in range(60)}
TOTAL_BYTES = len(CONTENT) + sum(map(len, SMALL.values()))


def sample() -> FakeOrigin:
    origin = FakeOrigin()
    origin.put(LARGE, CONTENT)
    for path, content in SMALL.items():
        origin.put(PREFIX + path, content)
    return origin


@asynccontextmanager
async def nodes(
    directory: Path, origin: FakeOrigin, count: int, settings: Settings | None = None
) -> AsyncIterator[Sequence[Engine]]:
    """So many engines, each with a state directory of its own, over one backing directory."""
    settings = replace(settings or Settings(), backing=directory / "backing")
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(running(directory / f"node-{number}", origin, settings))
            for number in range(count)
        ]


class Reading:
    """A read of the large file in a task, and what came of it."""

    def __init__(self, engine: Engine, nursery: trio.Nursery, offset: int, size: int = 4096) -> None:
        self.offset, self.size = offset, size
        self.got: bytes | None = None
        nursery.start_soon(self._read, engine)

    async def _read(self, engine: Engine) -> None:
        file = await engine.open("v1/large")
        self.got = await engine.read(file, self.offset, self.size)
        engine.opener.release(file)

    @property
    def is_right(self) -> bool:
        return self.got == CONTENT[self.offset : self.offset + self.size]


@asynccontextmanager
async def fetching(engine: Engine, *extents: tuple[int, int]) -> AsyncIterator[OpenFile]:
    """The node is about to fetch these blocks of the large file, a run each, for nobody in particular."""
    file = await engine.open("v1/large")
    assert file.segment is not None
    for first, end in extents:
        engine.fetcher.ahead(file.segment, first, end, end - first, Discarding.CONSUMED)
    yield file
    engine.opener.release(file)


def asked(engine: Engine, answer: str) -> float:
    return engine.metrics.claims_asked.value(answer)
