"""The room that this node may take in the backing directory, and why nothing is filled while there is none.

Room is reserved before it is written.  That costs no request as long as this node's grant lasts (model/account.py);
whoever finds that running low takes the next one, and meanwhile the others go on.

Concurrency: blocking calls, safe to use from several threads at once.  `_lock` guards the books, and nobody waits for
the file system under it, so that the trio thread may look into them; `_turn` lets one thread at a time go to the
account.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from dsfs.model.account import UNBOUNDED, Account, FileSystemRoom, Holder, Purse, Statement, less
from dsfs.model.allotment import Refusal
from dsfs.model.errors import NoRoomError
from dsfs.model.nodes import LEASE_S
from dsfs.model.retention import NOTHING, Amount
from dsfs.model.retry import Pause
from dsfs.storage.account import SharedAccount
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import NO_ROOM
from dsfs.storage.segment import SegmentFile, State
from dsfs.storage.segmentnames import overhead

STATVFS_BELIEVED_S = 1.0  # and for so long it is believed that the directory is still the same
# That there is no room is believed for so long, and for twice as long with each time that is true again: a hundred
# nodes that pass everything through would keep the account busy.
FULL_BELIEVED_S, MOST_FULL_BELIEVED_S = 1.0, 8.0
# That another node does not leave the account: each attempt waits for it, and readers wait for their claims meanwhile.
BUSY_BELIEVED_S = 8.0
# Who has not been at the account for so long may be taken for dead soon, and its grant be given to others.
VALID_S = LEASE_S / 2
IDLE_S = 60.0  # what was taken ahead goes back when nothing was filled for so long
# Of the limit, for what nodes write without asking: heartbeats, events, pins, half a MiB at most for each of them.
SMALL_PART, SMALL_BYTES = 128, 16 * 1024 * 1024
ONE = Amount(1)
UNCOUNTED = "what is in the backing directory has to be counted first"
WORDS = {Refusal.LIMIT: "backing.limit is reached", Refusal.FLOOR: "free space would fall below backing.floor"}


@dataclass(frozen=True, slots=True)
class Statvfs:
    """What the file system had at `at_s`, less what was filled since."""

    at_s: float
    total: Amount
    free: Amount


class Room:
    """`limit_bytes`: the most that all nodes together use; `floor`: free space that is never taken, from the size of
    the file system; inodes in the same proportion.

    `unfilled_bytes` were fetched and not written since the start, the last of them at `unfilled_at_s`.
    """

    def __init__(
        self,
        backing: BackingDirectory,
        account: SharedAccount,
        limit_bytes: int,
        floor: Callable[[int], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.account = account
        self.limit_bytes = limit_bytes
        self.unfilled_bytes = 0
        self.unfilled_at_s: float | None = None
        self._backing = backing
        self._floor = floor
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._purse = Purse()
        self._known: Account | None = None
        self._reserved_s = self._told_s = clock()
        self._refused: Amount | None = None  # the least that was refused, and might be again
        self._refused_until_s = 0.0
        self._believed_s = FULL_BELIEVED_S
        self._refusal = NoRoomError("")
        self._busy, self._busy_until_s = "", 0.0  # why the account could not be had, "" if it could
        self._is_full = False
        self._pause = Pause()
        self._statvfs: Statvfs | None = None
        self._written = NOTHING  # ever, by this node

    # ---------------------------------------------------------------- before and after a write

    def reserve(self, wanted: Amount) -> None:
        """Take so much out of limit and floor before it is written; NoRoomError, with the reason, if there is not."""
        self._reserve(wanted, is_kept=True)

    def check(self, wanted: Amount) -> None:
        """NoRoomError if `reserve` would refuse.  Waits for the file system, as that does.

        Nothing is held for a moment: a fill that comes just then would be refused for no reason.
        """
        self._reserve(wanted, is_kept=False)

    def _reserve(self, wanted: Amount, *, is_kept: bool) -> None:
        with self._lock:
            if not self._pause.is_over(self._clock()):
                raise NoRoomError(self._pause.reason)
            is_doubtful = bool(self._pause.reason)
        try:
            measured = self._space()
            if is_doubtful:
                self._backing.make_folders()  # what failed may be that somebody removed them
            if self._has_taken(wanted, measured, is_kept=is_kept):
                self._take_ahead()
                return
            with self._turn:
                if not self._has_taken(wanted, measured, is_kept=is_kept):  # another thread has been there
                    self._take(wanted, is_kept=is_kept)
        except OSError as exc:
            self.failed(exc)
            raise NoRoomError(f"backing directory not usable: {exc.strerror}", "error") from exc

    def _take_ahead(self) -> None:
        """The next grant, if it is time for it and nobody else is at it."""
        if self._purse.is_low and not self._is_busy() and self._turn.acquire(blocking=False):
            try:
                with suppress(NoRoomError, OSError):  # who needs it will meet the same
                    self._exchange(NOTHING)
            finally:
                self._turn.release()

    def _has_taken(self, wanted: Amount, measured: Statvfs, *, is_kept: bool) -> bool:
        """Whether the grant has it; NoRoomError if the file system has not, or did not a moment ago."""
        with self._lock:
            self._reserved_s = now_s = self._clock()
            there = self._there(self._statvfs or measured)
            if not (there.free - self._purse.reserved - wanted).covers(there.floor):
                raise self._no_room(wanted, Refusal.FLOOR)
            if now_s - self._told_s <= VALID_S and self._purse.reserve(wanted, is_kept=is_kept):
                return True
            if self._is_busy():
                raise NoRoomError(self._busy)
            if self._refused is not None and wanted.covers(self._refused) and now_s <= self._refused_until_s:
                raise self._refusal
            return False

    def _is_busy(self) -> bool:
        """Whether another node did not leave the account a moment ago."""
        return bool(self._busy) and self._clock() < self._busy_until_s

    def _take(self, wanted: Amount, most_bytes: int | None = None, *, is_kept: bool = True) -> None:
        """The next grant, and what is wanted out of it; `most_bytes`: see `_exchange`."""
        while True:
            account, refusal = self._exchange(wanted, most_bytes)
            with self._lock:
                if refusal is not None or not account.is_counted:
                    is_over = self._clock() > self._refused_until_s  # else it is the same one, for less
                    error = self._no_room(wanted, refusal)
                    if is_over:
                        self._believed_s = min(self._believed_s * 2, MOST_FULL_BELIEVED_S)
                    raise error
                if self._purse.reserve(wanted, is_kept=is_kept):  # else another thread has spent what was left
                    if self._refused is not None and wanted.covers(self._refused):
                        self._refused, self._believed_s = None, FULL_BELIEVED_S
                    return

    def _note_refused(self, wanted: Amount) -> None:
        if wanted != NOTHING and (self._refused is None or self._refused.covers(wanted)):
            self._refused = wanted

    def _no_room(self, wanted: Amount, refusal: Refusal | None) -> NoRoomError:
        self._note_refused(wanted)
        self._refused_until_s = self._clock() + self._believed_s
        if refusal is None:
            self._refusal = NoRoomError(UNCOUNTED)
        else:
            self._refusal = NoRoomError(WORDS[refusal], refusal.value)
        return self._refusal

    def settle(self, reserved: Amount, written: Amount = NOTHING) -> None:
        """So much of what was reserved was written, and the rest will not be; less than nothing: it was removed."""
        with self._lock:
            self._purse.settle(reserved, less(written, NOTHING))
            self._purse.freed += less(NOTHING, written)
            self._written += less(written, NOTHING)
            if self._statvfs is not None:
                self._statvfs = replace(self._statvfs, free=self._statvfs.free - written)

    def freed(self, amount: Amount) -> None:
        """So much was removed.  The others know when it is told."""
        if amount == NOTHING:
            return
        with self._lock:
            self._purse.freed += amount
            self._statvfs = self._refused = None
            self._believed_s = FULL_BELIEVED_S
            if self._is_full:
                self._pause.until_s = 0.0  # there is room again: try at once

    @contextmanager
    def taking(self, wanted: Amount) -> Iterator[None]:
        """The block writes so much, or raises and writes nothing; NoRoomError if there is no room.

        It is of what nodes tell each other: where data has taken all that it may, there is what is left for that.
        """
        try:
            self.reserve(wanted)
        except NoRoomError as exc:
            if exc.reason != Refusal.LIMIT.value:
                raise
            with self._turn:
                self._take(wanted, self.limit_bytes)
        written = NOTHING
        try:
            yield
            written = wanted
        finally:
            self.settle(wanted, written)

    @contextmanager
    def beginning(self, file: SegmentFile) -> Iterator[None]:
        """The block may make the files of the segment; NoRoomError if there is no room for them."""
        wanted = overhead(file.blocks) if file.state in (State.ABSENT, State.CLOSED) else NOTHING
        if wanted != NOTHING:
            self.reserve(wanted)
        try:
            yield
        finally:
            self.settle(wanted, file.take_made())

    # ---------------------------------------------------------------- the account

    def keep(self) -> None:
        """To be done now and then, also if nothing happens: tell what is news, and give back what is not needed.

        May take long when what is there has to be counted first.  OSError if the server says no, NoRoomError if the
        account cannot be had now.
        """
        self._backing.check_mark()
        if self._known is None or not self._known.is_counted:
            self.account.count_if_unknown()
        with self._turn:
            with self._lock:
                if self._clock() - self._reserved_s >= IDLE_S:
                    self._purse.give_back()
            self._tell()
        if self._known is not None and self.account.count_if_lost(self._known, self.tell):
            self.tell()

    def tell(self) -> None:
        """Let the others know at once what was freed; may raise what `keep` does."""
        self._backing.check_mark()
        with self._turn:
            self._tell()

    def leave(self) -> None:
        """Give back what was taken ahead; may raise what `keep` does."""
        self._backing.check_mark()
        with self._turn:
            with self._lock:
                self._purse.give_back()
            self._tell()
        self.account.close()

    def _tell(self) -> None:
        asked_s, holder = self._clock(), self.account.holder
        account = self.account.look()
        with self._lock:
            told = self._purse.to_tell()
        if account is not None and account.tell(holder, told) == account:
            self._was_told(told, holder, account, asked_s)
            if not self._busy:
                return
        self._exchange(None)  # also to see whether the account can be had again

    def _exchange(self, wanted: Amount | None, most_bytes: int | None = None) -> tuple[Account, Refusal | None]:
        """Tell what is news, and ask for what is missing for `wanted`; for nothing if that is None.

        `most_bytes`: of all nodes together, if not what data may take; nothing of the difference is given ahead.
        """
        asked_s, holder = self._clock(), self.account.holder
        with self._lock:
            told, available = self._purse.to_tell(), self._purse.available
        refusal: Refusal | None = None

        def change(account: Account) -> Account:
            nonlocal refusal
            account = account.tell(holder, told)
            if wanted is None or not account.is_counted:
                return account
            there = self._there(self._measured())
            missing = less(wanted, available)
            refusal = account.refusal(missing, most_bytes or self._fillable_bytes, there)
            return account if refusal else account.grant(holder, missing, self._fillable_bytes, there)

        try:
            account = self.account.change(change)
        except NoRoomError as exc:
            with self._lock:
                self._busy, self._busy_until_s = str(exc), self._clock() + BUSY_BELIEVED_S
                self._note_refused(wanted or NOTHING)
            raise
        self._busy = ""
        self._was_told(told, holder, account, asked_s)
        return account, refusal

    def _was_told(self, told: Statement, holder: Holder, account: Account, asked_s: float) -> None:
        with self._lock:
            self._purse.was_told(told, holder, account)
            self._known, self._told_s = account, asked_s

    @property
    def _fillable_bytes(self) -> int:
        return self.limit_bytes - min(self.limit_bytes // SMALL_PART, SMALL_BYTES)

    @property
    def used_bytes(self) -> int:
        """What is in the backing directory, as far as this node knows: others tell within half a minute or so."""
        with self._lock:
            used = self._known.used if self._known is not None else NOTHING
            return less(used + self._purse.spent, self._purse.freed).size_bytes

    # ---------------------------------------------------------------- faults

    def failed(self, exc: OSError) -> None:
        """A write failed: fill nothing for a while."""
        what = "no room" if exc.errno in NO_ROOM else "not usable"
        with self._lock:
            self._statvfs = None
            self._is_full = exc.errno in NO_ROOM
            self._pause.fail(f"backing directory {what}: {exc.strerror}", self._clock())

    def succeeded(self) -> None:
        with self._lock:
            self._pause.succeed()

    def not_filled(self, length: int) -> None:
        """So many bytes were fetched and will not be written."""
        with self._lock:
            self.unfilled_bytes += length
            self.unfilled_at_s = time.time()

    def why_not_filling(self) -> str:
        """The reason why nothing is filled now; "" while fills go on.  Waits for the file system."""
        try:
            there = self._there(self._space())
            account = self.account.look() if self._refused is not None else self._known
        except OSError as exc:
            return f"backing directory not usable: {exc.strerror}"
        with self._lock:
            if self._pause.reason or account is None:
                return self._pause.reason
            wanted = self._refused or ONE
            if not account.is_counted:
                return UNCOUNTED
            if not (there.free - self._purse.reserved - wanted).covers(there.floor):
                return WORDS[Refusal.FLOOR]  # whatever the grant has left
            if self._purse.available.covers(wanted):
                return ""
            if self._busy:
                return self._busy
            refusal = account.refusal(wanted, self._fillable_bytes, there)
        return WORDS[refusal] if refusal else ""

    # ---------------------------------------------------------------- the file system

    def space(self) -> tuple[int, int, int]:
        """(total, free, floor) in bytes; OSError if the directory is gone.  Waits for the file system."""
        measured = self._space()
        return measured.total.size_bytes, measured.free.size_bytes, self._floor(measured.total.size_bytes)

    def there(self) -> FileSystemRoom:
        """What the file system has free now, and what of that is never taken; OSError if the directory is gone."""
        return self._there(self._measured())

    def _there(self, measured: Statvfs) -> FileSystemRoom:
        floor_bytes, total = self._floor(measured.total.size_bytes), measured.total
        floor_inodes = total.inodes * floor_bytes // max(1, total.size_bytes)
        return FileSystemRoom(measured.free, Amount(floor_bytes, floor_inodes))

    def _space(self) -> Statvfs:
        with self._lock:
            believed = self._statvfs
        if believed is not None and self._clock() - believed.at_s <= STATVFS_BELIEVED_S:
            return believed
        return self._measured()

    def _measured(self) -> Statvfs:
        # Not under the lock: a sick server may take long, and the trio thread looks into the books.
        now_s, before = self._clock(), self._written
        reach("backing.statvfs")
        self._backing.check_mark()
        found = self._backing.statvfs()
        total = Amount(found.f_blocks * found.f_frsize, found.f_files)
        free = Amount(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else UNBOUNDED)
        with self._lock:  # what other threads have written meanwhile may be in there, or not
            self._statvfs = Statvfs(now_s, total, free - (self._written - before))
            return self._statvfs
