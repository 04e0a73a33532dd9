"""The account of room in the backing directory: one small file that all nodes change in turn (model/account.py).

    <backing>/account          replaced as a whole; made anew, by counting what is there, if it is missing or damaged
    <backing>/turns/account    locked by who changes it
    <backing>/turns/count      locked by who counts because nobody knows yet what is there

Where the file system has no locks two changes at once may lose one of them: then a node has a grant that the others do
not see, until the next count.  Who dies with the lock over NFSv3 keeps it until its node is back: after STUCK_S without
a sign of life it is passed over.

Concurrency: blocking calls, safe to use from several threads at once.
"""

import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsfs.model.account import MOST_BYTES, Account, Holder
from dsfs.model.blocks import PAGE
from dsfs.model.document import decode, encode
from dsfs.model.errors import NoRoomError
from dsfs.model.retention import NOTHING, Amount
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, FileSystem, allocated, bytes_of, refresh_names, replace_direct
from dsfs.storage.rangelock import CANNOT_LOCK
from dsfs.storage.turn import Turn

log = logging.getLogger(__name__)

ACCOUNT, COUNT = "account", "count"
FORMAT = 1
PATIENCE_S = 3.0  # with others who change it, each for some milliseconds
LEAST_POLL_S, MOST_POLL_S = 0.002, 0.05
STUCK_S = 120.0  # longer than any lease of a server
OWN = Amount(2 * PAGE, 2)  # the file itself, and what is about to take its place
COUNTED_AT_ONCE = 2_000  # files: a second or so, for which the others wait


class SharedAccount:
    """The account file of the backing directory at `path`; `node` tells the id of this node."""

    def __init__(
        self, path: Path, fs: FileSystem, node: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._fs = fs
        self._node = node
        self._run = uuid.uuid4().hex
        self._clock = clock
        self._can_lock = True
        self._counting: tuple[Turn, int] | None = None  # this node does, in that epoch
        self._stuck: tuple[int, float] | None = None  # the sign of life of who has the lock, and since when it is that

    @property
    def holder(self) -> Holder:
        """This node, in this run of its daemon."""
        return Holder(self._node(), self._run)

    def look(self) -> Account | None:
        """The account as the server has it now; None if there is none, or it is damaged."""
        reach("account.look")
        return _account_in(self._content())

    def change(self, change: Callable[[Account], Account]) -> Account:
        """Have the account changed by `change`, while nobody else changes it; what it is now.

        NoRoomError if it is not this node's turn soon enough.
        """
        with self._turn():
            content = self._content()
            before = _account_in(content)
            if before is None and content:
                log.warning("the account of room is damaged: what is in the backing directory is counted anew")
            account = change(before or self._begun())
            if account != before:
                reach("account.write")
                replace_direct(self._path / ACCOUNT, encode(account, FORMAT))
        return account

    def _content(self) -> bytes:
        refresh_names(self._path, self._fs)
        for _ in range(2):  # over NFSv3 a file that is replaced in between is gone
            with suppress(FileNotFoundError):
                try:
                    return bytes_of(self._path / ACCOUNT, MOST_BYTES)
                except OSError as exc:
                    if exc.errno not in GONE:
                        raise
        return b""

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
        turn = Turn(self._path / "turns" / ACCOUNT)
        try:
            self._wait_for(turn)
            yield
        finally:
            turn.end()

    def _wait_for(self, turn: Turn) -> None:
        end_s = self._clock() + PATIENCE_S
        delay_s = LEAST_POLL_S
        while not self._has(turn):
            if self._clock() >= end_s:
                if self._is_stuck(turn):
                    return
                raise NoRoomError("another node is at the account of room")
            time.sleep(delay_s * (0.5 + random.random() / 2))
            delay_s = min(delay_s * 1.5, MOST_POLL_S)
        self._stuck = None
        if self._can_lock:
            turn.show_life()

    def _has(self, turn: Turn) -> bool:
        """Whether nobody else is at it, as far as can be known."""
        try:
            is_ours = turn.try_take()
            self._can_lock = True
            return is_ours
        except OSError as exc:
            if exc.errno not in CANNOT_LOCK:
                raise
            if self._can_lock:
                log.warning("the backing directory has no locks (%s): nodes may fill it beyond backing.limit", exc)
            self._can_lock = False
            return True

    def _is_stuck(self, turn: Turn) -> bool:
        """Whether somebody has had the lock for long."""
        sign, now_s = turn.sign_of_life(), self._clock()
        if self._stuck is None or self._stuck[0] != sign:
            self._stuck = sign, now_s
        if now_s - self._stuck[1] < STUCK_S:
            return False
        log.info("a node has locked the account of room for %.0f s, and is passed over", now_s - self._stuck[1])
        return True

    # ---------------------------------------------------------------- counting

    def count_if_unknown(self) -> Account:
        """Count what is there if nobody has, and nobody does; may take minutes, in which nothing is filled."""
        account = self.look() or self.change(lambda account: account)
        if account.is_counted:
            return account
        turn = Turn(self._path / "turns" / COUNT)
        try:
            if not self._has(turn):
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
            if self._has(turn):
                self._counting = turn, self.begin_count()
                move()
            else:
                turn.end()
        if self._counting is None or (now := self.look()) is None:
            return False
        turn, epoch = self._counting
        is_ours = now.epoch == epoch
        if is_ours:
            if not now.has_moved(frozenset(grant.holder.node for grant in now.grants)):
                return False
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

    def end_count(self, epoch: int, counted: Amount) -> Account:
        """The scan of that epoch has found so much."""
        return self.change(lambda account: account.end_count(epoch, counted))


def count(folder: Path, most: int | None = None) -> Amount | None:
    """What everything below the folder takes, and itself; None if that is more than `most` files.

    A file counts once, also in the middle of its seal, when it has two names in its folder.  Without what begins with
    a dot (.snapshot), but for files that an NFS client keeps for who has them open.
    """
    found = Amount(allocated(folder)[1], 1)
    waiting = [folder]
    while waiting:
        met: set[int] = set()
        with suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if (entry.name.startswith(".") and not entry.name.startswith(".nfs")) or entry.inode() in met:
                    continue
                met.add(entry.inode())
                path = Path(entry.path)
                with suppress(FileNotFoundError):
                    found += Amount(allocated(path)[1], 1)
                if most is not None and found.inodes > most:
                    return None
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return found


def _account_in(content: bytes) -> Account | None:
    try:
        return decode(Account, content, FORMAT, MOST_BYTES)
    except ValueError:
        return None
