"""Whatever nodes do in between, the sums that the census keeps are those of a plain recount."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dsfs.model.retention import NOTHING
from dsfs.storage.trash import Trash
from tests.rig.censused import Place, held_in, identity, ids

NUMBERS = st.integers(0, 7)
KEYS = st.sampled_from([("photos", f"v{version}", name * 20) for version in (1, 2) for name in ("aa", "bb")])


class Nodes(RuleBasedStateMachine):
    """Some fill, seal, drop and list; one counts, perhaps not all in a round, and notes what it does itself."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.place = Place(Path(self._folder.name, "state"), Path(self._folder.name, "backing"))
        self.trash = Trash(self.place.backing)
        self.stamp_ns = 1
        self.is_counted = False

    def teardown(self) -> None:
        self.place.census.close()
        self._folder.cleanup()

    @initialize(numbers=st.lists(st.sets(NUMBERS, min_size=2), min_size=2, max_size=2))
    def begin(self, numbers: list[set[int]]) -> None:
        for name, found in zip(("aa", "bb"), numbers, strict=True):
            self.list_version(("photos", "v1", name * 20), found)
        self.count(1.0)

    @rule(number=NUMBERS, pages=st.integers(1, 5))
    def seal(self, number: int, pages: int) -> None:
        if not self.place.path(number).exists():
            self.place.seal(number, pages)
        self.is_counted = False

    @rule(number=NUMBERS, pages=st.integers(1, 5))
    def fill(self, number: int, pages: int) -> None:
        if not self.place.path(number).exists():
            self.place.fill(number, pages)
        self.is_counted = False

    @rule(number=NUMBERS)
    def drop(self, number: int) -> None:
        self.place.drop(number)
        self.is_counted = False

    @rule(number=NUMBERS)
    def hide(self, number: int) -> None:
        self.stamp_ns += 1
        self.trash.hide(identity(number), self.stamp_ns)
        self.is_counted = False

    @rule(numbers=st.sets(NUMBERS, min_size=1))
    def hide_and_note(self, numbers: set[int]) -> None:
        """By the node that counts: then there is nothing to be counted."""
        self.stamp_ns += 1
        with self.place.census.noting(self.place.now_ns) as notes:
            for number in numbers:
                notes.hidden(identity(number), self.trash.hide(identity(number), self.stamp_ns))

    @rule(key=KEYS, numbers=st.sets(NUMBERS, min_size=1))
    def list_version(self, key: tuple[str, str, str], numbers: set[int]) -> None:
        if not self.place.backing.generations.joinpath(*key).exists():  # the same name is the same list
            self.place.place(key, sorted(numbers))
        self.is_counted = False

    @rule(key=KEYS)
    def hide_generation(self, key: tuple[str, str, str]) -> None:
        self.stamp_ns += 1
        self.trash.hide_generation(key, self.stamp_ns)
        self.is_counted = False

    @rule()
    def delete_trash(self) -> None:
        for trashed in self.place.census.trash():
            assert self.trash.delete(trashed.name) in (trashed.taken, NOTHING)
        self.is_counted = False

    @rule()
    def delete_trash_and_note(self) -> None:
        with self.place.census.noting(self.place.now_ns) as notes:
            for trashed in self.place.census.trash():
                self.trash.delete(trashed.name)
                notes.deleted(trashed.name)

    @precondition(lambda self: not self.is_counted)
    @rule(hours=st.sampled_from([0.001, 1.5, 25]))
    def count(self, hours: float) -> None:
        assert self.place.scan(hours=hours).since_ns == self.place.now_ns
        self.is_counted = True

    @rule(most=st.integers(1, 20))
    def count_some(self, most: int) -> None:
        self.place.scan(most_entries=most)
        self.is_counted = False

    @rule()
    def restart(self) -> None:
        self.place.reopen()

    @precondition(lambda self: self.is_counted)
    @invariant()
    def is_right(self) -> None:
        self.place.assert_right()
        owned = {name for segments in held_in(self.place.backing.path).values() for name in segments}
        assert owned.isdisjoint(ids(self.place.census.orphans()))


def test_census_is_right_whatever_nodes_do() -> None:
    run_state_machine_as_test(Nodes, settings=settings(max_examples=100, stateful_step_count=30, deadline=None))
