"""The listing of a version: all objects below a prefix, in the order of their keys, by several LISTs at a time.

A LIST gives up to 1,000 keys, and the next needs the last of them, so one after the other is slow.  But a LIST
may start after any key.  The keys are therefore cut into ranges that are listed at the same time: whoever lists
a range cuts it after a page, while connections are free (model/keyrange.py guesses where).  A range wastes at
most one LIST, its last, which may bring few keys or none: so ranges are cut only while what they have wasted,
and may yet, is a small share of the LISTs that were needed.

Objects go through an unnamed file, which vanishes when it is closed, however the process ends: memory stays
bounded while ranges that are not yet wanted run ahead.

Concurrency: one thread lists a range at a time, and only it cuts the range.  `_changed` guards the chain of
ranges and all counts; the file is written and read at positions that are given out once.  The caller's thread
follows the chain.  Threads end when all is listed, at the first error, or when the iterator is closed; each
finishes the LIST it is in.
"""

import marshal
import os
import tempfile
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import IO, Protocol

from dsfs.model.errors import OriginError
from dsfs.model.keyrange import cuts_ahead, cuts_towards, pages_left
from dsfs.model.objects import ObjectRef
from dsfs.model.printable import printable

FREE_LISTS = 8  # LISTs that may be wasted to begin with ...
EXTRA_LISTS = 0.4  # ... and for each that was needed
PAGES_WORTH_A_RANGE = 2  # fewer are listed as fast by whoever is there


class Lister(Protocol):
    """What a listing needs of an origin."""

    def list_page(self, prefix: str, start_after: str, max_keys: int = 1000) -> tuple[list[ObjectRef], bool]:
        """One LIST: objects with keys behind `start_after`, at least one if it tells that there are more."""


def list_version(
    origin: Lister,
    prefix: str,
    spool_dir: Path,
    connections: int = 16,
    on_progress: Callable[[int], None] = lambda listed: None,
) -> Generator[ObjectRef, None, None]:
    """All objects below `prefix`, in the UTF-8 order of their keys.

    `on_progress` is told in the iterating thread how many objects were listed so far.  Raises what the origin
    raises first, and OriginError if it does not list in that order.  Nothing happens before the first object is
    asked for; an iterator that is given up early has to be closed.
    """
    page, is_truncated = _listed(origin, prefix, "")
    on_progress(len(page))
    if not is_truncated:
        yield from page
        return
    with closing(_Listing(origin, prefix, spool_dir, connections)) as listing:
        listing.start(page)
        yield from listing.objects(on_progress)


def _listed(origin: Lister, prefix: str, start_after: str) -> tuple[list[ObjectRef], bool]:
    page, is_truncated = origin.list_page(prefix, start_after)
    # str compares code points, which is the order of UTF-8.  Ranges rest on it: a server with another order
    # (S3 Express, UTF-16) would lose files without a word.
    for before, after in pairwise((start_after, *(obj.key for obj in page))):
        if before >= after:
            raise OriginError(f"the origin lists keys out of order: '{printable(after)}' behind '{printable(before)}'")
    return page, is_truncated


@dataclass(eq=False, slots=True)
class _Range:
    """Keys behind `start_after` up to and including `end` (None: to the last below the prefix).

    `newest` is the first and last key of the newest page; `first` the first key found, None while there is none.
    `pages` are the positions of its pages in the spool.  Ranges form a chain, in the order of keys.
    """

    start_after: str
    end: str | None
    following: "_Range | None"
    newest: tuple[str, str] | None = None
    first: str | None = None
    pages: list[tuple[int, int]] = field(default_factory=list)
    is_done: bool = False

    @property
    def is_empty(self) -> bool:
        return self.is_done and self.first is None


