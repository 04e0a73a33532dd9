"""Room that was deleted and comes back, late, or never."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.ledger import FIRST_WAIT_S, MOST_OWED, MOST_WAIT_S, TRIED, Ledger

GIB = 2**30
LIMIT = 100 * GIB
BOUND = int(LIMIT * MOST_OWED)
TRY = int(BOUND * TRIED)
ROUND_S = 30.0


class Disk:
    """A file system with a ledger beside it; what is deleted comes back unless somebody `keeps` it."""

    def __init__(self, free_bytes: int = 1000 * GIB) -> None:
        self.free, self.used, self.now_s = free_bytes, 50 * GIB, 1000.0
        self.ledger = Ledger()
        self.ledger.note(self.now_s, self.free, self.used, 0)

    def round(
        self,
        *,
        filled: int = 0,
        deleted: int = 0,
        keeps: bool = False,
        others: int = 0,
        late: int = 0,
        after_s: float = ROUND_S,
    ) -> int:
        """What is owed then.  `others` take so much; so much of what was filled is `late`: not told yet."""
        self.now_s += after_s
        self.used += filled - deleted
        self.free += (0 if keeps else deleted) - filled - others
        self.ledger.note(self.now_s, self.free, self.used - late, deleted)
        return self.ledger.owed_bytes

    def delete(self, seconds: float, *, keeps: bool = False, others: int = 0) -> list[tuple[float, int]]:
        """What is deleted, and when, in rounds that delete as much as they may; `others` take so much in each."""
        began_s, found = self.now_s, []
        while self.now_s - began_s < seconds:
            may = min(GIB, self.ledger.may_delete(LIMIT))
            if may:
                found.append((self.now_s - began_s, may))
            self.round(deleted=may, keeps=keeps, others=others)
        return found


def test_nothing_is_owed_at_first() -> None:
    ledger = Ledger()
    ledger.note(0.0, 10 * GIB, 5 * GIB, 7 * GIB)  # what was before is not known
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
    assert sum(size for _, size in disk.delete(FIRST_WAIT_S - ROUND_S, keeps=True)) == BOUND
    disk.round(others=-2 * GIB)  # the snapshot is gone
    assert disk.ledger.may_delete(LIMIT) == 2 * GIB


def test_now_and_then_a_little_is_tried_and_for_a_snapshot_ever_more_seldom() -> None:
    disk = Disk()
    disk.delete(FIRST_WAIT_S - ROUND_S, keeps=True)
    tries = disk.delete(14 * 86_400, keeps=True)  # as long as ONTAP keeps its snapshots
    assert {size for _, size in tries} == {TRY}
    waits = [after - before for (before, _), (after, _) in itertools.pairwise(tries)]
    assert waits == sorted(waits)
    assert waits[0] == 2 * FIRST_WAIT_S
    assert waits[-1] == MOST_WAIT_S
    assert len(tries) == 19  # with what is owed at first, a sixth of the limit
    assert sum(size for _, size in disk.delete(2 * MOST_WAIT_S)) > 100 * BOUND  # it is gone: all is well from then on


def test_what_others_write_stops_deleting_for_a_while_at_most() -> None:
    disk = Disk(10**9 * GIB)
    deleted = disk.delete(10 * FIRST_WAIT_S, others=GIB // 3)
    assert sum(size for _, size in deleted) > 5 * FIRST_WAIT_S / ROUND_S * GIB / 3
    assert max(after - before for (before, _), (after, _) in itertools.pairwise(deleted)) < FIRST_WAIT_S


def test_who_takes_over_goes_on_with_what_is_owed() -> None:
    disk = Disk()
    disk.ledger.take_over(BOUND)
    assert disk.ledger.may_delete(LIMIT) == 0
    assert disk.round(others=-2 * GIB) == BOUND - 2 * GIB
    disk.ledger.take_over(BOUND)
    assert {size for _, size in disk.delete(4 * FIRST_WAIT_S, keeps=True)} == {TRY}


def test_what_is_larger_than_the_bound_can_go_while_little_is_owed_or_to_try() -> None:
    disk = Disk()
    assert disk.ledger.may_exceed(LIMIT)
    disk.round(deleted=BOUND // 2, keeps=True)
    assert disk.ledger.may_exceed(LIMIT)
    disk.round(deleted=1, keeps=True)
    assert not disk.ledger.may_exceed(LIMIT)
    disk.round(after_s=FIRST_WAIT_S)
    assert disk.ledger.may_exceed(LIMIT)
    disk.round(deleted=2 * BOUND, keeps=True)
    assert not disk.ledger.may_exceed(LIMIT)


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


@given(
    rounds=st.lists(st.tuples(st.floats(1, MOST_WAIT_S), st.integers(0, 2 * GIB), st.integers(-GIB, GIB)), max_size=60),
)
def test_where_nothing_comes_back_each_try_takes_no_more_than_its_part(rounds: list[tuple[float, int, int]]) -> None:
    """Whatever others write and delete, which pays."""
    disk = Disk()
    deleted = paid = tries = 0
    for after_s, wish, others in rounds:
        size = min(wish, disk.ledger.may_delete(LIMIT))
        was_trying = disk.ledger.is_trying
        disk.round(deleted=size, keeps=True, others=others, after_s=after_s)
        deleted += size
        paid += max(0, -others)
        tries += was_trying
        assert deleted <= BOUND + 2 * paid + tries * TRY


def test_what_others_tell_of_in_between_is_no_reason_to_try_again_sooner() -> None:
    ledger, used_bytes, deleted_bytes = Ledger(), 900_000, 0
    for number in range(400):  # of 30 s each; a snapshot holds all that is deleted
        ledger.take_over(ledger.owed_bytes)
        ledger.note(30.0 * number, 0, used_bytes, deleted_bytes)
        deleted_bytes = ledger.may_delete(1_000_000)
        used_bytes -= deleted_bytes
    assert used_bytes >= 820_000
