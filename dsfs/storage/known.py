"""Which backing directory this node has found at which path: `<state_dir>/backings.json`, cluster ids by path.

The mountpoint of an NFS that is not mounted is an empty directory, or none.  A node that remembers what was there does
not begin a new backing directory on the disk below, which it would fill until the mount hides it.

Concurrency: blocking; the lock of the state directory is held.
"""

import json
import logging
from pathlib import Path

from dsfs.model.errors import BackingError
from dsfs.storage.backing import MARK
from dsfs.storage.filesystem import is_there, replace_file

log = logging.getLogger(__name__)

FILE = "backings.json"


def refuse_if_gone(state_dir: Path, backing: Path) -> None:
    """BackingError if there was a backing directory at that path, and there is none now."""
    cluster = _known(state_dir).get(str(backing))
    try:
        if cluster is None or is_there(backing / MARK):
            return
    except OSError:
        return  # whoever opens the directory says it
    raise BackingError(
        f"{backing} has no {MARK}, and was the backing directory with cluster id {cluster} before: is the NFS not"
        " mounted? If it was emptied on purpose, dsfs mount --force begins a new one"
    )


def remember(state_dir: Path, backing: Path, cluster: str) -> None:
    """The backing directory at that path has this cluster id.  BackingError if the local disk does not take that."""
    known = _known(state_dir)
    if known.get(str(backing)) != cluster:
        try:
            replace_file(state_dir / FILE, (json.dumps({**known, str(backing): cluster}, indent=2) + "\n").encode())
        except OSError as exc:
            raise BackingError(f"{state_dir / FILE}: {exc.strerror}") from exc


def _known(state_dir: Path) -> dict[str, str]:
    try:
        found = json.loads((state_dir / FILE).read_bytes())
        return {str(path): str(cluster) for path, cluster in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as exc:
        log.warning("which backing directories this node has used is not known any more: %s: %s", FILE, exc)
        return {}
