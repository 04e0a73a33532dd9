"""The account of room as a file that several nodes share: real processes that fill, die, and find it damaged."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from dsfs.model.account import UNBOUNDED, Account, FileSystemRoom, Holder, Statement
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage import account as account_file
from dsfs.storage.account import OWN, STUCK_S, SharedAccount, count
from dsfs.storage.accountfile import AccountFile
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.filesystem import file_system_of
from dsfs.storage.room import Room
from dsfs.storage.turn import Turn
from tests.engine.backing_sample import Clock, counted, room_of
from tests.engine.faults import Faults
from tests.rig.background import in_background
from tests.rig.filler import HURRIED_S, FillingNode, allocated_below, fill_up
from tests.rig.frozen import is_frozen
from tests.rig.wait import wait_until

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024
WAIT_S = 60
LIMIT = 24 * MIB
WIDE = FileSystemRoom(Amount(2**50, UNBOUNDED), NOTHING)


def shared(path: Path, node: str = "a", clock: Clock | None = None) -> SharedAccount:
    return SharedAccount(path, file_system_of(path), lambda: node, *([clock] if clock else []))


def looked(path: Path) -> Account:
    account = shared(path)
    found = account.look()
    account.close()
    assert found is not None
    return found


@contextmanager
def filler(
    path: Path, node: str, *words: str, env: Mapping[str, str] | None = None
) -> "Iterator[subprocess.Popen[str]]":
    """A process that fills as that node."""
    command = [sys.executable, "-m", "tests.rig.filler", str(path), node, str(LIMIT), *words]
    environment = {**os.environ, **(env or {})}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def die_with_grant(path: Path, node: str) -> None:
    """A node that is killed behind its first segment, with what is left of its grant."""
    with filler(path, node, "stop") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "filled\n"


def take(account: SharedAccount) -> Account:
    """A grant of a mebibyte."""
    return account.change(lambda found: found.grant(account.holder, Amount(MIB), LIMIT, WIDE))


# ---------------------------------------------------------------- several nodes


def test_nodes_that_fill_at_once_never_exceed_the_limit_and_use_it(tmp_path: Path) -> None:
    BackingDirectory(tmp_path)
    most = 0
    with ExitStack() as stack:
        running = [stack.enter_context(filler(tmp_path, node)) for node in "abc"]
        while any(process.poll() is None for process in running):
            most = max(most, allocated_below(tmp_path))
        assert [process.returncode for process in running] == [0, 0, 0]
    assert 0.9 * LIMIT < most <= LIMIT
    account = looked(tmp_path)
    assert account.grants == ()
    assert account.used.covers(counted(tmp_path))
    assert account.used.size_bytes - counted(tmp_path).size_bytes < LIMIT / 100


def test_grant_of_a_node_that_was_killed_is_kept_until_it_is_buried_and_counted(tmp_path: Path) -> None:
    die_with_grant(tmp_path, "a")
    before = looked(tmp_path)
    lost = before.unspent.size_bytes
    assert lost > MIB
    fill_up(tmp_path, "b", LIMIT)
    assert looked(tmp_path).unspent == before.unspent
    assert counted(tmp_path).size_bytes < LIMIT - lost / 2
    account = shared(tmp_path, "b")
    epoch = account.begin_count()
    assert account.has_moved(frozenset("b"))
    assert not account.has_moved(frozenset("a"))
    account.bury(frozenset("a"))
    account.end_count(epoch, counted(tmp_path))
    fill_up(tmp_path, "c", LIMIT)
    assert 0.9 * LIMIT < counted(tmp_path).size_bytes <= LIMIT


def test_next_run_of_a_node_buries_the_one_before_and_counts(tmp_path: Path) -> None:
    die_with_grant(tmp_path, "a")
    before = looked(tmp_path)
    b = FillingNode(tmp_path, "b", LIMIT)
    b.fill_segment()
    a = FillingNode(tmp_path, "a", LIMIT)
    assert looked(tmp_path).total.covers(before.total)
    assert looked(tmp_path).has_lost("a"), "b has not moved yet"
    b.room.keep()
    a.room.keep()
    assert not looked(tmp_path).has_lost("a")
    assert a.room.used_bytes == counted(tmp_path).size_bytes


def test_count_that_could_not_begin_is_in_the_way_of_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die_with_grant(tmp_path, "a")
    account = shared(tmp_path, "a")

    def move() -> None:
        account.change(lambda found: found.tell(account.holder, Statement()))

    move()
    lost = looked(tmp_path)
    assert lost.has_lost("a")
    Faults(monkeypatch).fail("account.locked", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        account.count_if_lost(lost, move)
    turn = Turn(tmp_path / "turns" / "count")
    assert turn.try_take()
    turn.end()
    assert account.count_if_lost(lost, move)
    assert not looked(tmp_path).has_lost("a")
    account.close()


# ---------------------------------------------------------------- missing, damaged


def test_empty_directory_is_counted_at_once(tmp_path: Path) -> None:
    BackingDirectory(tmp_path)
    found = counted(tmp_path) + Amount(0, 1)  # with the lock's file
    assert shared(tmp_path).count_if_unknown() == Account(1, 1, found + OWN, NOTHING)


@pytest.mark.parametrize("content", [b"", b"{", b'{"format":1,"epoch":1', bytes(4096), b"x" * 2**21])
@pytest.mark.expects_log("the account of room is damaged")
def test_damaged_account_is_made_anew_by_counting(tmp_path: Path, content: bytes) -> None:
    filling = FillingNode(tmp_path, "a", LIMIT)
    filling.fill_segment()
    filling.room.leave()
    before = looked(tmp_path)
    (tmp_path / "account").write_bytes(content)
    room = room_of(BackingDirectory(tmp_path), node="b")
    room.reserve(Amount(10))
    room.leave()
    used = looked(tmp_path).used
    assert used.covers(counted(tmp_path))
    assert abs(used.size_bytes - before.used.size_bytes) <= 2 * OWN.size_bytes + max(0, len(content) - 4096)


def test_nothing_is_filled_before_much_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = FillingNode(tmp_path, "a", LIMIT)
    filling.fill_segment()
    (tmp_path / "account").unlink()
    monkeypatch.setattr(account_file, "COUNTED_AT_ONCE", 3)
    faults = Faults(monkeypatch)
    faults.fail("file.allocated", errno.EIO, times=1_000)  # whoever counts cannot
    b = Room(BackingDirectory(tmp_path), shared(tmp_path, "b"), LIMIT, lambda total: 0, Clock())
    with pytest.raises(OSError, match="Input/output"):
        b.keep()
    faults.fail("file.allocated", errno.EIO, times=0)
    b.account.change(lambda account: account)
    with pytest.raises(NoRoomError, match="has to be counted first"):
        b.reserve(Amount(10))
    assert b.why_not_filling() == "what is in the backing directory has to be counted first"
    b.keep()
    assert looked(tmp_path).used.covers(counted(tmp_path))
    b.freed(NOTHING)
    assert b.why_not_filling() == ""


def test_grant_is_void_when_somebody_has_counted_anew(tmp_path: Path) -> None:
    a = FillingNode(tmp_path, "a", LIMIT)
    a.fill_segment()
    (tmp_path / "account").unlink()
    FillingNode(tmp_path, "b", LIMIT)
    a.room.keep()
    account = looked(tmp_path)
    assert account.grants == ()
    assert account.used.covers(counted(tmp_path))


def test_exchange_that_fails_on_the_way_back_loses_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account was written, and the node does not know."""
    room = room_of(BackingDirectory(tmp_path), limit_bytes=80 * MIB)
    account, change = room.account, room.account.change

    def breaks(work: Callable[[Account], Account]) -> Account:
        change(work)
        raise OSError(errno.EIO, "sick")

    monkeypatch.setattr(account, "change", breaks)
    with pytest.raises(NoRoomError):
        room.reserve(Amount(MIB))
    monkeypatch.undo()
    assert looked(tmp_path).unspent.size_bytes > MIB
    room.leave()
    assert looked(tmp_path).grants == ()


