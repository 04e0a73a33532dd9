"""Whatever happens to the engine, in whatever order: every read gives exactly the bytes of its file.

Hypothesis writes programs of steps (reads from several tasks, drops, restarts, faults of both sides), runs each against
an engine on real directories, and compares every reply with the object.
"""

import errno
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

import hypothesis
import pytest
import trio
from hypothesis import strategies as st

from dsfs.model.blocks import RUN
from dsfs.model.errors import OriginTemporaryError
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running
from tests.engine.fake_origin import FakeOrigin
from tests.engine.faults import Faults

CONTENTS = {f"v1/small/{number:02d}": Random(number).randbytes(1 + number * number * 300) for number in range(30)}
CONTENTS["v1/large"] = Random(30).randbytes(9 * MIB + 1_234)
CONTENTS["v1/empty"] = b""
PATHS = sorted(CONTENTS)
TOTAL_BYTES = sum(map(len, CONTENTS.values()))


@dataclass(frozen=True)
class Reads:
    """So many tasks at once read (file, where it begins in per mille, bytes), twice in a row each."""

    wanted: list[tuple[str, int, int]]


@dataclass(frozen=True)
class WholeFiles:
    """Tasks that read whole files in order."""

    paths: list[str]


@dataclass(frozen=True)
class Drop:
    """The version is dropped; `beside` says whether a reader is at work meanwhile."""

    beside: bool


@dataclass(frozen=True)
class Restart:
    """The engine ends and another begins on the same directories."""


@dataclass(frozen=True)
class OriginFault:
    """The next attempts at a file fail after so many bytes."""

    path: str
    after: int
    times: int


@dataclass(frozen=True)
class BackingFault:
    """Operations at a point of the backing directory fail so often."""

    point: str
    number: int
    times: int


@dataclass(frozen=True)
class Damage:
    """Somebody overwrites bytes in the middle of the largest file of the backing directory, while no engine runs."""


Step = Reads | WholeFiles | Drop | Restart | OriginFault | BackingFault | Damage

paths = st.sampled_from(PATHS)
wants = st.tuples(paths, st.integers(0, 999), st.sampled_from([1, 4096, 100_000, MIB, 3 * MIB]))
steps = st.one_of(
    st.lists(wants, min_size=1, max_size=6).map(Reads),
    st.lists(paths, min_size=1, max_size=4).map(WholeFiles),
    st.builds(Drop, st.booleans()),
    st.just(Restart()),
    st.builds(OriginFault, paths, st.sampled_from([0, 1, 70_000, 2 * MIB]), st.integers(1, 4)),
    st.builds(
        BackingFault,
        st.sampled_from(["segment.data", "segment.map", "segment.read", "segment.seal", "backing.statvfs"]),
        st.sampled_from([errno.EIO, errno.ENOSPC, errno.ESTALE]),
        st.integers(1, 3),
    ),
    st.just(Damage()),
)
settings = st.builds(
    Settings,
    memory_bytes=st.sampled_from([RUN, 3 * RUN, 64 * MIB]),
    connections=st.sampled_from([1, 8]),
    backing_threads=st.sampled_from([1, 4]),
    limit_bytes=st.sampled_from([0, 4 * MIB, 1 << 40]),
    inline=st.booleans(),
)


class Machine:
    """Carries out the steps."""

    def __init__(self, directory: Path, settings: Settings, faults: Faults) -> None:
        self.directory = directory
        self.settings = settings
        self.faults = faults
        self.origin = FakeOrigin()
        for path, content in CONTENTS.items():
            self.origin.put(PREFIX + path, content)

    async def run(self, program: list[Step]) -> None:
        while program:
            async with running(self.directory, self.origin, self.settings) as engine:
                while program:
                    step = program.pop(0)
                    if isinstance(step, Restart | Damage):
                        break
                    await self._do(engine, step)
                    engine.check()
            if isinstance(step, Damage):
                self._damage()

    async def _do(self, engine: Engine, step: Step) -> None:
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            if isinstance(step, Reads):
                for path, per_mille, size in step.wanted:
                    nursery.start_soon(self._read, engine, path, len(CONTENTS[path]) * per_mille // 1000, size)
            elif isinstance(step, WholeFiles):
                for path in step.paths:
                    nursery.start_soon(self._read_whole, engine, path)
            elif isinstance(step, Drop):
                if step.beside:
                    nursery.start_soon(self._read_whole, engine, "v1/large")
                await engine.drop("v1")
            elif isinstance(step, OriginFault):
                error = OriginTemporaryError("503")
                after = min(step.after, len(CONTENTS[step.path]))
                self.origin.fail(PREFIX + step.path, *[error] * step.times, after=after)
            elif isinstance(step, BackingFault):
                self.faults.fail(step.point, step.number, step.times)

    async def _read(self, engine: Engine, path: str, offset: int, size: int) -> None:
        file = await engine.open(path)
        for start in (offset, offset + size):
            assert await engine.read(file, start, size) == CONTENTS[path][start : start + size]
        engine.opener.release(file)

    async def _read_whole(self, engine: Engine, path: str) -> None:
        assert await engine.read_path(path) == CONTENTS[path]

    def _damage(self) -> None:
        found = [path for path in (self.directory / "backing" / "segments").rglob("*") if path.suffix in ("", ".part")]
        files = sorted((path for path in found if path.is_file()), key=lambda path: path.stat().st_size)
        if files and (size := files[-1].stat().st_size):
            with files[-1].open("r+b") as file:
                file.seek(size // 2)
                file.write(b"damaged")


@pytest.mark.expects_log(
    "a (fill|claim) failed", "cannot be (sealed|opened)", "could not be used", "is not what was written",
    "was changed after", "was removed", "cut short", "fetch failed",
)  # fmt: skip
@hypothesis.settings(max_examples=30, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(program=st.lists(steps, min_size=1, max_size=10), settings=settings)
async def test_every_read_gives_the_bytes_of_its_file(
    program: list[Step], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsfs.cache.fetch.retry_delay_s", lambda attempt, jitter: 0.001)
    monkeypatch.setattr("dsfs.cache.memory.PATIENCE_S", 60.0)
    faithful = all(isinstance(step, Reads | WholeFiles | Restart | OriginFault) for step in program)
    with tempfile.TemporaryDirectory(prefix="dsfs-machine-") as directory:
        machine = Machine(Path(directory), settings, Faults(monkeypatch))
        with trio.fail_after(40):  # nothing may stand still
            await machine.run(list(program))
        if faithful and settings.limit_bytes > TOTAL_BYTES:
            assert machine.origin.sent_bytes <= TOTAL_BYTES, "nothing is fetched twice"
