"""What an ordinary user does with dsfs, from mount to unmount; run by test_ordinary_user.py as such a user.

    python -m tests.system.ordinary_user ENDPOINT_URL SOURCE VERSION      credentials in the environment
"""

import os
import signal
import sys
from pathlib import Path

from tests.rig.lake import digest_tree
from tests.rig.node import PATIENT, Node
from tests.rig.wait import wait_until

WORK = Path("/mnt/node")


def main(endpoint_url: str, source: str, version: str) -> None:
    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    node = Node(WORK, endpoint_url, aws, settings=PATIENT)
    expected = digest_tree(Path(source))
    try:
        succeed(node, "mount")
        assert digest_tree(node.mountpoint / version) == expected
        assert "running" in succeed(node, "status")
        assert "dropped" in succeed(node, "drop", version, "--yes")
        os.kill(node.ask("status")["daemon"]["pid"], signal.SIGKILL)
        wait_until(lambda: not is_alive(node), what="the end of the daemon")
        succeed(node, "mount")  # takes away what the dead one left
        assert digest_tree(node.mountpoint / version) == expected
    finally:
        unmounted = node.command("unmount", "--now")
    assert unmounted.returncode == 0, unmounted.stderr
    assert not node.is_mounted()

    node.config.write_text(node.config.read_text().replace("allow_other = false", "allow_other = true"))
    refused = node.command("mount")
    assert refused.returncode == 1
    assert "user_allow_other" in refused.stderr, refused.stderr
    assert not node.is_mounted()


def succeed(node: Node, *words: str) -> str:
    done = node.command(*words)
    assert done.returncode == 0, (words, done.stderr, node.log_tail())
    return done.stdout


def is_alive(node: Node) -> bool:
    """Whether a daemon holds the mount; a dead one's answers ENOTCONN."""
    try:
        os.stat(node.mountpoint)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    assert os.geteuid() != 0
    main(*sys.argv[1:])
