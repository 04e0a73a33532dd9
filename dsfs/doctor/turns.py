"""Two nodes act and look, in turn; each measures what it saw of the other."""

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from dsfs.doctor import semantics
from dsfs.doctor.judgement import pair as judge
from dsfs.doctor.meeting import Meeting
from dsfs.doctor.semantics import BLOCK, opened, random_block, read_block
from dsfs.storage.filesystem import attributes_of
from dsfs.storage.rangelock import try_lock

T = TypeVar("T")

_POLL_S = 0.05
_TICK_S = 0.05
_CACHED_BLOCKS = 16
_REMOVED_BYTES = 64 * BLOCK  # more than is read ahead when its beginning is read


class Turn:
    """One acts and one looks, in a folder of their own; they wait for each other at numbered points."""

    def __init__(self, meeting: Meeting, topic: str, number: int) -> None:
        self.folder = meeting.work(f"{topic}-{number}")
        self._meeting = meeting
        self._topic = f"{topic}-{number}"
        self._point = 0

    def wait(self, message: object = None) -> Any:
        """Until the other is here, too; what it says."""
        self._point += 1
        return self._meeting.exchange(f"{self._topic}-{self._point}", message)


def _in_turn(topic: str, act: Callable[[Turn], None], look: Callable[[Turn], T]) -> Callable[[Meeting], T]:
    """A measurement: first one node acts and the other looks, then the other way round.  `topic`: a word."""

    def measure(meeting: Meeting) -> T:
        try:
            if meeting.is_first:
                act(Turn(meeting, topic, 1))
                return look(Turn(meeting, topic, 2))
            seen = look(Turn(meeting, topic, 1))
            act(Turn(meeting, topic, 2))
            return seen
        except OSError:
            meeting.give_up(topic)
            raise

    return measure


def _hold_locks(turn: Turn) -> None:
    with opened(turn.folder / "locks", size=BLOCK) as file:
        file.write(random_block(), BLOCK, 0)
        try_lock(file.fd, 0, 1)
        semantics.lock_first_byte(file)
        turn.wait()
        turn.wait()
    turn.wait()


def _try_locks(turn: Turn) -> judge.Locks:
    turn.wait()
    with opened(turn.folder / "locks") as file:
        excluded = not try_lock(file.fd, 0, 1)
        bytes_error = semantics.touch_locked(file, random_block())
        turn.wait()
        turn.wait()
        freed_s = _until(lambda: try_lock(file.fd, 0, 1), judge.FREE_S)
    return judge.Locks(excluded, freed_s, bytes_error)


def _make_name(turn: Turn) -> None:
    (turn.folder / "early").touch()
    turn.wait()
    turn.wait()
    os.link(turn.folder / "early", turn.folder / "late")
    turn.wait()


