"""The account of room in the backing directory: one small file that all nodes change in turn (model/account.py).

    <backing>/account          see accountfile.py; made anew, by counting what is there, if it is missing or damaged
    <backing>/turns/count      locked by who counts because nobody knows yet what is there
    <backing>/turns/account    locked by who replaces the account file

Where the file system has no locks two changes at once may lose one of them: then a node has a grant that the others do
not see, until the next count.  Who stands still with the lock keeps it, and a dead node does over NFSv3: after STUCK_S
without a sign of life the file is replaced by another one, with the same content and without a lock.

Concurrency: blocking calls, safe to use from several threads at once; `_lock` lets one of them at the file.
"""

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsfs.model.account import Account, Holder
from dsfs.model.blocks import PAGE
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage.accountfile import AccountFile, account_in
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import FileSystem
from dsfs.storage.rangelock import CANNOT_LOCK
from dsfs.storage.taken import names_below, room_now
from dsfs.storage.turn import Turn

log = logging.getLogger(__name__)

ACCOUNT, COUNT = "account", "count"
PATIENCE_S = 3.0  # with others who change it, each for some milliseconds
LEAST_POLL_S, MOST_POLL_S = 0.002, 0.05
STUCK_S = 120.0  # longer than any lease of a server
PAUSE_S = 60.0  # so long after the last look at who has the lock, it may be at another one
OWN = Amount(PAGE)  # the file itself, which is there, and empty
BUSY = "another node is at the account of room"
STOOD_STILL = "this node has stood still at the account of room"
COUNTED_AT_ONCE = 2_000  # files: a second or so, for which the others wait


