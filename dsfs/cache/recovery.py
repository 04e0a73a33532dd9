"""After a crash: the index, which may lack the newest fills, is rebuilt from the maps behind the mount's back.

What a crash has left half made is removed, but cannot be told from what another node is making before it is old: so
there is a second look, later.

Concurrency: a worker thread looks at the backing directory while readers and fills go on.  Drops wait for their turn:
what the index does not know yet they would leave, and what they removed in the middle would be taken off twice.
"""

import logging
from dataclasses import dataclass

import trio

from dsfs.cache.fill import Filler
from dsfs.cache.segments import SegmentTable
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.leftovers import ABANDONED_S
from dsfs.storage.rebuild import recover
from dsfs.storage.residency import ResidencyIndex
from dsfs.storage.tidy import tidy

log = logging.getLogger(__name__)


@dataclass
class Recovery:
    """`turn` is held while the index is rebuilt; `is_inside`: a thread has the index in its hands."""

    index: ResidencyIndex
    backing: BackingDirectory
    segments: SegmentTable
    filler: Filler

    def __post_init__(self) -> None:
        self.turn = trio.Lock()
        self.is_inside = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Rebuild the index; started once it is this one's turn."""
        async with self.turn:
            task_status.started()
            self.is_inside = True
            try:
                await trio.to_thread.run_sync(
                    recover, self.index, self.backing, self._is_in_use, abandon_on_cancel=True
                )
                await self.filler.tell_again(self.segments)
            except Exception:  # the index is a help, not the truth: no reader is to lose the mount for it
                self.index.rebuild_later()
                log.exception("the residency index cannot be rebuilt")
            self.is_inside = False

    async def tidy_later(self) -> None:
        """Remove what a crash of this node, or of another, has left, once it is old enough to be told."""
        await trio.sleep(2 * ABANDONED_S)
        try:
            await trio.to_thread.run_sync(tidy, self.backing, self._is_in_use, abandon_on_cancel=True)
        except OSError as exc:
            log.info("what a crash has left cannot be removed: %s", exc)

    def _is_in_use(self, identity: str) -> bool:
        return self.segments.find(identity) is not None
