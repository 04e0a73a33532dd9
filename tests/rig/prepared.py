"""A node whose daemon is down, to be found by each of several tests as the first of them found it."""

import shutil
from pathlib import Path

from tests.rig.node import Node

SEGMENTS = "segments"


class Prepared:
    """Keeps a copy of the state and of the backing directory of a node, without the segments, and puts it back.

    Segments cannot be copied: a sealed one is trusted because its inode is the one that its checksums name.  So they
    stay where they are, and no test may damage them.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self._copies = node.work / "prepared"
        for place in self._places():
            shutil.copytree(place, self._copy_of(place), ignore=shutil.ignore_patterns(SEGMENTS, "*.sock"))

    def restore(self) -> Node:
        """The node as it was, with an empty log; its daemon must be down."""
        for place in self._places():
            for path in place.iterdir() if place.exists() else ():
                if path.name != SEGMENTS:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(self._copy_of(place), place, dirs_exist_ok=True)
        self.node.log.unlink(missing_ok=True)
        return self.node

    def _places(self) -> tuple[Path, Path]:
        return self.node.state_dir, self.node.backing

    def _copy_of(self, place: Path) -> Path:
        return self._copies / place.name