class SharedAccount:
    """The account file of the backing directory at `path`; `node` tells the id of this node."""

    def __init__(
        self, path: Path, fs: FileSystem, node: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._fs = fs
        self._file = AccountFile(path / ACCOUNT, fs)
        self._lock = threading.Lock()
        self._node = node
        self._run = uuid.uuid4().hex
        self._clock = clock
        self._can_lock = True
        self._counting: tuple[Turn, int] | None = None  # this node does, in that epoch
        # The sign of life of who has the lock, since when it is that, and when that was seen last.
        self._stuck: tuple[int, float, float] | None = None

    @property
    def holder(self) -> Holder:
        """This node, in this run of its daemon."""
        return Holder(self._node(), self._run)

    def look(self) -> Account | None:
        """The account as the server has it now; None if there is none, or it is damaged, or just being changed."""
        reach("account.look")
        with self._using():
            return account_in(self._file.content() or b"")

    def change(self, change: Callable[[Account], Account]) -> Account:
        """Have the account changed by `change`, while nobody else changes it; what it is now.

        NoRoomError if it is not this node's turn soon enough.
        """
        with self._using(), self._turn():
            began_s = self._clock()
            reach("account.locked")
            if (content := self._file.held_content()) is None:
                raise NoRoomError(STOOD_STILL)
            before = account_in(content)
            if before is None and content:
                log.warning("the account of room is damaged: what is in the backing directory is counted anew")
            account = change(before or self._begun())
            if account != before:
                self._file.replace(account)
            self._check_in_time(began_s)
        return account

    def close(self) -> None:
        """Until the next use."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _using(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except OSError:
                self._file.close()  # a lock that was lost is lost with the open file
                raise
            if not self._fs.is_network:  # an open costs nothing there, and a file that is open keeps it writable
                self._file.close()

    def _begun(self) -> Account:
        """An account for what is there: counted at once where that is little."""
        found = count(self._path, COUNTED_AT_ONCE)
        if found is None:
            log.info("the account of room is missing, and what is in the backing directory has to be counted")
            return Account(1, 0, NOTHING, NOTHING)
        return Account(1, 1, found + OWN, NOTHING)

    # ---------------------------------------------------------------- one after the other

    @contextmanager
    def _turn(self) -> Iterator[None]:
        is_ours = self._wait()
        try:
            yield
        finally:
            if is_ours:
                self._file.unlock()

    def _wait(self) -> bool:
        """Until this node has the lock; False if there are no locks."""
        end_s = self._clock() + PATIENCE_S
        delay_s = LEAST_POLL_S
        while not self._has(self._file.try_lock):
            if self._clock() >= end_s:
                if not self._is_stuck():
                    raise NoRoomError(BUSY)
                self._leave_behind()
                end_s = self._clock() + PATIENCE_S
                continue
            time.sleep(delay_s * (0.5 + random.random() / 2))
            delay_s = min(delay_s * 1.5, MOST_POLL_S)
        self._stuck = None
        return self._can_lock

    def _has(self, try_take: Callable[[], bool]) -> bool:
        """Whether nobody else is at it, as far as can be known."""
        try:
            is_ours = try_take()
            self._can_lock = True
            return is_ours
        except OSError as exc:
            if exc.errno not in CANNOT_LOCK:
                raise
            if self._can_lock:
                log.warning("the backing directory has no locks (%s): nodes may fill it beyond backing.limit", exc)
            self._can_lock = False
            return True

    def _is_stuck(self) -> bool:
        """Whether somebody has had the lock for long."""
        sign, now_s = self._file.sign_of_life(), self._clock()
        since_s = now_s
        if self._stuck is not None and self._stuck[0] == sign and now_s - self._stuck[2] <= PAUSE_S:
            since_s = self._stuck[1]
        self._stuck = sign, since_s, now_s
        if now_s - since_s < STUCK_S:
            return False
        log.info("a node has locked the account of room for %.0f s, and is left behind", now_s - since_s)
        return True

    def _leave_behind(self) -> None:
        """Have another file; one node at a time, or the second would take back what was changed behind the first."""
        turn = Turn(self._path / "turns" / ACCOUNT)
        try:
            if not self._has(turn.try_take):
                raise NoRoomError(BUSY)
            self._file.renew()
            self._stuck = None
        finally:
            turn.end()

    def _check_in_time(self, began_s: float) -> None:
        """NoRoomError if this node has stood still for so long that the others have left it behind."""
        if self._clock() - began_s > STUCK_S / 2 and not self._file.is_current():
            raise NoRoomError(STOOD_STILL)

    # ---------------------------------------------------------------- counting

    def count_if_unknown(self) -> Account:
        """Count what is there if nobody has, and nobody does; may take minutes, in which nothing is filled."""
        account = self.look() or self.change(lambda account: account)
        if account.is_counted:
            return account
        turn = Turn(self._path / "turns" / COUNT)
        try:
            if not self._has(turn.try_take):
                return account
            began_s = self._clock()
            account = self.change(lambda account: account)
            if account.is_counted:
                return account
            counted = count(self._path) or NOTHING
            log.info(
                "%d bytes in %d files counted in %.0f s", counted.size_bytes, counted.inodes, self._clock() - began_s
            )
            return self.end_count(account.epoch, counted)
        finally:
            turn.end()

    def count_if_lost(self, account: Account, move: Callable[[], None]) -> bool:
        """Count what is there if this node has died before with a grant, once all nodes have moved into a new epoch.

        To be called now and then until they have, with the account as it is; `move` moves this one.  Whether it was
        counted.  A grant that another node has died with is in the way: who evicts buries it.
        """
        if self._counting is None and account.has_lost(self._node()):
            turn = Turn(self._path / "turns" / COUNT)
            try:
                if self._has(turn.try_take):
                    self._counting = turn, self.begin_count()
            finally:
                if self._counting is None:
                    turn.end()  # else nobody could count until this daemon ends
            if self._counting is not None:
                move()
        if self._counting is None or (now := self.look()) is None:
            return False
        turn, epoch = self._counting
        is_ours = now.epoch == epoch
        if is_ours:
            if not now.has_moved(frozenset(grant.holder.node for grant in now.grants)):
                return False
            self.begin_scan(epoch)
            self.end_count(epoch, count(self._path) or NOTHING)
        self._counting = None
        turn.end()
        return is_ours

    def begin_count(self) -> int:
        """Begin a new epoch, and return it.  From here on it is waited for that all nodes move into it."""
        return self.change(Account.begin_count).epoch

    def has_moved(self, nodes: frozenset[str]) -> bool:
        """Whether all that these nodes spent before the epoch lies there: the scan may begin."""
        account = self.look()
        return account is not None and account.has_moved(nodes)

    def bury(self, nodes: frozenset[str]) -> None:
        """These nodes are dead; to be told before the scan."""
        self.change(lambda account: account.bury(nodes))

    def begin_scan(self, epoch: int) -> None:
        """All nodes have moved into that epoch, and the scan begins now."""
        self.change(lambda account: account.begin_scan(epoch))

    def end_count(self, epoch: int, counted: Amount) -> Account:
        """The scan of that epoch has found so much."""
        return self.change(lambda account: account.end_count(epoch, counted))


def count(folder: Path, most: int | None = None) -> Amount | None:
    """What everything below the folder takes, and itself, as the server has it now; None if that is more than `most`
    files.
    """
    found = room_now(folder)
    for path in names_below(folder):
        with suppress(FileNotFoundError):
            found += room_now(path)
        if most is not None and found.inodes > most:
            return None
    return found
