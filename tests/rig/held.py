"""dsfs whose threads stand still at a point of its storage code: `python -m tests.rig.held mount ...`.

The environment names the point (see dsfs/storage/faultpoint.py) and a directory, in which two files tell that a
thread has come there, and that all may go on.
"""

import os
import sys
from pathlib import Path

from dsfs import cli
from dsfs.storage import faultpoint
from tests.rig.node import Node
from tests.rig.wait import wait_until

POINT, PLACE = "RIG_HOLD_AT", "RIG_HOLD_IN"
REACHED, GO = "held", "go"
LONGEST_S = 120.0  # a test that fails must leave nothing behind that waits for ever


class Hold:
    """Starts the node with a daemon whose threads stand still at `point` until `end`."""

    def __init__(self, node: Node, point: str) -> None:
        self._place = node.work
        node.module = "tests.rig.held"
        try:
            node.start(env={POINT: point, PLACE: str(self._place)})
        finally:
            del node.module  # started again it is dsfs itself

    def wait_reached(self, timeout_s: float = 30.0) -> None:
        wait_until((self._place / REACHED).exists, timeout_s, "a thread coming to the point where it is held")

    def end(self) -> None:
        (self._place / GO).touch()


def _hold(point: str) -> None:
    if point == os.environ[POINT]:
        place = Path(os.environ[PLACE])
        (place / REACHED).touch()
        wait_until((place / GO).exists, LONGEST_S, f"leave to go on at {point}")


if __name__ == "__main__":
    faultpoint.hook = _hold
    sys.exit(cli.main())
