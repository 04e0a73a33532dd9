"""The guards of tests/conftest.py catch what they are for: shown by a small suite that runs under them."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
MARKERS = "\n".join(f"    {name}" for name in ("unit", "mount", "needs", "expects_log", "time_limit"))
IMPORTS = "import logging, os, subprocess, sys, threading, pytest\nlog = logging.getLogger('dsfs.storage')\n"


def run(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    suite: str,
    *,
    level: str = "unit",
    ci: bool = False,
    conftest: str = "",
) -> pytest.RunResult:
    """Run `suite` as one file of a level, in a process of its own; `conftest` is put behind the real one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CI", "true" if ci else "")
    pytester.makeini(f"[pytest]\ntrio_mode = true\nmarkers =\n{MARKERS}\n")
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text() + conftest)
    (pytester.mkdir(level) / "test_suite.py").write_text(IMPORTS + suite)
    return pytester.runpytest_subprocess("-rA", "-p", "no:cacheprovider")


def test_undeclared_warning_fails_a_test(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = """
def test_silent(): log.info("resident")

def test_undeclared(): log.warning("slow %s", "server")

@pytest.mark.expects_log("slow .*")
def test_declared(): log.warning("slow server")

@pytest.mark.expects_log("slow .*")
def test_other_than_declared(): log.error("no room")
"""
    result = run(pytester, monkeypatch, suite)
    result.assert_outcomes(passed=2, failed=2)
    result.stdout.fnmatch_lines(["WARNING dsfs.storage: slow server", "ERROR dsfs.storage: no room"])


def test_what_is_left_behind_fails_a_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = """
end = threading.Event()

def test_thread(): threading.Thread(target=end.wait).start()

def test_file(): os.open("/dev/null", os.O_RDONLY)

def test_thread_that_ends(): threading.Timer(0.1, end.set).start()
"""
    result = run(pytester, monkeypatch, suite, conftest="\nSETTLE_S = 0.5\n")
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["left behind: thread *", "left behind: file /dev/null (fd *)"])


def test_process_that_outlives_the_session_fails_it_and_is_killed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = """
def test_forgets_a_process():
    command = [sys.executable, "-c", "import time; time.sleep(60)", "forgotten"]
    subprocess.run(["setsid", "--fork", *command], stdout=subprocess.DEVNULL)
"""
    result = run(pytester, monkeypatch, suite, conftest="\nSETTLE_S = 0.2\n")
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["left behind by a test, now removed: process * forgotten"])


def test_hung_test_fails_and_the_suite_goes_on(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = """
import trio

@pytest.mark.time_limit(0.2)
def test_waits_for_ever(): threading.Event().wait()

@pytest.mark.time_limit(0.2)
async def test_sleeps_for_ever(): await trio.sleep_forever()

async def test_next(): await trio.lowlevel.checkpoint()
"""
    result = run(pytester, monkeypatch, suite)
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*test_waits_for_ever (call): 0.2 s have passed"])
    result.stdout.fnmatch_lines(["*test_sleeps_for_ever (call): 0.2 s have passed"])


def test_hung_test_that_nothing_can_end_is_named_and_ends_the_run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = """
import signal

@pytest.mark.time_limit(0.2)
def test_deaf():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    threading.Event().wait()
"""
    result = run(pytester, monkeypatch, suite, conftest="\nRESCUE_S = SETTLE_S = 0.1\n")
    assert result.ret == 70
    result.stderr.fnmatch_lines(["*test_deaf (call): 0.2 s passed, *", "*in test_deaf"])


@pytest.mark.parametrize(("ci", "outcome"), [(False, "skipped"), (True, "errors")])
def test_level_that_cannot_run_is_skipped_and_fails_under_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: bool, outcome: str
) -> None:
    without_fuse = "\nMISSING['fuse'] = lambda: 'no fuse here'\n"
    suite = "def test_mount(): pass\n"
    result = run(pytester, monkeypatch, suite, level="mount", ci=ci, conftest=without_fuse)
    assert result.parseoutcomes() == {outcome: 1}
    result.stdout.fnmatch_lines(["*no fuse here*"])


@pytest.mark.parametrize(("ci", "outcome"), [(False, "skipped"), (True, "errors")])
def test_missing_program_skips_its_test_and_fails_it_under_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: bool, outcome: str
) -> None:
    suite = """
@pytest.mark.needs("sh")
def test_with_a_shell(): pass

@pytest.mark.needs("dsfs-no-such-program")
def test_with_what_nobody_has(): pass
"""
    result = run(pytester, monkeypatch, suite, ci=ci)
    assert result.parseoutcomes() == {"passed": 1, outcome: 1}
    result.stdout.fnmatch_lines(["*there is no dsfs-no-such-program*"])
