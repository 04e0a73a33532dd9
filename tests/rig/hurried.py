"""dsfs whose evictor is in a hurry: `python -m tests.rig.hurried mount ...`.

What takes minutes takes seconds: rounds, beats, the patience with a node that has the turn, or the account of room
locked, and shows no life, how long a version counts as in use after its last use, and its files stay open.
"""

import sys

from dsfs import cli
from dsfs.cache import evictor, heartbeat, roomkeeper, segments, survey
from dsfs.model import retention, told
from dsfs.storage import account

ROUND_S = 1.0
PATIENCE_S = STUCK_S = 5.0
IN_USE_S = 3.0
OPEN_S = 1.0  # or twice as long
TOLD_S = 2.0
BEAT_S = 1.0

if __name__ == "__main__":
    evictor.ROUND_S, evictor.PATIENCE_S = ROUND_S, PATIENCE_S
    for module in (retention, survey, heartbeat):
        vars(module).update(ACTIVE_S=IN_USE_S)
    for module in (told, heartbeat):
        vars(module).update(BEAT_S=BEAT_S)
    account.STUCK_S = STUCK_S
    segments.IDLE_S, roomkeeper.KEEP_S = OPEN_S, TOLD_S
    sys.exit(cli.main())
