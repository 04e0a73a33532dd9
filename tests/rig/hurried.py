"""dsfs whose evictor is in a hurry: `python -m tests.rig.hurried mount ...`.

Rounds, and the patience with a node that has the turn and shows no life, take seconds and not minutes.
"""

import sys

from dsfs import cli
from dsfs.cache import evictor

ROUND_S = 1.0
PATIENCE_S = 5.0

if __name__ == "__main__":
    evictor.ROUND_S, evictor.PATIENCE_S = ROUND_S, PATIENCE_S
    sys.exit(cli.main())
