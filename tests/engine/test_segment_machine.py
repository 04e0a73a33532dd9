"""Hypothesis: a segment against the set of its filled blocks, with restarts and with other people's hands."""

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dsfs.model.blocks import PAGE, PackBlocks, UniformBlocks
from dsfs.model.errors import BlockLostError
from dsfs.storage.segment import SegmentFile, State
from tests.engine.segment_sample import SUFFIXES, Sample, cut, flip, touch

length = st.one_of(st.integers(1, 3 * PAGE), st.sampled_from([PAGE - 1, PAGE, PAGE + 1]))
lengths = st.lists(length, min_size=1, max_size=6)
tables = st.one_of(lengths.map(PackBlocks), st.sampled_from([1, 131_071, 131_072, 131_073, 400_000]).map(UniformBlocks))


class SegmentMachine(RuleBasedStateMachine):
    """`filled`: blocks written since the last drop; `is_damaged`: somebody else was at the files since then."""

    file: SegmentFile

    @initialize(blocks=tables)
    def begin(self, blocks: PackBlocks | UniformBlocks) -> None:
        self.stack = contextlib.ExitStack()
        folder = self.stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))
        self.sample = Sample(Path(folder) / "segments", blocks)
        self.stack.callback(self.sample.close)
        self.file = self.sample.file()
        self.filled: set[int] = set()
        self.is_damaged = False

    def teardown(self) -> None:
        if hasattr(self, "stack"):
            with self.stack:
                self.sample.assert_right_or_lost(self.file)
                self.sample.complete(self.file)
                self.sample.close()
                self.sample.complete(self.sample.file())

    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        count = len(self.sample.blocks)
        first = data.draw(st.integers(0, count - 1))
        end = data.draw(st.integers(first + 1, count))
        self.sample.fill(self.file, first, end)
        self.filled.update(range(first, end))

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        count = len(self.sample.blocks)
        first = data.draw(st.integers(0, count - 1))
        end = data.draw(st.integers(first + 1, count))
        start = self.sample.blocks.offset(first)
        try:
            got = self.sample.read(self.file, first, end)
        except BlockLostError:
            assert self.is_damaged or not self.filled.issuperset(range(first, end))
        else:
            assert got == self.sample.content[start : start + len(got)]

    @rule()
    def check_all(self) -> None:
        self.sample.assert_right_or_lost(self.file)

    @rule()
    def seal(self) -> None:
        was_complete = self.file.is_complete
        is_sealed = self.file.seal()
        assert is_sealed == (self.file.state is State.SEALED)
        assert is_sealed == was_complete or self.is_damaged

    @rule()
    def restart(self) -> None:
        self.sample.close()
        self.file = self.sample.file()

    @rule()
    def drop(self) -> None:
        self.file.drop()
        self.filled.clear()
        self.is_damaged = False

    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "remove", "touch"]))
    @precondition(lambda self: self.sample.names())
    def damage(self, data: st.DataObject, how: str) -> None:
        path = self.sample.beside(data.draw(st.sampled_from([s for s in SUFFIXES if s in self.sample.names()])))
        size = path.stat().st_size
        if how == "flip" and size:
            flip(path, data.draw(st.integers(0, size - 1)))
        elif how == "cut":
            cut(path, data.draw(st.integers(0, size)))
        elif how == "remove":
            path.unlink()
        else:
            touch(path)
        self.is_damaged = True

    @invariant()
    def only_what_was_filled_is_present(self) -> None:
        if hasattr(self, "file"):
            self.file.check()
            present = {block for block, state in enumerate(self.file.presence) if state}
            assert present <= self.filled
            assert self.is_damaged or present == self.filled


@pytest.mark.expects_log("segment ")
def test_segment_never_holds_more_than_was_filled_nor_other_bytes() -> None:
    run_state_machine_as_test(SegmentMachine, settings=settings(max_examples=300, stateful_step_count=25))
