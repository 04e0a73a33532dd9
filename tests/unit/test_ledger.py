"""Room that was deleted and comes back, late, or never."""

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.ledger import MOST_OWED, Ledger

GIB = 2**30
LIMIT = 100 * GIB
BOUND = int(LIMIT * MOST_OWED)


class Disk:
    """A file system with a ledger beside it; what is deleted comes back unless somebody `keeps` it."""

    def __init__(self, free_bytes: int = 1000 * GIB) -> None:
        self.free, self.used, self.kept = free_bytes, 50 * GIB, 0
        self.ledger = Ledger()
        self.ledger.note(self.free, self.used, 0)

    def round(self, *, filled: int = 0, deleted: int = 0, keeps: bool = False, others: int = 0, late: int = 0) -> int:
        """What is owed then.  `others` take so much; so much of what was filled is `late`: not told yet."""
        self.used += filled - deleted
        self.free += (0 if keeps else deleted) - filled - others
        self.ledger.note(self.free, self.used - late, deleted)
        return self.ledger.owed_bytes


def test_nothing_is_owed_at_first() -> None:
    ledger = Ledger()
    ledger.note(10 * GIB, 5 * GIB, 7 * GIB)  # what was before is not known
    assert ledger.owed_bytes == 0
    assert ledger.may_delete(LIMIT) == BOUND


def test_what_comes_back_at_once_is_not_owed() -> None:
    assert Disk().round(filled=GIB, deleted=4 * GIB) == 0


def test_what_comes_back_late_is_owed_until_then() -> None:
    disk = Disk()
    assert disk.round(deleted=3 * GIB, keeps=True) == 3 * GIB
    assert disk.ledger.may_delete(LIMIT) == BOUND - 3 * GIB
    assert disk.round(others=-2 * GIB) == GIB
    assert disk.round(others=-9 * GIB) == 0


def test_what_others_write_is_owed_by_nobody_and_what_they_delete_pays() -> None:
    disk = Disk()
    assert disk.round(others=5 * GIB) == 0
    assert disk.round(others=4 * GIB, deleted=2 * GIB) == 2 * GIB  # beside a deletion it cannot be told
    assert disk.round(others=-2 * GIB) == 0


def test_room_that_a_snapshot_keeps_stops_deleting_after_a_bounded_amount() -> None:
    disk = Disk()
    total = 0
    for _ in range(100):
        deleted = min(GIB, disk.ledger.may_delete(LIMIT))
        total += deleted
        disk.round(deleted=deleted, keeps=True)
    assert total == BOUND
    disk.round(others=-2 * GIB)  # the snapshot is gone
    assert disk.ledger.may_delete(LIMIT) == 2 * GIB


def test_what_is_larger_than_the_bound_can_go_while_little_is_owed() -> None:
    disk = Disk()
    assert disk.ledger.is_nearly_paid(LIMIT)
    disk.round(deleted=BOUND // 2, keeps=True)
    assert disk.ledger.is_nearly_paid(LIMIT)
    disk.round(deleted=1, keeps=True)
    assert not disk.ledger.is_nearly_paid(LIMIT)


def test_a_new_count_is_no_room_that_is_missing() -> None:
    disk = Disk()
    disk.used -= 3 * GIB  # so much was counted twice until now
    disk.ledger.correct(-3 * GIB)
    assert disk.round(deleted=4 * GIB) == 0
    assert disk.round(deleted=4 * GIB, keeps=True) == 4 * GIB


@given(
    rounds=st.lists(st.tuples(st.integers(0, 4 * GIB), st.integers(0, BOUND), st.integers(0, GIB)), max_size=50),
)
def test_room_that_comes_back_is_never_owed_for_more_than_what_is_told_late(rounds: list[tuple[int, int, int]]) -> None:
    """Nodes tell what they fill a little after they do: that adds up to no more than what is under way."""
    disk = Disk()
    for filled, wish, late in rounds:
        owed = disk.round(filled=filled, deleted=min(wish, disk.ledger.may_delete(LIMIT)), late=late)
        assert 0 <= owed <= GIB
