"""The account of room: grants, what is told of them, and what becomes of those whose holders have died."""

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from dsfs.model.account import STEP, UNBOUNDED, Account, FileSystemRoom, Holder, Purse, Statement
from dsfs.model.allotment import Refusal
from dsfs.model.retention import NOTHING, Amount

A, B = Holder("a", "1"), Holder("b", "1")
EMPTY = Account(1, counted=1, base=NOTHING, since=NOTHING)
WIDE = FileSystemRoom(Amount(2**50, UNBOUNDED), NOTHING)
MIB = 1024 * 1024


def test_grant_is_a_part_of_what_is_left_and_at_least_what_is_wanted() -> None:
    for limit, taken in ((2**40, STEP.size_bytes), (80 * MIB, 10 * MIB), (8 * MIB, 4 * MIB), (4 * MIB, 4 * MIB)):
        assert EMPTY.grant(A, Amount(4 * MIB, 3), limit, WIDE).left_to(A) == Amount(taken, STEP.inodes)


def test_what_others_have_taken_is_left_to_them() -> None:
    account = EMPTY.grant(A, Amount(60, 1), 100, WIDE)
    assert account.total.size_bytes == 60
    assert account.used == NOTHING
    assert account.refusal(Amount(41), 100, WIDE) is Refusal.LIMIT
    assert account.refusal(Amount(40), 100, WIDE) is None


def test_floor_holds_for_bytes_and_inodes_with_what_others_may_still_write() -> None:
    there = FileSystemRoom(Amount(100, 20), Amount(10, 5))
    account = EMPTY.grant(A, Amount(60, 10), 10**6, there)
    assert account.unspent == Amount(60, 10)
    assert account.refusal(Amount(31), 10**6, there) is Refusal.FLOOR
    assert account.refusal(Amount(30, 6), 10**6, there) is Refusal.FLOOR
    assert account.refusal(Amount(30, 5), 10**6, there) is None


def test_what_was_not_used_goes_back() -> None:
    account = EMPTY.grant(A, Amount(60, 1), 100, WIDE).tell(A, Statement(spent=Amount(20, 1)))
    assert account.total == account.used == Amount(20, 1)
    assert account.grants == ()


def test_dead_nodes_keep_their_grant_until_it_is_buried_and_counted_as_written_until_the_next_count() -> None:
    account = EMPTY.grant(A, Amount(60, 1), 100, WIDE).begin_count()
    assert account.has_moved(frozenset("b"))
    assert not account.has_moved(frozenset("ab"))
    buried = account.bury(frozenset("a"))
    assert buried.total == account.total
    assert buried.has_lost("a")
    assert buried.end_count(buried.epoch, Amount(5, 1)).total == Amount(5, 1)


def test_run_of_a_node_that_has_died_is_buried_by_the_next_one() -> None:
    account = EMPTY.grant(A, Amount(60, 1), 100, WIDE)
    again = account.tell(Holder("a", "2"), Statement())
    assert again.total == account.total
    assert again.left_to(A) == NOTHING
    assert again.end_count(1, Amount(7)).total == account.total + Amount(7), "it may have written what was not met"
    assert again.begin_count().end_count(2, Amount(7)).total == Amount(7)


def test_count_of_an_older_epoch_changes_nothing() -> None:
    account = EMPTY.begin_count().begin_count()
    assert account.end_count(account.epoch - 1, Amount(7)) == account


def test_what_is_spent_while_somebody_counts_is_not_lost() -> None:
    account = EMPTY.grant(A, Amount(60, 1), 1000, WIDE).begin_count()
    left = account.left_to(A)
    account = account.tell(A, Statement(1, Amount(10), NOTHING, left - Amount(10)))
    assert account.has_moved(frozenset("a"))
    account = account.tell(A, Statement(1, Amount(20), NOTHING, left - Amount(30)))
    assert account.end_count(account.epoch, Amount(10)).used == Amount(30)


def test_what_is_told_before_the_scan_begins_is_found_by_it_and_does_not_count_twice() -> None:
    account = EMPTY.grant(A, Amount(60, 1), 1000, WIDE).begin_count()
    left = account.left_to(A)
    account = account.tell(A, Statement(1, NOTHING, NOTHING, left))
    account = account.tell(A, Statement(1, Amount(20), NOTHING, left - Amount(20)))
    assert account.begin_scan(account.epoch - 1) == account
    account = account.begin_scan(account.epoch)
    assert account.used == Amount(20)
    account = account.tell(A, Statement(1, Amount(5), NOTHING, left - Amount(25)))
    assert account.end_count(account.epoch, Amount(20)).used == Amount(25)


def test_what_was_removed_before_a_count_ended_is_not_taken_off_what_was_counted() -> None:
    account = replace(EMPTY, base=Amount(50)).begin_count().end_count(2, Amount(40))
    assert account.tell(A, Statement(counted=1, freed=Amount(10))).used == Amount(40)
    assert account.tell(A, Statement(counted=2, freed=Amount(10))).used == Amount(30)
    purse = Purse(freed=Amount(10), counted=1)
    purse.was_told(Statement(counted=1, freed=Amount(4)), A, account)
    assert purse.to_tell() == Statement(counted=2)


