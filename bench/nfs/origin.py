"""The bench's origin as a program of the guest: `python -m bench.nfs.origin ROOT RUN_DIRECTORY`, until it is killed."""

import json
import signal
import sys
from pathlib import Path

from bench.origin import DISTANCES, Origin
from dsfs.admin.notify import Notifier
from tests.rig.nfs.origin import ADDRESS

URLS = "urls.json"
"""In RUN_DIRECTORY once it is ready: where each distance is served."""


def main() -> None:
    root, run_directory = map(Path, sys.argv[1:])
    with Origin(root, run_directory, ADDRESS) as origin:
        urls = {name: origin.url(distance) for name, distance in DISTANCES.items()}
        (run_directory / URLS).write_text(json.dumps(urls))
        Notifier.from_environment().ready("serving")
        signal.pause()


if __name__ == "__main__":
    main()
