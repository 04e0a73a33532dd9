"""What every test obeys: levels that run or fail, no unexpected warning, a time limit, nothing left behind.

- The folder of a test is its level.  A level, or a test marked `needs(...)`, that cannot run here is skipped
  with the reason; where CI=true it fails instead: a suite that skipped itself has shown nothing.
- A record of logger `dsfs` at WARNING or above fails the test that did not declare it by
  `expects_log(regex)`.
- Each phase of a test (set-up, call, teardown) has a time limit: see TimeLimit.
- A test that leaves a thread or an open file fails.  Mounts and processes that outlive the session fail it
  and are removed; only its own: mounts below its temporary directory, processes with its mark.
"""

import contextlib
import faulthandler
import gc
import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.rig.leftovers import Leftovers
from tests.rig.nfs import guest

LEVEL_NEEDS = {"unit": (), "engine": (), "mount": ("fuse",), "system": ("fuse", "root"), "nfs": ("nfs", "root")}
LEVEL_LIMIT_S = {"unit": 60, "engine": 120, "mount": 240, "system": 900, "nfs": 240}
RESCUE_S = 10  # between two steps of TimeLimit
SETTLE_S = 3  # what a thread or process that was told to end may take
EXIT_HUNG = 70

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")

# The same examples in every run; `--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("dsfs", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=2_000, print_blob=True)
hypothesis.settings.load_profile("dsfs")


# -- levels --------------------------------------------------------------------------------------------------


def _missing_fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"cannot open /dev/fuse: {error.strerror}"
    return None


def _missing_root() -> str | None:
    return None if os.geteuid() == 0 else "not root"


MISSING: dict[str, Callable[[], str | None]] = {"fuse": _missing_fuse, "root": _missing_root, "nfs": guest.missing}


def _missing(name: str) -> str | None:
    """Why what is called so cannot be had here: a row of MISSING, or else a program."""
    if name in MISSING:
        return MISSING[name]()
    return None if shutil.which(name) else f"there is no {name}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        item.add_marker(item.path.relative_to(tests).parts[0])


def _level_of(item: pytest.Item) -> str:
    return next(level for level in LEVEL_NEEDS if item.get_closest_marker(level))


def _require(item: pytest.Item) -> None:
    marked = (name for mark in item.iter_markers("needs") for name in mark.args)
    needs = {*LEVEL_NEEDS[_level_of(item)], *marked}
    reasons = ", ".join(reason for name in sorted(needs) if (reason := _missing(name)))
    if reasons and IN_CI:
        pytest.fail(f"cannot run here, and with CI=true it has to: {reasons}", pytrace=False)
    if reasons:
        pytest.skip(reasons)


# -- warnings in the log -------------------------------------------------------------------------------------


class _Warnings(logging.Handler):
    """Keeps what logger `dsfs` says at WARNING or above, in whatever thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


def _fail_on_unexpected(item: pytest.Item, lines: list[str]) -> None:
    expected = [re.compile(regex) for mark in item.iter_markers("expects_log") for regex in mark.args]
    unexpected = [line for line in lines if not any(regex.search(line) for regex in expected)]
    if unexpected:
        pytest.fail("in the log, and not declared by expects_log:\n" + "\n".join(unexpected), pytrace=False)


# -- a limit on time -----------------------------------------------------------------------------------------


class TimeLimit(threading.Thread):
    """Ends a phase of a test that takes longer than `limit_s`; each step is for what the last cannot end.

    1. A SIGINT to the main thread, which `_watched` tells from the user's: ends what is in Python code, in a
       wait that a signal interrupts, or in trio, whose tasks are cancelled in order.
    2. RESCUE_S later the FUSE mounts of the session are aborted: ends a main thread that waits in the kernel
       for the answer of a dead or stuck daemon.  The test fails, the suite goes on.
    3. RESCUE_S later the stacks of all threads are printed and the run ends with EXIT_HUNG.
    """

    def __init__(self, name: str, limit_s: float, session: "Session") -> None:
        super().__init__(name=f"time limit of {name}", daemon=True)
        self._limit_s = limit_s
        self._session = session
        self._done = threading.Event()
        self.expired = False

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        if self._done.wait(self._limit_s):
            return
        self.expired = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if self._done.wait(RESCUE_S):
            return
        self._session.leftovers.release_mounts()
        if self._done.wait(RESCUE_S):
            return
        self._session.abandon(f"{self.name}: {self._limit_s:g} s passed, and nothing could end it")


def _limit_s(item: pytest.Item) -> float:
    mark = item.get_closest_marker("time_limit")
    return float(mark.args[0]) if mark else LEVEL_LIMIT_S[_level_of(item)]


# -- what a test leaves behind -------------------------------------------------------------------------------


def _threads() -> set[threading.Thread]:
    """Threads that a test has to end: all that keep a process alive, and all of dsfs.

    Not trio's, which it keeps for later use, and not daemonic ones of libraries and of the rig (a connection
    that a client keeps open keeps its thread).
    """
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith("Trio") and (not thread.daemon or thread.name.startswith("dsfs"))
    }


def _open_files() -> set[tuple[int, str]]:
    """(fd, target) of this process for files, devices and pipes.

    Not sockets, epoll and eventfd: HTTP clients keep connections, obstore's runtime is never ended.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(("/", "pipe:")) and target != f"/proc/{os.getpid()}/fd":
                found.add((int(name), target))
    return found