# ---------------------------------------------------------------- one after the other


def test_who_cannot_have_its_turn_in_time_fills_nothing_and_a_lock_of_the_dead_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_file, "PATIENCE_S", 0.0)
    clock = Clock()
    BackingDirectory(tmp_path)
    other = Turn(tmp_path / "account")
    assert other.try_take()
    account, work = shared(tmp_path, clock=clock), lambda found: found.tell(Holder("a", "1"), Statement())

    def refused_for(step_s: float, sign: int) -> None:
        os.utime(tmp_path / "account", ns=(sign, sign))
        with pytest.raises(NoRoomError, match="another node is at the account"):
            account.change(work)
        clock.now_s += step_s

    for sign in (1, 2, 3, 4):  # it lives
        refused_for(STUCK_S / 2, sign)
    for step_s in (STUCK_S, STUCK_S / 2, STUCK_S / 2):  # whether it was the same for so long is not known
        refused_for(step_s, 5)
    for _ in range(2):
        assert account.change(work).is_counted
    other.end()


def test_node_that_is_frozen_with_the_lock_is_left_behind_and_takes_nothing_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_file, "PATIENCE_S", 0.0)
    monkeypatch.setattr(account_file, "STUCK_S", HURRIED_S)
    with filler(tmp_path, "a", "hurried", env={"DSFS_FREEZE_AT": "account.write:2"}) as frozen:  # at its first grant
        wait_until(lambda: is_frozen(frozen.pid), WAIT_S, "a node that stands still")
        account = shared(tmp_path, "b")

        def is_left_behind() -> bool:
            with suppress(NoRoomError):
                take(account)
                return True
            return False

        wait_until(is_left_behind, WAIT_S, "the account of room")
        granted, other = take(account), account.holder  # the next ones need not wait
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait(WAIT_S) == 0
    assert looked(tmp_path).left_to(other) == granted.left_to(other)
    assert counted(tmp_path).size_bytes + granted.left_to(other).size_bytes <= LIMIT
    account.close()


