"""Room in the backing directory: what may be taken, what goes back, and what happens when there is none."""

import errno
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from dsfs.model.errors import NoRoomError
from dsfs.model.nodes import LEASE_S
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage import account
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.room import BUSY_BELIEVED_S, FULL_BELIEVED_S, SMALL_PART, Room
from dsfs.storage.turn import Turn
from tests.engine.backing_sample import Clock, account_of, room_of
from tests.engine.faults import Faults

MIB = 1024 * 1024
WAIT_S = 30
ONE = Amount(1)


def test_what_nodes_tell_each_other_has_room_where_data_has_none(backing: BackingDirectory) -> None:
    room = room_of(backing)
    room.limit_bytes = 64 * MIB
    small = Amount(64 * MIB // SMALL_PART // 2)
    step = Amount(MIB // 32)
    with suppress(NoRoomError):
        while True:
            room.reserve(step)
            room.settle(step, step)
    with pytest.raises(NoRoomError, match="limit is reached"):
        room.reserve(small)
    before = room.used_bytes
    with room.taking(small):
        pass
    assert room.used_bytes == before + small.size_bytes
    with pytest.raises(NoRoomError, match="limit is reached"), room.taking(small + small + small):
        pass
    assert room.used_bytes <= 64 * MIB


def test_what_several_nodes_take_of_the_rest_at_once_is_never_more_than_that(tmp_path: Path) -> None:
    limit = 64 * MIB
    a, b = (room_of(BackingDirectory(tmp_path), limit_bytes=1, node=node) for node in "ab")
    a.limit_bytes = b.limit_bytes = limit
    with suppress(NoRoomError):
        while True:
            a.reserve(Amount(MIB // 32))
            a.settle(Amount(MIB // 32), Amount(MIB // 32))
    a.leave()
    most = Amount(limit // SMALL_PART * 3 // 4)
    with a.taking(most):
        with pytest.raises(NoRoomError, match="limit is reached"), b.taking(most):
            pass
        with b.taking(Amount(limit // SMALL_PART // 8)):
            assert account_of(a).total.size_bytes <= limit
    assert account_of(a).total.size_bytes <= limit


def test_what_is_only_asked_for_is_in_the_way_of_nobody(backing: BackingDirectory) -> None:
    """Who asks for more is refused while this one has its part; this one never is."""
    room, part = room_of(backing), Amount(30 * MIB)
    room.limit_bytes = 64 * MIB
    room.check(part)
    is_over, interval = threading.Event(), sys.getswitchinterval()

    def ask() -> None:
        while not is_over.is_set():
            with suppress(NoRoomError):
                room.check(Amount(40 * MIB))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as others:
            asking = others.submit(ask)
            try:
                for _ in range(2_000):
                    room.reserve(part)
                    room.settle(part)
            finally:
                is_over.set()
            asking.result(WAIT_S)
    finally:
        sys.setswitchinterval(interval)


def test_reservations_are_held_against_the_limit(backing: BackingDirectory, clock: Clock) -> None:
    room = room_of(backing, limit_bytes=100, clock=clock)
    before = room.used_bytes
    room.reserve(Amount(60))
    with pytest.raises(NoRoomError, match=r"backing\.limit is reached"):
        room.reserve(Amount(41))
    room.reserve(Amount(40))
    room.settle(Amount(60), Amount(60))
    assert room.used_bytes == before + 60
    with pytest.raises(NoRoomError):
        room.reserve(ONE)
    room.settle(Amount(40))  # that one was not written
    room.reserve(Amount(40))
    room.freed(Amount(60))
    room.reserve(Amount(60))
    assert room.used_bytes == before


def test_limit_is_that_of_all_nodes_together(tmp_path: Path, clock: Clock) -> None:
    a = room_of(BackingDirectory(tmp_path), limit_bytes=100)
    b = room_of(BackingDirectory(tmp_path), clock=clock, node="b")
    b.limit_bytes = a.limit_bytes
    a.reserve(Amount(60))
    with pytest.raises(NoRoomError, match=r"backing\.limit is reached"):
        b.reserve(Amount(41))
    b.reserve(Amount(30))
    a.settle(Amount(60), Amount(20))
    a.leave()
    assert b.used_bytes == a.used_bytes - 20, "it has not looked yet"
    clock.now_s += 2
    b.reserve(Amount(50))
    assert b.used_bytes == a.used_bytes


def test_node_that_is_refused_again_asks_less_often(
    backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_of(backing, limit_bytes=100, clock=clock)
    faults = Faults(monkeypatch)
    for _ in range(60):
        with pytest.raises(NoRoomError):
            room.reserve(Amount(101))
        clock.now_s += 1
    assert 8 <= faults.reached.count("rangelock.lock") <= 12
    room.freed(Amount(MIB))  # somebody drops a version
    room.reserve(Amount(101))


def test_refusals_of_less_and_less_at_one_moment_are_believed_as_long_as_one(
    backing: BackingDirectory, clock: Clock
) -> None:
    room = room_of(backing, limit_bytes=100, clock=clock)
    for wanted in (400, 300, 200, 150):
        with pytest.raises(NoRoomError):
            room.reserve(Amount(wanted))
    room.limit_bytes = 64 * MIB
    clock.now_s += 2 * FULL_BELIEVED_S + 0.1
    room.reserve(Amount(150))


def test_node_that_does_not_leave_the_account_is_waited_for_now_and_then_only(
    tmp_path: Path, backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "PATIENCE_S", 0.0)
    room = room_of(backing, limit_bytes=100, clock=clock)
    room.reserve(Amount(1))
    other = Turn(tmp_path / "account")
    assert other.try_take()
    faults = Faults(monkeypatch)
    for _ in range(60):
        with pytest.raises(NoRoomError, match="another node is at the account"):
            room.reserve(Amount(90))
        clock.now_s += 1
    assert 7 <= faults.reached.count("rangelock.lock") <= 8
    assert room.why_not_filling() == "another node is at the account of room"
    room.reserve(Amount(1))  # what is left of the grant
    other.end()
    clock.now_s += BUSY_BELIEVED_S
    room.reserve(Amount(90))
    assert room.why_not_filling() == ""


def test_account_that_is_free_again_is_no_reason_any_more_also_where_nobody_reads(
    tmp_path: Path, backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "PATIENCE_S", 0.0)
    room = room_of(backing, limit_bytes=100, clock=clock)
    other = Turn(tmp_path / "account")
    assert other.try_take()
    with pytest.raises(NoRoomError, match="another node is at the account"):
        room.reserve(ONE)
    with pytest.raises(NoRoomError, match="another node is at the account"):
        room.keep()
    assert room.why_not_filling() == "another node is at the account of room"
    other.end()
    room.keep()
    assert room.why_not_filling() == ""


def test_what_is_idle_goes_back_and_what_is_being_written_stays(backing: BackingDirectory, clock: Clock) -> None:
    room = room_of(backing, clock=clock)
    room.reserve(Amount(10))
    room.keep()
    assert granted(room) > 10
    clock.now_s += 61
    room.keep()
    assert granted(room) == 10
    room.settle(Amount(10))
    room.leave()
    assert granted(room) == 0


def test_node_that_stood_still_does_not_spend_what_may_be_another_one_s_by_now(tmp_path: Path, clock: Clock) -> None:
    room = room_of(BackingDirectory(tmp_path), clock=clock)
    room.reserve(ONE)
    clock.now_s += LEASE_S
    other = room_of(BackingDirectory(tmp_path), node="b").account
    epoch = other.begin_count()
    other.bury(frozenset("a"))
    other.end_count(epoch, NOTHING)
    room.limit_bytes = 0
    with pytest.raises(NoRoomError):
        room.reserve(ONE)


def granted(room: Room) -> int:
    return account_of(room).unspent.size_bytes


def test_grant_costs_no_request_as_long_as_it_lasts_and_the_next_comes_before_its_end(
    backing: BackingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = room_of(backing, limit_bytes=80 * MIB)  # the first grant is 10 MiB less the small part
    faults = Faults(monkeypatch)
    for _ in range(7):
        room.reserve(Amount(MIB))
    assert faults.reached.count("account.write") == 1
    room.reserve(Amount(MIB))
    assert faults.reached.count("account.write") == 2


def test_reservations_are_held_against_the_floor(
    backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = give_statvfs(monkeypatch, total=1000, free=500)
    room = room_of(backing, floor_bytes=300, clock=clock)
    room.reserve(Amount(150))
    with pytest.raises(NoRoomError, match=r"below backing\.floor"):
        room.reserve(Amount(51))
    room.settle(Amount(150), Amount(150))  # the free space that was measured before it is less by that
    free[0] = 350
    with pytest.raises(NoRoomError):
        room.reserve(Amount(51))
    room.reserve(Amount(50))
    room.settle(Amount(50))
    free[0] = 900
    with pytest.raises(NoRoomError):
        room.reserve(Amount(51))  # measured a moment ago
    clock.now_s += 2
    room.reserve(Amount(600))
    assert room.space() == (1000, 900, 300)


def test_file_system_that_others_have_filled_is_why_nothing_is_filled_also_with_a_grant(
    backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = give_statvfs(monkeypatch, total=1000, free=900)
    room = room_of(backing, floor_bytes=300, clock=clock)
    room.reserve(Amount(100))
    room.settle(Amount(100))
    assert granted(room) >= 100
    assert room.why_not_filling() == ""
    free[0] = 200
    clock.now_s += 2
    assert room.why_not_filling() == "free space would fall below backing.floor"
    free[0] = 900
    clock.now_s += 2
    assert room.why_not_filling() == ""


def test_floor_is_that_of_all_nodes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_statvfs(monkeypatch, total=1000, free=500)
    a = room_of(BackingDirectory(tmp_path), floor_bytes=300)
    b = room_of(BackingDirectory(tmp_path), floor_bytes=300, node="b")
    a.reserve(Amount(150))
    with pytest.raises(NoRoomError, match=r"below backing\.floor"):
        b.reserve(Amount(51))
    b.reserve(Amount(50))


def test_inodes_are_kept_free_in_the_same_proportion(
    backing: BackingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_statvfs(monkeypatch, total=1000, free=1000, inodes=100, free_inodes=40)
    room = room_of(backing, floor_bytes=300)
    room.reserve(Amount(1, 10))
    with pytest.raises(NoRoomError, match=r"below backing\.floor"):
        room.reserve(Amount(1, 1))


def test_space_that_was_freed_counts_at_once(backing: BackingDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    free = give_statvfs(monkeypatch, total=1000, free=0)
    room = room_of(backing)
    with pytest.raises(NoRoomError):
        room.reserve(ONE)
    free[0] = 100
    room.freed(Amount(100))
    room.reserve(Amount(100))


def give_statvfs(
    monkeypatch: pytest.MonkeyPatch, total: int, free: int, inodes: int = 0, free_inodes: int = 0
) -> list[int]:
    left = [free]

    def statvfs(path: Path) -> os.statvfs_result:
        return os.statvfs_result((1, 1, total, 0, left[0], inodes, free_inodes, free_inodes, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    return left


def test_concurrent_reservations_never_take_more_than_there_is(backing: BackingDirectory) -> None:
    limit = 10_000
    room = room_of(backing, limit_bytes=limit)
    barrier = threading.Barrier(8)
    taken: list[int] = []

    def take(size: int) -> None:
        barrier.wait(WAIT_S)
        while True:
            try:
                room.reserve(Amount(size))
            except NoRoomError:
                return
            taken.append(size)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(take, size) for size in (1, 2, 3, 5, 7, 11, 13, 17)]:
            future.result(WAIT_S)
    assert sum(taken) == limit


def test_books_are_kept_while_the_file_system_does_not_answer(
    backing: BackingDirectory, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trio thread keeps them: it must not wait for a server that is gone."""
    room = room_of(backing, clock=clock)
    before = room.used_bytes
    clock.now_s += 2
    gate = Faults(monkeypatch).hold("backing.statvfs")
    with ThreadPoolExecutor(1) as pool:
        reservation = pool.submit(room.reserve, Amount(10))
        assert gate.reached.wait(WAIT_S)
        room.settle(NOTHING, Amount(5))
        room.not_filled(3)
        room.succeeded()
        room.failed(OSError(errno.EIO, "sick"))
        assert not reservation.done()
        gate.open()
        reservation.result(WAIT_S)
    assert (room.used_bytes - before, room.unfilled_bytes) == (5, 3)
