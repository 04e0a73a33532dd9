"""Named points of the storage code at which a test makes the process die or an operation fail.

`DSFS_CRASH_AT=segment.data_written:3` in the environment kills the daemon with SIGKILL the third time it
reaches that point, `DSFS_FREEZE_AT` stops it there with SIGSTOP; tests in the same process set `hook` and raise
what they like.  With none of them, `reach` costs one comparison.
"""

import os
import signal
from collections.abc import Callable

SIGNALS = {"DSFS_CRASH_AT": signal.SIGKILL, "DSFS_FREEZE_AT": signal.SIGSTOP}


def _ends_at(spec: str, sign: signal.Signals) -> Callable[[str], None]:
    wanted, _, count = spec.partition(":")
    left = int(count or 1)

    def end(point: str) -> None:
        nonlocal left
        if point == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), sign)

    return end


hook: Callable[[str], None] | None = next(
    (_ends_at(os.environ[name], sign) for name, sign in SIGNALS.items() if os.environ.get(name)), None
)


def reach(point: str) -> None:
    """The caller is about to do what `point` names, or has done it; the hook may raise OSError."""
    if hook is not None:
        hook(point)
