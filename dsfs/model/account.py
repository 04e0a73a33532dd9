"""The account of room: what is taken of the backing directory by all nodes together, and who may take how much more.

A node takes a *grant* before it writes: so much of the limit is its own, and it spends that without asking.  With each
exchange it tells what it has spent and freed since, and how much of its grant is left.  What lies in the directory is
never more than `total`, however many nodes fill at once, and no grant takes that beyond the limit.

The account drifts upwards, since whoever dies leaves a grant of which nobody knows how much was spent.  So now and then
everything is counted, while the nodes go on.  A count begins an epoch; each node moves into it with its next exchange.
What was spent before lies there when the last one has moved, and so does what was told until the scan begins.  What is
told from then on is kept apart (`since`): the sum that the scan finds, and that, is an upper bound again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from dsfs.model.allotment import Refusal
from dsfs.model.retention import NOTHING, Amount

# A node takes so much at once, so that it asks about once a second at most; less where there is little left.
STEP = Amount(256 * 1024 * 1024, 512)
PART = 8  # of what is left
UNBOUNDED = 2**62  # inodes of a file system that makes them as it needs them
MOST_BYTES = 1024 * 1024  # of the document: some thousand nodes


def less(amount: Amount, other: Amount) -> Amount:
    """The difference, and never less than nothing."""
    return Amount(max(0, amount.size_bytes - other.size_bytes), max(0, amount.inodes - other.inodes))


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Who has a grant: a node, in one run of its daemon."""

    node: str
    run: str


@dataclass(frozen=True, slots=True)
class Grant:
    """`unspent`: what its holder may still write, as far as it has told; `epoch`: the last one it has moved into.

    `is_lost`: its holder is dead, and how much of it was spent will be known after a count of a later epoch.
    """

    holder: Holder
    epoch: int
    unspent: Amount
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """What a node tells: `spent` and `freed` since it told last, what is left, and what of that is `reserved`.

    `counted`: the count that the account came from then.
    """

    counted: int = 0
    spent: Amount = NOTHING
    freed: Amount = NOTHING
    unspent: Amount = NOTHING
    reserved: Amount = NOTHING


@dataclass(frozen=True, slots=True)
class FileSystemRoom:
    """What a file system has free, and what of that is never taken."""

    free: Amount
    floor: Amount


