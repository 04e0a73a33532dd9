"""What to fetch beyond the wanted bytes: pure policies for large files (streams) and small ones (stripes)."""

from dataclasses import dataclass

from dsfs.model.blocks import BLOCK, RUN

MIB = 1024 * 1024
# The kernel sends the READs of one stream in parallel and out of order; what lands this near counts as the
# same stream.
BEHIND = MIB
GAP = 4 * MIB


@dataclass(frozen=True, slots=True)
class Advice:
    """`run_bytes`: how much one GET may fetch from the wanted offset on; [ahead, until): bytes to fetch ahead."""

    run_bytes: int
    ahead: int
    until: int


@dataclass(slots=True)
class Stream:
    """What one open large file has been read like.

    INVARIANT: `window` is 0 while the accesses look random.
    """

    end: int = 0
    window: int = 0
    ahead: int = 0

    def observe(self, offset: int, size: int, limit: int) -> Advice:
        """A READ of [offset, offset+size) came.

        `limit` is the largest window (bytes) that memory and connections allow.
        """
        near = -BEHIND <= offset - self.end <= GAP
        if near and (offset or size >= BLOCK):
            self.window = min(max(self.window * 2, RUN), max(limit, RUN))
        elif not near and (offset > self.end or offset < self.end - self.window):
            self.window = 0
        if not self.window:
            self.end = offset + size
            self.ahead = 0
            return Advice(size, 0, 0)
        self.end = max(self.end, offset + size)
        # A young stream asks for little at once (its first bytes come sooner), an old one for whole runs.
        run_bytes = RUN if self.window >= 4 * RUN else MIB
        until = (self.end + self.window) // RUN * RUN if self.window >= 2 * RUN else self.end + self.window
        if self.ahead >= until - RUN and self.ahead >= self.end:
            return Advice(run_bytes, 0, 0)
        return Advice(run_bytes, max(self.ahead, self.end), until)

    def reached(self, ahead: int) -> None:
        """Everything before `ahead` is resident, coming, or was refused for want of memory."""
        self.ahead = ahead


def stripe_bytes(misses: int, previous_in_use: bool) -> int:
    """How much of a pack to fetch along with a wanted small file; 0 = all of it.

    `misses`: how many files of the pack were wanted and not there so far, this one included;
    `previous_in_use`: whether the pack before it was read too.  The stripe grows with evidence: one file
    alone brings 1 MiB of its neighbours, a second one the whole pack.  From an origin of 20 ms stripes are
    worth a factor of 40.
    """
    return MIB if misses <= 1 and not previous_in_use else 0