class _Spool:
    """Pages of objects in an unnamed file; any thread may write and read."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - see close()
        self._lock = threading.Lock()
        self._size = 0

    def write(self, page: list[ObjectRef]) -> tuple[int, int]:
        """Where the page lies now: (offset, length) in bytes."""
        # marshal is private to one version of Python: so is this file, to one process.
        content = marshal.dumps([(obj.key, obj.size, obj.etag, obj.modified_s) for obj in page])
        with self._lock:
            offset = self._size
            self._size += len(content)
        done = 0
        while done < len(content):
            done += os.pwrite(self._file.fileno(), content[done:], offset + done)
        return offset, len(content)

    def read(self, position: tuple[int, int]) -> Iterator[ObjectRef]:
        offset, length = position
        content = os.pread(self._file.fileno(), length, offset)
        return (ObjectRef(*fields) for fields in marshal.loads(content))

    def close(self) -> None:
        self._file.close()


class _Listing:
    """One listing under way.

    INVARIANT: the ranges of the chain are neighbours without gap or overlap; a range is in `_waiting`, or one
    thread is inside it, or it is done; `_unfinished` counts those that are not done.
    """

    def __init__(self, origin: Lister, prefix: str, spool_dir: Path, connections: int) -> None:
        self._origin = origin
        self._prefix = prefix
        self._connections = connections
        self._spool = _Spool(spool_dir)
        self._changed = threading.Condition()
        self._head = _Range("", None, None)
        self._waiting: deque[_Range] = deque()
        self._threads: list[threading.Thread] = []
        self._unfinished = 1
        self._page_size = 1
        self._wasted_lists = 0.0
        self._listed = 0
        self._error: BaseException | None = None
        self._is_stopping = False

    def start(self, page: list[ObjectRef]) -> None:
        """Go on behind the first page, which was full."""
        self._page_size = len(page)
        self._waiting.append(self._head)
        self._take_page(self._head, page, is_last=False)
        with self._changed:
            self._start_threads()

    def objects(self, on_progress: Callable[[int], None]) -> Iterator[ObjectRef]:
        """All objects, as soon as those before them are listed."""
        current: _Range | None = self._head
        read = 0
        while current is not None:
            position = self._wait_page(current, read, on_progress)
            if position is not None:
                read += 1
                yield from self._spool.read(position)
            else:
                current, read = current.following, 0

    def _wait_page(self, current: _Range, number: int, on_progress: Callable[[int], None]) -> tuple[int, int] | None:
        """Position of the range's page `number`; None if it has no more."""
        while True:
            with self._changed:
                if self._error is not None:
                    raise self._error
                listed = self._listed
                if number < len(current.pages):
                    position = current.pages[number]
                    break
                if current.is_done:
                    return None
                self._changed.wait()
            on_progress(listed)
        on_progress(listed)
        return position

    def close(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._spool.close()

    # ------------------------------------------------------------------ in the threads

    def _work(self) -> None:
        try:
            while (taken := self._wait_range()) is not None:
                while not taken.is_done and not self._is_stopping:
                    self._list_on(taken)
        except BaseException as exc:  # whatever it was: it belongs to the caller, who waits
            with self._changed:
                self._error = self._error or exc
                self._is_stopping = True
                self._changed.notify_all()

    def _wait_range(self) -> _Range | None:
        """The next range to list; None if there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopping or not self._unfinished)
            return None if self._is_stopping or not self._waiting else self._waiting.popleft()

    def _list_on(self, current: _Range) -> None:
        """List one more page of the range."""
        last = current.newest[1] if current.newest is not None else current.start_after
        page, is_truncated = _listed(self._origin, self._prefix, last)
        inside = len(page) if current.end is None else bisect_right(page, current.end, key=attrgetter("key"))
        self._take_page(current, page[:inside], is_last=not is_truncated or inside < len(page))

    def _take_page(self, current: _Range, page: list[ObjectRef], *, is_last: bool) -> None:
        position = self._spool.write(page) if page else None
        with self._changed:
            if position is not None:
                current.newest = (page[0].key, page[-1].key)
                current.first = current.first or page[0].key
                current.pages.append(position)
                self._listed += len(page)
            if is_last:
                current.is_done = True
                self._unfinished -= 1
                self._wasted_lists += 1 - len(page) / self._page_size
            else:
                self._cut(current)
            self._changed.notify_all()

    def _cut(self, current: _Range) -> None:
        """Give the rest of the range to free connections, as far as LISTs may be wasted."""
        allowed = FREE_LISTS + EXTRA_LISTS * self._listed / self._page_size - self._wasted_lists
        count = min(self._connections, int(allowed)) - self._unfinished
        cuts = self._cuts(current, count) if count > 0 else []
        new: list[_Range] = []
        for cut in reversed(cuts):
            current.following = _Range(cut, current.end, current.following)
            current.end = cut
            new.insert(0, current.following)
        self._unfinished += len(new)
        self._waiting.extend(new)
        self._start_threads()

    def _cuts(self, current: _Range, count: int) -> list[str]:
        """Where to cut the range, into `count` ranges more at most."""
        if current.newest is None:
            return []
        first, last = current.newest
        following = current.following
        if following is not None and current.end is not None and not following.is_empty:
            if following.first is None:
                return []  # what lies behind the range will be known soon: no guess before
            count = int(min(count, pages_left(first, last, following.first) / PAGES_WORTH_A_RANGE))
            if cuts := cuts_towards(last, end=current.end, beyond=following.first, count=count):
                return cuts
        return cuts_ahead(first, last, end=current.end, fixed=len(self._prefix), count=count)

    def _start_threads(self) -> None:
        """A thread for each range that is not done, up to the number of connections."""
        while len(self._threads) < min(self._connections, self._unfinished):
            thread = threading.Thread(target=self._work, name=f"dsfs-list-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
