"""A thousand schedules of three nodes at one segment: whatever comes between whatever, no reader gets wrong bytes.

Each node reads all blocks with the real code of storage, in a thread that stops at every named point; the schedule says
who goes on.  It lets nodes die and start again, lose their locks, lose patience with others, and drop the segment.
"""

import shutil
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from dsfs.model.blocks import PackBlocks
from dsfs.model.errors import BlockLostError
from dsfs.storage import faultpoint
from dsfs.storage.claim import Answer, claim, release
from dsfs.storage.filesystem import FileSystem
from dsfs.storage.segment import SegmentFile, State
from tests.engine.segment_sample import Sample
from tests.engine.stopping import DiedError

SCHEDULES = 1_000
NODES = 3
BLOCKS = PackBlocks([100, 5000, 4096, 60, 8192, 1])
MOST_STEPS = 20_000
HANDOVER_S = 20.0


class Node:
    """A node that reads every block, in an order of its own; `patience`: how often it asks for what another has."""

    def __init__(self, schedule: "Schedule", random: Random, patience: int, *, drops: bool) -> None:
        self._schedule = schedule
        self._patience = patience
        self._todo = random.sample(range(len(BLOCKS)), len(BLOCKS))
        self._reach = random.randint(1, 3)
        self._drops_at = random.randrange(len(BLOCKS)) if drops else -1
        self.file = schedule.sample.closed_file()
        self.error: BaseException | None = None
        self.is_dying = False
        self.may_go = threading.Semaphore(0)
        self.thread = self._begin()

    def _begin(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True)
        self._schedule.nodes[thread] = self
        thread.start()
        return thread

    @property
    def is_done(self) -> bool:
        return not self._todo

    def restart(self) -> None:
        """After its death: with nothing but what is in the files."""
        self.file.close()
        self.file = self._schedule.sample.closed_file()
        self.is_dying = False
        self.thread = self._begin()

    def lose_locks(self) -> None:
        """As when the server has not heard of the node for too long."""
        filling = self.file._filling
        if filling is not None:
            filling.unlock(0, len(BLOCKS))

    def _run(self) -> None:
        try:
            self._schedule.pause(self)
            self.file.open()
            while self._todo:
                if len(self._todo) == self._drops_at:
                    self._drops_at = -1
                    self.file.drop()
                self._read(self._todo[-1])
                self._todo.pop()
        except DiedError:
            pass
        except BaseException as exc:
            self.error = exc
        finally:
            self._schedule.turn_is_over.release()

    def _read(self, block: int) -> None:
        refusals = 0
        while True:
            with suppress(BlockLostError):
                if self.file.presence[block]:
                    got = self._schedule.sample.read(self.file, block, block + 1)
                    assert got == self._schedule.sample.bytes_of(block), f"block {block} is wrong"
                    return
                answer = claim(self.file, block, min(block + self._reach, len(BLOCKS)))
                if answer.answer is Answer.GRANTED:
                    self._fetch(block, answer.end)
                    return
                if answer.answer is Answer.HELD:
                    refusals += 1
                    if refusals > self._patience:
                        self._fetch(block, block + 1)
                        return
                    self._schedule.pause(self)

    def _fetch(self, first: int, end: int) -> None:
        self._schedule.fetched.update(range(first, end))
        self._schedule.pause(self)
        with suppress(BlockLostError):  # dropped: readers have their bytes all the same
            self._schedule.sample.fill(self.file, first, end)
        with suppress(BlockLostError):
            release(self.file, first, end)
        if self.file.is_complete and self.file.state is State.FILLING:
            self.file.seal()


class Schedule:
    """Lets one node at a time go on to its next point.

    `is_calm`: nobody dies, drops, or loses locks or patience, so that nothing may be fetched twice.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._random = random = Random(number)
        self.is_calm = number % 3 == 0
        self.sample = Sample(folder, BLOCKS, FileSystem("ceph") if number % 2 else None)
        self.fetched: Counter[int] = Counter()
        self.turn_is_over = threading.Semaphore(0)
        self.nodes: dict[threading.Thread, Node] = {}
        self._sealed_as: tuple[int, int] | None = None
        patience = MOST_STEPS if self.is_calm else 3
        self._all = [
            Node(self, random, patience, drops=not self.is_calm and random.random() < 0.2) for _ in range(NODES)
        ]
        for _ in self._all:
            self._wait()

    def pause(self, node: Node) -> None:
        """In the node's thread: until it is its turn again."""
        self.turn_is_over.release()
        node.may_go.acquire()
        if node.is_dying:
            raise DiedError

    def reach(self, point: str) -> None:
        node = self.nodes.get(threading.current_thread())
        if node is not None:
            if node.is_dying:  # a dead process does nothing, also not in a `finally`
                raise DiedError
            self.pause(node)

    def run(self) -> None:
        steps = 0
        while left := [node for node in self._all if not node.is_done]:
            steps += 1
            assert steps < MOST_STEPS, "a reader does not come to its end"
            node = self._random.choice(left)
            chance = 1.0 if self.is_calm else self._random.random()
            if chance < 0.01:
                self._kill(node)
            elif chance < 0.03:
                node.lose_locks()
            else:
                self._go_on(node)
            self._look()
        if self.is_calm:
            assert self.fetched == Counter(range(len(BLOCKS))), "a block was fetched twice"

    def _go_on(self, node: Node) -> None:
        node.may_go.release()
        self._wait()
        if node.error is not None:
            raise node.error

    def _wait(self) -> None:
        assert self.turn_is_over.acquire(timeout=HANDOVER_S), "a node hangs"

    def _kill(self, node: Node) -> None:
        node.is_dying = True
        self._go_on(node)
        node.thread.join(HANDOVER_S)
        node.restart()
        self._wait()

    def _look(self) -> None:
        """What is sealed is the whole content, each time that there is another file under the name."""
        with suppress(FileNotFoundError):
            stat = self.sample.path.stat()
            if (stat.st_ino, stat.st_mtime_ns) != self._sealed_as:
                assert self.sample.path.read_bytes() == self.sample.content, "what was sealed is wrong"
                self._sealed_as = stat.st_ino, stat.st_mtime_ns

    def end(self) -> None:
        """All nodes end, wherever they are."""
        for node in self._all:
            node.is_dying = True
            node.may_go.release()
            node.thread.join(HANDOVER_S)
        self.sample.close()

    def judge(self) -> None:
        """What the nodes have left is right, or known to be lost, and can be completed."""
        file: SegmentFile = self.sample.file()
        self.sample.assert_right_or_lost(file)
        self.sample.complete(file)


@pytest.mark.expects_log("is not what was written", "cannot be used", "has no usable")
def test_three_nodes_that_read_one_segment_get_right_bytes_in_every_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        for number in range(SCHEDULES):
            schedule = Schedule(folder / str(number), number)
            monkeypatch.setattr(faultpoint, "hook", schedule.reach)
            try:
                schedule.run()
                schedule.end()
                schedule.judge()
            except BaseException as exc:
                exc.add_note(f"in schedule {number}")
                raise
            finally:
                schedule.end()
                shutil.rmtree(folder / str(number))
    finally:
        shutil.rmtree(folder)