def _leaked(before: tuple[set[threading.Thread], set[tuple[int, str]]]) -> list[str]:
    threads, files = before
    return [f"thread {thread.name}" for thread in _threads() - threads] + [
        f"file {target} (fd {fd})" for fd, target in _open_files() - files
    ]


def _fail_on_leak(before: tuple[set[threading.Thread], set[tuple[int, str]]]) -> None:
    if _leaked(before):
        gc.collect()
    deadline = time.monotonic() + SETTLE_S
    while (leaked := _leaked(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    if leaked:
        pytest.fail("left behind: " + ", ".join(leaked), pytrace=False)


class Session:
    """What belongs to the whole run."""

    def __init__(self, tmp: Path) -> None:
        self.leftovers = Leftovers(tmp)
        self._stderr = os.dup(2)  # pytest captures 2 while a test runs

    def abandon(self, reason: str) -> None:
        """End the run now, from any thread: say why, show all stacks, remove mounts and processes."""
        os.write(self._stderr, f"\n{reason}\n".encode())
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        self.leftovers.release_mounts()
        self.leftovers.kill_processes(0)
        os._exit(EXIT_HUNG)


# -- where pytest calls all this -----------------------------------------------------------------------------

SESSION = pytest.StashKey[Session]()
WARNINGS = pytest.StashKey[_Warnings]()
BEFORE = pytest.StashKey[tuple[set[threading.Thread], set[tuple[int, str]]]]()
LEFT = pytest.StashKey[list[str]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    # A shell has its background jobs ignore it; TimeLimit, and launchers that tests interrupt, rely on it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # pytest has no public way to it outside a fixture, and the time limit is needed before the first one.
    factory: pytest.TempPathFactory = session.config._tmp_path_factory  # type: ignore[attr-defined]
    session.config.stash[SESSION] = Session(factory.getbasetemp())


@contextlib.contextmanager
def _watched(item: pytest.Item, phase: str) -> Iterator[None]:
    """A phase under its time limit; its warnings are judged at its end, unless it failed anyway."""
    seen = _Warnings()
    logger = logging.getLogger("dsfs")
    logger.addHandler(seen)
    limit = TimeLimit(f"{item.nodeid} ({phase})", _limit_s(item), item.config.stash[SESSION])
    try:
        with limit:
            yield
    except BaseException as error:
        if limit.expired:
            raise pytest.fail.Exception(f"{limit.name}: {_limit_s(item):g} s have passed") from error
        raise
    finally:
        logger.removeHandler(seen)
    _fail_on_unexpected(item, seen.lines)


@pytest.hookimpl(wrapper=True, trylast=True)  # within pytest's own wrappers: they expect to have begun
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    _require(item)
    with _watched(item, "set-up"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    item.stash[BEFORE] = (_threads(), _open_files())
    with _watched(item, "call"):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    with _watched(item, "teardown"):
        yield
    if BEFORE in item.stash:
        _fail_on_leak(item.stash[BEFORE])


@pytest.hookimpl(tryfirst=True)  # before pytest removes the temporary directory, mounts and all
def pytest_sessionfinish(session: pytest.Session) -> None:
    own = session.config.stash.get(SESSION, None)
    if own is None:
        return
    left = [f"mount {path}" for path in own.leftovers.release_mounts()]
    left += [f"process {line}" for line in own.leftovers.kill_processes(SETTLE_S)]
    session.config.stash[LEFT] = left
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LEFT, []):
        terminalreporter.write_line(f"left behind by a test, now removed: {line}", red=True)
