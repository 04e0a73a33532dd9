"""Where commands write to: pipes that somebody closes, disks that are full, terminals that know ASCII only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.fake_daemon import EVENT, FakeDaemon


@pytest.mark.parametrize("verb", ["metrics", "ls", "ls --json"])
def test_reader_of_a_pipe_that_leaves_early_ends_the_command_quietly(daemon: FakeDaemon, verb: str) -> None:
    daemon.answers["metrics"] = {"text": "x" * 1_000_000 + "\n"}
    daemon.answers["ls"] = {"entries": [{"name": f"{number:0200}", "kind": "file"} for number in range(5_000)]}
    command = [sys.executable, "-m", "dsfs", *verb.split(), "--socket", str(daemon.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize("events", [[EVENT], []], ids=["events", "none"])
def test_events_are_followed_no_longer_than_somebody_reads_them(daemon: FakeDaemon, events: list[object]) -> None:
    """Also where nothing happens any more, so that nothing is written."""
    daemon.answers["events"] = {"events": events, "read_until": {}, "damaged_lines": 0}
    command = [sys.executable, "-m", "dsfs", "events", "-f", "--socket", str(daemon.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("verb", ["metrics", "status", "status --json"])
def test_standard_output_that_is_full_is_one_line_and_a_failure(daemon: FakeDaemon, verb: str) -> None:
    command = [sys.executable, "-m", "dsfs", *verb.split(), "--socket", str(daemon.path)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert done.returncode == 1
    said = json.loads(done.stderr)["error"] if "--json" in verb else done.stderr
    assert said.removeprefix("dsfs: ").rstrip() == "standard output: No space left on device"


@pytest.mark.parametrize("words", ["--help", "--version", "warm --help", "config --help"])
@pytest.mark.parametrize("buffering", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_help_that_cannot_be_written_is_a_failure(words: str, buffering: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | buffering
    command = [sys.executable, "-m", "dsfs", *words.split()]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stderr) == (1, "dsfs: standard output: No space left on device\n")


def test_standard_error_that_is_full_leaves_the_exit_code(config: Path) -> None:
    command = [sys.executable, "-m", "dsfs", "status", "--config", str(config)]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stderr=full, timeout=30).returncode == 3


def test_output_for_a_terminal_that_knows_ascii_only(daemon: FakeDaemon) -> None:
    daemon.answers["ls"] = {"entries": [{"name": "Grüße", "kind": "file"}]}
    command = [sys.executable, "-m", "dsfs", "ls", "--socket", str(daemon.path)]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"Gr\xfc\xdfe" in done.stdout