@dataclass(frozen=True, slots=True)
class Account:
    """`base`: what was counted, and spent before the epoch or its scan; `since`: spent from then on.

    `counted`: the epoch of the last count that has ended; 0: nobody knows yet what is there, and nothing is granted.
    """

    epoch: int
    counted: int
    base: Amount
    since: Amount
    grants: tuple[Grant, ...] = ()

    @property
    def is_counted(self) -> bool:
        return self.counted > 0

    @property
    def used(self) -> Amount:
        """What is there, but for what nodes have not told yet, or took with them."""
        return self.base + self.since

    @property
    def unspent(self) -> Amount:
        """What may still come, of all nodes together."""
        return sum((grant.unspent for grant in self.grants), NOTHING)

    @property
    def total(self) -> Amount:
        """There is never more than this."""
        return self.used + self.unspent

    @property
    def nodes(self) -> frozenset[str]:
        """Those that have a grant."""
        return frozenset(grant.holder.node for grant in self.grants)

    def left_to(self, holder: Holder) -> Amount:
        """What its grant has left; nothing if it has none (any more)."""
        grant = self._grant(holder)
        return NOTHING if grant is None else grant.unspent

    # ---------------------------------------------------------------- by the nodes

    def tell(self, holder: Holder, told: Statement) -> "Account":
        """The node has spent and freed; it moves into the epoch.  Its runs before this one are dead.

        A grant that is not here any more (somebody counted anew, or took the node for dead) is void, but for what is
        being written.
        """
        grant = self._grant(holder)
        # What was counted, and when, is not known to one who is not here: what it has spent may be missing in the base.
        is_before = grant is not None and grant.epoch < self.epoch
        base, since = (self.base + told.spent, self.since) if is_before else (self.base, self.since + told.spent)
        # Who has counted meanwhile may not have met it any more.
        freed = told.freed if told.counted == self.counted else NOTHING
        # Freed is first what was there before: of what is taken off `since` by this, all was spent after that.
        base, since = less(base, freed), less(since, less(freed, base))
        # Its runs before may have written until now, where somebody who counts in this epoch has looked already.
        found = replace(self, base=base, since=since)._lost(self.epoch, lambda other: _is_earlier(other, holder))
        return found._with(holder, told.unspent if grant is not None else told.reserved)

    def refusal(self, wanted: Amount, limit_bytes: int, there: FileSystemRoom) -> Refusal | None:
        """Why nobody is granted so much; None: nothing speaks against it."""
        if self.total.size_bytes + wanted.size_bytes > limit_bytes:
            return Refusal.LIMIT
        return None if (self._free(there) - wanted).covers(NOTHING) else Refusal.FLOOR

    def grant(self, holder: Holder, wanted: Amount, limit_bytes: int, there: FileSystemRoom) -> "Account":
        """Give the node so much, which is not refused, and some more ahead."""
        free = self._free(there)
        left = Amount(min(limit_bytes - self.total.size_bytes, free.size_bytes), free.inodes)
        given = Amount(
            max(wanted.size_bytes, min(STEP.size_bytes, left.size_bytes // PART)),
            max(wanted.inodes, min(STEP.inodes, left.inodes // PART)),
        )
        return self._with(holder, self.left_to(holder) + given)

    def _free(self, there: FileSystemRoom) -> Amount:
        """What a node has written of its grant and not told is missing here twice: rather so."""
        return there.free - self.unspent - there.floor

    def _grant(self, holder: Holder) -> Grant | None:
        return next((grant for grant in self.grants if grant.holder == holder and not grant.is_lost), None)

    def _with(self, holder: Holder, unspent: Amount) -> "Account":
        grants = [grant for grant in self.grants if grant.holder != holder or grant.is_lost]
        if unspent != NOTHING:
            grants.append(Grant(holder, self.epoch, unspent))
        return replace(self, grants=tuple(sorted(grants, key=lambda grant: grant.holder)))

    # ---------------------------------------------------------------- by who counts

    def begin_count(self) -> "Account":
        """A new epoch."""
        return replace(self, epoch=self.epoch + 1, base=self.used, since=NOTHING)

    def has_moved(self, nodes: frozenset[str]) -> bool:
        """Whether these nodes have moved into the epoch: what they spent before lies in the directory."""
        living = (grant for grant in self.grants if not grant.is_lost)
        return all(grant.epoch == self.epoch for grant in living if grant.holder.node in nodes)

    def bury(self, nodes: frozenset[str]) -> "Account":
        """These nodes are dead: what they might have written stays taken until the end of the next count."""
        return self._lost(self.epoch - 1, lambda grant: grant.holder.node in nodes and not grant.is_lost)

    def begin_scan(self, epoch: int) -> "Account":
        """All nodes have moved into the epoch, or were buried: what they have told until now lies there to be found.

        Without this it would count twice until the next count.
        """
        return replace(self, base=self.used, since=NOTHING) if epoch == self.epoch else self

    def end_count(self, epoch: int, counted: Amount) -> "Account":
        """So much was found in the directory by a scan that began when all nodes had moved into the epoch, or later.

        Nothing changes if another one has begun anew meanwhile.
        """
        if epoch != self.epoch:
            return self
        grants = tuple(grant for grant in self.grants if not (grant.is_lost and grant.epoch < epoch))
        return replace(self, counted=epoch, base=counted, grants=grants)

    def has_lost(self, node: str) -> bool:
        """Whether a run of this node has died with a grant."""
        return any(grant.is_lost for grant in self.grants if grant.holder.node == node)

    def _lost(self, epoch: int, is_lost: Callable[[Grant], bool]) -> "Account":
        grants = (replace(grant, epoch=epoch, is_lost=True) if is_lost(grant) else grant for grant in self.grants)
        return replace(self, grants=tuple(grants))


def _is_earlier(grant: Grant, holder: Holder) -> bool:
    return grant.holder.node == holder.node and grant.holder != holder and not grant.is_lost


@dataclass(slots=True)
class Purse:
    """A node's own side: what is left of its grant, what of that is being written, and what is to be told.

    INVARIANT: `reserved` is part of `unspent`, unless more was written than was reserved.
    """

    unspent: Amount = NOTHING
    reserved: Amount = NOTHING
    spent: Amount = NOTHING
    freed: Amount = NOTHING
    counted: int = 0
    step: Amount = NOTHING  # what was given last

    @property
    def available(self) -> Amount:
        return less(self.unspent, self.reserved)

    @property
    def is_low(self) -> bool:
        """Whether it is time to take the next grant, before somebody has to wait for it."""
        return not self.available.covers(Amount(self.step.size_bytes // 4, self.step.inodes // 4))

    def reserve(self, wanted: Amount, *, is_kept: bool = True) -> bool:
        """Take it out of the grant for what is about to be written; False if there is not so much.

        Unless `is_kept` it is only asked for.
        """
        has_it = (self.unspent - self.reserved).covers(wanted)
        if has_it and is_kept:
            self.reserved += wanted
        return has_it

    def settle(self, reserved: Amount, written: Amount) -> None:
        """What was reserved is written, so far as it is; the rest goes back to the grant."""
        self.reserved = less(self.reserved, reserved)
        self.unspent = less(self.unspent, written)
        self.spent += written

    def give_back(self) -> None:
        """Keep what is being written, and nothing ahead; the others know when it is told."""
        self.unspent = Amount(
            min(self.unspent.size_bytes, self.reserved.size_bytes), min(self.unspent.inodes, self.reserved.inodes)
        )

    def to_tell(self) -> Statement:
        return Statement(self.counted, self.spent, self.freed, self.unspent, self.reserved)

    def was_told(self, told: Statement, holder: Holder, account: Account) -> None:
        """The account has taken that up; meanwhile more may have been spent."""
        left = account.left_to(holder)
        self.spent -= told.spent
        self.freed = self.freed - told.freed if account.counted == self.counted else NOTHING
        self.counted = account.counted
        self.step = less(left, told.unspent)
        self.unspent = less(self.unspent + left, told.unspent)
