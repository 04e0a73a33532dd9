"""What `dsfs doctor --json` said, and what of it says something about dsfs."""

import json
import subprocess
from typing import Any

# How fast a test machine is, and what others do on its disk meanwhile, is no matter of these tests.
BUSY = {
    "node.memory", "node.state_room", "directory.answers", "directory.latency", "directory.lock_time",
    "directory.write_speed", "directory.read_speed", "directory.space_return",
    "origin.reach", "origin.list", "origin.first_byte", "origin.throughput",
}  # fmt: skip
# What a container or a machine without a time service makes of it is none either.
SURROUNDINGS = {"node.clock_synchronized", "node.open_files", "node.passthrough", "node.allow_other", "node.requests"}
OK, NOTE, WARN, FAIL, UNKNOWN = "ok", "note", "warn", "fail", "not checked"


class Report:
    """What `dsfs doctor --json` said; the verdicts of checks by their names."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        assert done.stderr == ""
        self.code = done.returncode
        self.checks: dict[str, dict[str, Any]] = {check["check"]: check for check in json.loads(done.stdout)["checks"]}

    def __getitem__(self, name: str) -> str:
        return str(self.checks[name]["verdict"])

    def measured(self, name: str) -> str:
        return str(self.checks[name]["measured"])

    def named(self, area: str) -> set[str]:
        return {name for name in self.checks if name.startswith(area + ".")}

    def other_than_ok(self) -> dict[str, str]:
        """But for what depends on the machine."""
        return {name: self[name] for name in self.checks.keys() - BUSY - SURROUNDINGS if self[name] != OK}
