"""What the node that keeps a census hides and deletes itself is noted there, and need not be found in the folders.

At a million segments that may be many rounds later, and meanwhile the same would leave once more, in vain.

A note says nothing of the mtime of the folder, which has changed: so that is read in its turn, and what others have
done meanwhile is found.

Concurrency: the thread that scans.
"""

from collections import defaultdict
from dataclasses import replace

from dsfs.model.trashname import TrashedFile
from dsfs.storage.censusfile import BATCH, CensusFile
from dsfs.storage.censusrecords import NOTHING_THERE, Folder


class Notes:
    """Become true together, BATCH at a time, and with `write`: BackingError if the local disk refuses."""

    def __init__(self, file: CensusFile, now_ns: int) -> None:
        self._file = file
        self._now_ns = now_ns
        self._hidden: set[bytes] = set()
        self._trash: dict[str, dict[str, TrashedFile | None]] = defaultdict(dict)  # None: it was deleted
        self._count = 0

    def hidden(self, identity: str, trashed: TrashedFile | None) -> None:
        """Nothing is there of the segment any more, but for what it left."""
        self._hidden.add(bytes.fromhex(identity))
        if trashed is not None:
            self._note(trashed.name, trashed)
        self._end_note()

    def deleted(self, name: str) -> None:
        """What was taken away is gone."""
        self._note(name, None)
        self._end_note()

    def _note(self, path: str, trashed: TrashedFile | None) -> None:
        folder, _, name = path.rpartition("/")
        self._trash[folder][name] = trashed

    def _end_note(self) -> None:
        self._count += 1
        if self._count == BATCH:
            self.write()

    def write(self) -> None:
        """One transaction; then nothing waits to be noted."""
        if not self._count:
            return
        changed: dict[str, Folder] = {}
        for path, noted in self._trash.items():
            if (folder := self._file.folders.get(path)) is not None:
                trash = {name: (name, size_bytes, inodes) for name, size_bytes, inodes in folder.trash}
                for name, trashed in noted.items():
                    if trashed is None:
                        trash.pop(name, None)
                    else:
                        trash[name] = (name, trashed.taken.size_bytes, trashed.taken.inodes)
                changed[path] = replace(folder, trash=list(trash.values()))
        with self._file.change(self._now_ns) as change:
            for identity, was in self._file.entries(self._hidden):
                change.put(identity, was, NOTHING_THERE)
                path = f"segments/{identity[:1].hex()}"
                if path not in changed:
                    changed[path] = replace(self._file.folders[path])
                changed[path].size_bytes -= was.size_bytes
                changed[path].inodes -= was.inodes
            for folder in changed.values():
                change.put_folder(folder)
        self._hidden.clear()
        self._trash.clear()
        self._count = 0
