"""Named points of the storage code at which a test makes the process die or an operation fail.

`DSFS_CRASH_AT=segment.data_written:3` in the environment kills the daemon with SIGKILL the third time it
reaches that point; tests in the same process set `hook` and raise what they like.  With neither, `reach`
costs one comparison.
"""

import os
import signal
from collections.abc import Callable


def _crash_at(spec: str) -> Callable[[str], None]:
    wanted, _, count = spec.partition(":")
    left = int(count or 1)

    def crash(point: str) -> None:
        nonlocal left
        if point == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return crash


_spec = os.environ.get("DSFS_CRASH_AT")
hook: Callable[[str], None] | None = _crash_at(_spec) if _spec else None


def reach(point: str) -> None:
    """The caller is about to do what `point` names, or has done it; the hook may raise OSError."""
    if hook is not None:
        hook(point)