def test_node_that_stood_still_before_it_read_does_not_change_what_it_has_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    BackingDirectory(tmp_path)
    a, b = (shared(tmp_path, node) for node in "ab")

    take(b)
    gate = Faults(monkeypatch).hold("account.locked")
    taken = in_background(lambda: take(a))
    assert gate.reached.wait(WAIT_S)
    other = AccountFile(tmp_path / "account", file_system_of(tmp_path))
    other.content()
    other.renew()
    gate.open()
    with pytest.raises(NoRoomError, match="stood still"):
        taken.result(WAIT_S)
    assert looked(tmp_path).nodes == {"b"}
    assert take(a).nodes == {"a", "b"}
    for account in (a, b):
        account.close()


def test_two_nodes_that_leave_a_third_behind_at_once_lose_no_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_file, "PATIENCE_S", 0.0)
    clock = Clock()
    BackingDirectory(tmp_path)
    a, b = (shared(tmp_path, node, clock=clock) for node in "ab")
    a.change(lambda found: found)
    stuck = Turn(tmp_path / "account")
    assert stuck.try_take()

    for _ in range(2):
        for account in (a, b):
            with pytest.raises(NoRoomError):
                take(account)
        clock.now_s += STUCK_S / 2
    gate = Faults(monkeypatch).hold("account.renew")
    taken = in_background(lambda: take(a))
    assert gate.reached.wait(WAIT_S)
    with pytest.raises(NoRoomError):
        take(b)
    gate.open()
    taken.result(WAIT_S)
    both = take(b)
    assert {grant.holder for grant in both.grants} == {a.holder, b.holder}
    for closed in (stuck.end, a.close, b.close):
        closed()


@pytest.mark.expects_log("has no locks")
def test_without_locks_it_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    BackingDirectory(tmp_path)
    Faults(monkeypatch).fail("rangelock.lock", errno.ENOLCK, times=100)
    room = room_of(BackingDirectory(tmp_path))
    for _ in range(3):
        room.reserve(Amount(10))
        room.leave()
    assert sum("has no locks" in record.message for record in caplog.records) == 1


# ---------------------------------------------------------------- counting


def test_count_takes_in_everything_but_what_the_file_system_shows_of_its_past(tmp_path: Path) -> None:
    BackingDirectory(tmp_path)
    before = counted(tmp_path)
    (tmp_path / ".snapshot").mkdir()
    (tmp_path / ".snapshot" / "old").write_bytes(bytes(MIB))
    assert counted(tmp_path) == before
    (tmp_path / "segments" / ".nfs0001").write_bytes(bytes(MIB))
    assert counted(tmp_path) == before + Amount(MIB, 1)
    assert count(tmp_path, most=3) is None
