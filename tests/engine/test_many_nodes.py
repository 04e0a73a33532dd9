"""Whatever several nodes do with one backing directory, in whatever order: every read gives the bytes of its file.

As test_machine.py, for nodes that share: Hypothesis says which node reads what while which other reads, drops, or
starts anew.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import hypothesis
import pytest
import trio
from hypothesis import strategies as st

from dsfs.model.blocks import RUN
from tests.engine.engine import MIB, PREFIX, Engine, Settings, running
from tests.engine.fake_origin import FakeOrigin

NODES = 3
CONTENTS = {f"v1/small/{number:02d}": Random(number).randbytes(1 + number * number * 300) for number in range(30)}
CONTENTS["v1/large"] = Random(30).randbytes(6 * MIB + 1_234)
PATHS = sorted(CONTENTS)
TOTAL_BYTES = sum(map(len, CONTENTS.values()))


@dataclass(frozen=True)
class Reads:
    """All at once: a node reads a file from a place on (in per mille), or whole if there is none."""

    wanted: list[tuple[int, str, int | None]]


@dataclass(frozen=True)
class Drop:
    """A node drops the version while another reads it."""

    node: int
    reader: int


@dataclass(frozen=True)
class Restart:
    """A node ends and begins again."""

    node: int


Step = Reads | Drop | Restart
node = st.integers(0, NODES - 1)
steps = st.one_of(
    st.lists(
        st.tuples(node, st.sampled_from(PATHS), st.none() | st.integers(0, 999)), min_size=1, max_size=8
    ).map(Reads),
    st.builds(Drop, node, node),
    st.builds(Restart, node),
)


class Cluster:
    """The nodes, each in a task of its own for as long as it lives."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.origin = FakeOrigin()
        for path, content in CONTENTS.items():
            self.origin.put(PREFIX + path, content)
        self._directory = directory
        self._settings = settings
        self._nursery: trio.Nursery
        self._engines: dict[int, Engine] = {}
        self._ends: dict[int, trio.Event] = {}
        self._ended: dict[int, trio.Event] = {}

    async def run(self, program: list[Step]) -> None:
        async with trio.open_nursery() as self._nursery:
            for number in range(NODES):
                await self._nursery.start(self._live, number)
            for step in program:
                await self._do(step)
            for number in range(NODES):
                self._ends[number].set()
        self._engines[0].check_account()

    async def _live(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        self._ends[number], self._ended[number] = trio.Event(), trio.Event()
        place = self._directory / f"node-{number}"
        async with running(place, self.origin, self._settings) as self._engines[number]:
            task_status.started()
            await self._ends[number].wait()
        self._ended[number].set()

    async def _do(self, step: Step) -> None:
        if isinstance(step, Restart):
            self._ends[step.node].set()
            await self._ended[step.node].wait()
            await self._nursery.start(self._live, step.node)
            return
        async with trio.open_nursery() as nursery:
            if isinstance(step, Reads):
                for number, path, per_mille in step.wanted:
                    nursery.start_soon(self._read, self._engines[number], path, per_mille)
            else:
                nursery.start_soon(self._read, self._engines[step.reader], "v1/large", None)
                await self._engines[step.node].drop("v1")
        for engine in self._engines.values():
            engine.check()

    async def _read(self, engine: Engine, path: str, per_mille: int | None) -> None:
        content = CONTENTS[path]
        if per_mille is None:
            assert await engine.read_path(path) == content
            return
        file = await engine.open(path)
        start = len(content) * per_mille // 1000
        assert await engine.read(file, start, MIB) == content[start : start + MIB]
        engine.opener.release(file)


@pytest.mark.expects_log("was removed", "is not what was written", "cannot be sealed", "was changed after")
@hypothesis.settings(max_examples=25)
@hypothesis.given(
    program=st.lists(steps, min_size=1, max_size=8),
    memory_bytes=st.sampled_from([3 * RUN, 64 * MIB]),
    shared=st.booleans(),
)
async def test_every_read_on_every_node_gives_the_bytes_of_its_file(
    program: list[Step], memory_bytes: int, shared: bool
) -> None:
    with tempfile.TemporaryDirectory(prefix="dsfs-nodes-") as directory:
        settings = Settings(memory_bytes=memory_bytes, shared=shared, backing=Path(directory) / "backing")
        cluster = Cluster(Path(directory), settings)
        with trio.fail_after(60):  # nothing may stand still
            await cluster.run(program)
        if not any(isinstance(step, Drop) for step in program):
            assert cluster.origin.sent_bytes <= TOTAL_BYTES, "nothing is fetched twice"
