"""One daemon for each state directory."""

import errno
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from dsfs.model.errors import BackingError, BusyError
from dsfs.storage.statelock import state_lock
from tests.engine.stopping import stopping_at

HOLD = """
import sys
from pathlib import Path
from dsfs.storage.statelock import state_lock
with state_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
ROOT = Path(__file__).parents[2]


def test_lock_makes_the_directory_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with state_lock(tmp_path / "deep" / "state"):
            assert (tmp_path / "deep" / "state" / "daemon.lock").read_text() == f"{os.getpid()}\n"


def test_second_daemon_is_told_who_has_the_directory(tmp_path: Path) -> None:
    told = pytest.raises(BusyError, match=rf"another dsfs daemon \(pid {os.getpid()}\)")
    with state_lock(tmp_path), told, state_lock(tmp_path):
        pass


def test_loser_leaves_the_pid_of_the_holder(tmp_path: Path) -> None:
    with state_lock(tmp_path):
        with pytest.raises(BusyError), state_lock(tmp_path):
            pass
        assert (tmp_path / "daemon.lock").read_text() == f"{os.getpid()}\n"


def test_lock_of_a_killed_daemon_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=rf"\(pid {holder.pid}\)"), state_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with state_lock(tmp_path):
            pass


def test_shorter_pid_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").write_text("123456789012345\n")
    with state_lock(tmp_path):
        assert (tmp_path / "daemon.lock").read_text() == f"{os.getpid()}\n"


def test_error_inside_is_passed_on_and_the_lock_is_free(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), state_lock(tmp_path):
        raise ZeroDivisionError
    with state_lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ENOLCK])
def test_directory_that_cannot_be_used_is_a_clear_error(tmp_path: Path, number: int) -> None:
    for step in count(1):
        path = tmp_path / str(step)
        with stopping_at(step, OSError(number, "refused by the test")) as stop:
            said = ""
            try:
                with state_lock(path):
                    pass
            except BackingError as exc:
                said = str(exc)
        assert said == (f"state directory {path}: refused by the test" if stop.was_reached else "")
        with state_lock(path):
            pass
        if not stop.was_reached:
            assert step > 4
            break


def test_file_in_its_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(BackingError, match="File exists"), state_lock(tmp_path / "state"):
        pass
