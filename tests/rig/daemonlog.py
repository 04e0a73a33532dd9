"""What a daemon's log may hold: its lines, judged as the tests' own log records are."""

import re
from collections.abc import Iterable, Sequence

import pytest

from tests.rig.node import Node

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z ((\w+) .*)")
HARMLESS = ("DEBUG", "INFO")
# The rig's backing directory is a local one, and may be small; tests of an origin's faults have little patience with
# it; a summary of repeats stands for lines of which the first was judged.
USUAL = re.compile(
    r"\[backing\] path: .* not on a network file system|\[backing\] limit: .* is more than the .* file system there"
    r"|\[backing\] timeout: not shorter|state_dir: .* is on tmpfs|: \d+ more like this within "
)


def unexpected_lines(log: str, expected: Iterable[str] = ()) -> list[str]:
    """Lines at WARNING or above, or that are no log lines at all, which none of the regular expressions matches."""
    patterns = [re.compile(regex) for regex in expected]
    found = []
    for line in log.splitlines():
        match = LOG_LINE.fullmatch(line)
        text = match[1] if match else line
        if match and match[2] in HARMLESS:
            continue
        if not USUAL.search(text) and not any(pattern.search(text) for pattern in patterns):
            found.append(line)
    return found


def judge(nodes: Sequence[Node], request: pytest.FixtureRequest) -> None:
    """Fail the test if a log of its daemons has what it does not declare by `expects_log(regex)`.

    Where a test fails, for whatever reason, pytest shows the ends of the logs.
    """
    expected = [regex for mark in request.node.iter_markers("expects_log") for regex in mark.args]
    for node in nodes:
        print(f"{node.log}:\n{node.log_tail()}")
    unexpected = [line for node in nodes for line in unexpected_lines(node.log_text(), expected)]
    assert not unexpected, "in a daemon's log, and not declared by expects_log"
