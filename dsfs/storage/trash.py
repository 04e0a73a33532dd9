"""How segments and generations leave the backing directory: hidden first, deleted after a grace.

What is hidden has another name in its place (model/trashname.py).  Nobody opens it any more, and who has it open goes
on reading it.  What is deleted is gone also for them: with NFSv3 at once, which they take for a miss.

A crash between two steps leaves waste that the next look finds, and never what counts as resident: of a filling the map
goes first, without which its data is nothing; of a seal the name, without which its checksums are nothing.  On a medium
that is full it is the other way round.

Concurrency: blocking calls, safe beside fills, seals and drops of the same segments by any node.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from dsfs.model.nodes import VersionKey
from dsfs.model.retention import NOTHING, Amount
from dsfs.model.trashname import TrashedFile, stamp_in, trash_name
from dsfs.storage.backing import BackingDirectory
from dsfs.storage.faultpoint import reach
from dsfs.storage.filesystem import GONE, NO_ROOM, is_there, lstat_anew, refresh_names, remove
from dsfs.storage.generations import UNDESCRIBED, is_superseded
from dsfs.storage.segmentnames import beside
from dsfs.storage.taken import room_below, room_of


class Trash:
    """Hides and deletes what lies in the backing directory.  Times are the server's, in ns."""

    def __init__(self, backing: BackingDirectory) -> None:
        self._backing = backing
        self._fs = backing.file_system

    def hide(self, identity: str, stamp_ns: int) -> TrashedFile | None:
        """Take a segment away; what it leaves to be deleted, None if it is not there (any more).  OSError."""
        path = self._backing.segment_path(identity)
        refresh_names(path.parent, self._fs)
        reach("trash.hide")
        remove(beside(path, ".map"))
        reach("trash.map_removed")
        if is_there(path):
            remove(beside(path, ".part"))  # a crash in the middle of a seal left it: the same file
            hidden = _hidden(path, stamp_ns)
        else:
            hidden = _hidden(beside(path, ".part"), stamp_ns)
        reach("trash.hidden")
        remove(beside(path, ".sum"))
        refresh_names(path.parent, self._fs)
        if is_there(path) and not is_there(beside(path, ".sum")):
            # Sealed meanwhile, and without checksums now.  Who seals looks for them afterwards: one sees the other.
            _hidden(path, stamp_ns + 1)
        return self._found(hidden, stamp_ns) if hidden is not None else None

    def hide_generation(self, key: VersionKey, stamp_ns: int) -> Amount:
        """Take the directory of a generation away; NOTHING if it is not there, or is the current one (again), or which
        one it is cannot be known.

        The caller knows that nobody has files of it open.  OSError.
        """
        path = self._backing.generations.joinpath(*key)
        try:
            if not is_superseded(path, self._fs):
                return NOTHING
        except UNDESCRIBED as exc:
            if isinstance(exc, OSError) and exc.errno not in GONE:
                raise
            return NOTHING
        hidden = _hidden(path, stamp_ns)
        return room_below(hidden) if hidden is not None else NOTHING

    def delete(self, name: str) -> Amount:
        """Delete what is hidden as `name`, a path in the backing directory; what that has freed.  OSError.

        A file with another name frees nothing, and what is gone neither, nor what another evictor deletes just now.
        """
        path = self._backing.path / name
        if stamp_in(path.name) is None or ".." in path.parts:
            raise ValueError(f"{name} is no name of what was taken away")
        refresh_names(path.parent, self._fs)
        try:
            found = lstat_anew(path, self._fs)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            return NOTHING
        if stat.S_ISDIR(found.st_mode):
            return _delete_directory(path)
        reach("trash.delete")
        return room_of(found) if remove(path) and found.st_nlink == 1 else NOTHING

    def _found(self, hidden: Path, stamp_ns: int) -> TrashedFile | None:
        try:
            taken = room_of(lstat_anew(hidden, self._fs))
        except OSError as exc:
            if exc.errno not in GONE:
                raise
            return None
        return TrashedFile(str(hidden.relative_to(self._backing.path)), stamp_ns, taken)


def _hidden(path: Path, stamp_ns: int) -> Path | None:
    """The name that it has now; None if it is not there."""
    new = path.with_name(trash_name(path.name, stamp_ns))
    try:
        try:
            _rename(path, new)
        except OSError as exc:
            # On a full medium the folder cannot grow for a longer name: the checksums, which go in any case, make room.
            if exc.errno not in NO_ROOM or not remove(beside(path, ".sum")):
                raise
            _rename(path, new)
    except OSError as exc:
        if exc.errno not in GONE:
            raise
        return None
    return new


def _rename(path: Path, new: Path) -> None:
    reach("trash.rename")
    os.rename(path, new)


def _delete_directory(path: Path) -> Amount:
    freed, names = NOTHING, list[str]()
    with suppress(FileNotFoundError):
        names = os.listdir(path)
    for name in names:
        taken = room_below(path / name)
        reach("trash.delete_file")
        if remove(path / name):
            freed += taken
    taken = room_below(path)
    reach("trash.delete_directory")
    with suppress(FileNotFoundError):
        os.rmdir(path)
        freed += taken
    return freed