def test_grant_that_is_not_known_any_more_is_void_but_for_what_is_being_written() -> None:
    purse = Purse()
    account = EMPTY.grant(A, Amount(80, 1), 100, WIDE)
    purse.was_told(Statement(), A, account)
    assert purse.reserve(Amount(30))
    told = purse.to_tell()
    account = EMPTY.tell(A, told)
    purse.was_told(told, A, account)
    assert account.unspent == purse.unspent == Amount(30)
    assert purse.available == NOTHING


def test_more_than_was_reserved_is_told_all_the_same() -> None:
    purse = Purse()
    purse.was_told(Statement(), A, EMPTY.grant(A, Amount(10), 10, WIDE))
    assert purse.reserve(Amount(10))
    purse.settle(Amount(10), Amount(12, 1))
    assert purse.to_tell().spent == Amount(12, 1)
    assert purse.available.size_bytes == 0


class World:
    """Nodes that fill a directory to its limit, die, free, and are counted meanwhile; chance says what comes next."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.account = EMPTY
        self.limit = chance.randrange(300)
        self.size = Amount(chance.choice((100, 10_000)), chance.choice((12, 1_000)))
        self.floor = Amount(chance.randrange(30), 3)
        self.purses = {Holder(str(number), "0"): Purse() for number in range(3)}
        self.writing: list[tuple[Holder, Amount, Amount | None]] = []  # reserved; written, once it has landed
        self.disk: dict[int, Amount] = {}
        self.number = 0
        self.scan: tuple[int, Amount, list[int]] | None = None  # epoch, sum so far, what is still to be seen

    @property
    def there(self) -> FileSystemRoom:
        return FileSystemRoom(self.size - sum(self.disk.values(), NOTHING), self.floor)

    def amount(self) -> Amount:
        return Amount(self.chance.randrange(40), self.chance.randrange(3))

    def step(self) -> None:
        holder = self.chance.choice(list(self.purses))
        steps = (
            self.exchange, self.reserve, self.land, self.settle, self.die, self.remove, self.begin_count, self.look,
        )  # fmt: skip
        self.chance.choices(steps, (6, 10, 12, 10, 0.5, 1, 0.5, 4))[0](holder, self.purses[holder])
        assert self.account.total.covers(sum(self.disk.values(), NOTHING))
        assert sum(self.disk.values(), NOTHING).size_bytes <= self.limit
        assert self.there.free.covers(self.floor)

    def exchange(self, holder: Holder, purse: Purse) -> None:
        wanted, is_idle = self.amount(), self.chance.random() < 0.2
        if is_idle:
            purse.give_back()
        told = purse.to_tell()
        self.account = self.account.tell(holder, told)
        if not is_idle and self.account.refusal(wanted, self.limit, self.there) is None:
            self.account = self.account.grant(holder, wanted, self.limit, self.there)
        purse.was_told(told, holder, self.account)

    def reserve(self, holder: Holder, purse: Purse) -> None:
        wanted = self.amount()
        if purse.reserve(wanted):
            self.writing.append((holder, wanted, None))

    def land(self, _: Holder, __: Purse) -> None:
        """Some of what was reserved is written."""
        for place, (holder, reserved, written) in enumerate(self.writing):
            if written is None:
                written = self.chance.choice((reserved, NOTHING, replace(reserved, inodes=0)))
                self.writing[place] = holder, reserved, written
                self.number += 1
                self.disk[self.number] = written
                return

    def settle(self, holder: Holder, purse: Purse) -> None:
        for each in self.writing:
            if each[0] == holder and each[2] is not None:
                self.writing.remove(each)
                purse.settle(each[1], each[2])
                return

    def die(self, holder: Holder, _: Purse) -> None:
        """With its books; what it has in its hands is written, or not."""
        self.writing = [each for each in self.writing if each[0] != holder]
        del self.purses[holder]
        self.number += 1
        self.purses[Holder(self.chance.choice((holder.node, f"n{self.number}")), str(self.number))] = Purse()

    def remove(self, _: Holder, purse: Purse) -> None:
        if self.disk:
            purse.freed += self.disk.pop(self.chance.choice(list(self.disk)))

    def begin_count(self, _: Holder, __: Purse) -> None:
        """Also while another one is at it, whose scan has an old epoch then."""
        self.account = self.account.begin_count()

    def look(self, _: Holder, __: Purse) -> None:
        """Begin to look what is there, once all have moved; or look at one more; or end."""
        if self.scan is None:
            alive = frozenset(holder.node for holder in self.purses)
            if self.account.counted < self.account.epoch and self.account.has_moved(alive):
                nodes = frozenset(grant.holder.node for grant in self.account.grants)
                self.account = self.account.bury(nodes - alive).begin_scan(self.account.epoch)
                self.scan = self.account.epoch, NOTHING, list(self.disk)
            return
        epoch, total, left = self.scan
        if not left:
            self.account, self.scan = self.account.end_count(epoch, total), None
            return
        name = left.pop(self.chance.randrange(len(left)))
        self.scan = epoch, total + self.disk.get(name, NOTHING), left


@given(st.integers(0, 2**32))
def test_there_is_never_more_than_the_total_and_the_limit_whoever_does_what(seed: int) -> None:
    world = World(Random(seed))
    for _ in range(300):
        world.step()