def _look_for_name(turn: Turn) -> judge.Seen:
    """By an open folder: on the way from the root each step might ask the server, and so tell more than the name."""
    turn.wait()
    folder = os.open(turn.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _is_there("late", folder)  # too early: the client may remember that there is none
        turn.wait()
        turn.wait()
        after_s = _until(lambda: _is_there("late", folder))
        attributes_of(folder, anew=True)  # names are looked up anew then
        return judge.Seen(after_s, _is_there("late", folder))
    finally:
        os.close(folder)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _grow(turn: Turn) -> None:
    with opened(turn.folder / "size", size=0) as file:
        file.write(random_block(), BLOCK, 0)
        turn.wait()
        turn.wait()
        file.write(random_block(), BLOCK, BLOCK)
    turn.wait()


def _look_at_size(turn: Turn) -> judge.Seen:
    turn.wait()
    fd = os.open(turn.folder / "size", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fstat(fd)
        turn.wait()
        turn.wait()
        after_s = _until(lambda: os.fstat(fd).st_size == 2 * BLOCK)
        return judge.Seen(after_s, attributes_of(fd, anew=True).size == 2 * BLOCK)
    finally:
        os.close(fd)


def _fill_hole(turn: Turn) -> None:
    block = random_block()
    with opened(turn.folder / "hole", size=2 * BLOCK) as file:
        turn.wait()
        turn.wait()
        file.write(block, BLOCK, BLOCK)
    turn.wait(sha256(block).hexdigest())


def _look_into_hole(turn: Turn) -> bool:
    turn.wait()
    with open(turn.folder / "hole", "rb") as buffered, opened(turn.folder / "hole") as file:
        buffered.read()  # zeros, which the page cache keeps
        read_block(file, BLOCK)
        turn.wait()
        wanted = turn.wait()
        return bool(sha256(read_block(file, BLOCK)).hexdigest() == wanted)


def links(meeting: Meeting) -> judge.Links:
    folder = meeting.work("links")
    own = folder / f"own-{meeting.is_first}"
    own.touch()
    meeting.exchange("links-ready")
    won = 0
    for number in range(judge.LINKS):
        with suppress(FileExistsError):
            os.link(own, folder / f"{number}")
            won += 1
    return judge.Links(won, int(meeting.exchange("links-won", won)))


def _remove_open(turn: Turn) -> None:
    with opened(turn.folder / "open", size=_REMOVED_BYTES):
        turn.wait()
    turn.wait()
    os.rename(turn.folder / "open", turn.folder / "trash")
    os.unlink(turn.folder / "trash")
    turn.wait()
    turn.wait()


def _use_removed(turn: Turn) -> judge.OpenUnlink:
    turn.wait()
    with opened(turn.folder / "open") as file, open(turn.folder / "open", "rb") as buffered:
        buffered.read(BLOCK)
        with mmap.mmap(buffered.fileno(), _REMOVED_BYTES, prot=mmap.PROT_READ) as mapping:
            turn.wait()
            turn.wait()
            read_error = 0
            try:
                read_block(file, BLOCK)
            except OSError as exc:
                read_error = exc.errno or -1
            seen = judge.OpenUnlink(read_error, _signal_of(lambda: mapping[_REMOVED_BYTES - 1]))
    turn.wait()
    return seen


def _signal_of(touch: Callable[[], object]) -> int:
    """What ends a process that does this; 0 = nothing."""
    pid = os.fork()
    if pid == 0:
        touch()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _read_too(turn: Turn) -> None:
    path = turn.folder / "cached"
    with opened(path, size=0) as file:
        for number in range(_CACHED_BLOCKS):
            file.write(random_block(), BLOCK, number * BLOCK)
        time.sleep(_TICK_S)
        read_block(file, 0)  # with relatime, which does no harm, the first read after a write counts
    turn.wait()
    turn.wait()
    time.sleep(_TICK_S)
    with opened(path) as file:
        read_block(file, 0)
    turn.wait()


def _keep_pages(turn: Turn) -> judge.PageCache:
    path = turn.folder / "cached"
    turn.wait()
    path.read_bytes()
    turn.wait()
    turn.wait()
    return _pages_in_memory(path)


def _pages_in_memory(path: Path) -> judge.PageCache:
    """After a fresh open, which asks the server whether the file is still the same."""
    size = _CACHED_BLOCKS * BLOCK
    pages = size // mmap.PAGESIZE
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    vector = ctypes.create_string_buffer(pages)
    if ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(ctypes.c_char.from_buffer(mapping)), size, vector) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return judge.PageCache(pages, sum(byte & 1 for byte in vector.raw))


def _until(condition: Callable[[], bool], wait_s: float = judge.SEEN_S) -> float | None:
    """Seconds until it is true; None if that takes longer."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > wait_s:
            return None
        time.sleep(_POLL_S)
    return time.monotonic() - started


locks = _in_turn("locks", _hold_locks, _try_locks)
names = _in_turn("names", _make_name, _look_for_name)
sizes = _in_turn("sizes", _grow, _look_at_size)
direct = _in_turn("direct", _fill_hole, _look_into_hole)
open_unlink = _in_turn("open", _remove_open, _use_removed)
page_cache = _in_turn("cache", _read_too, _keep_pages)
