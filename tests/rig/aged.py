"""Files in a backing directory that are older than the test: time has passed, as far as the server's clock goes."""

import os
from pathlib import Path

from dsfs.model.versionname import name_of

DAY_S = 86_400


def set_back(path: Path, seconds: float) -> None:
    """Its mtime lies so much further back; less than nothing: ahead."""
    then_ns = path.stat().st_mtime_ns - round(seconds * 1e9)
    os.utime(path, ns=(then_ns, then_ns))


def set_back_version(backing: Path, version: str, seconds: float) -> None:
    """The last use of NAME/VERSION and its listings lie so much further back."""
    used = backing / "uses" / name_of(*version.split("/"))
    for path in (used, *backing.glob(f"versions/{version}/*/catalog.mdb")):
        set_back(path, seconds)
