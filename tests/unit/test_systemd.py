"""The unit file: systemd takes it as it is, and nothing in it hides the mount from the host."""

import re
import subprocess
from pathlib import Path

import pytest

from dsfs import cli

UNIT = Path(__file__).parents[2] / "systemd" / "dsfs@.service"

# Each of these gives a service its own mount namespace (systemd.exec(5)); a mount made there stays there.
MAKES_A_MOUNT_NAMESPACE = (
    "BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionDirectories", "ExtensionImages",
    "InaccessiblePaths", "LogNamespace", "MountFlags", "MountImages", "NetworkNamespacePath", "NoExecPaths",
    "PrivateDevices", "PrivateIPC", "PrivateMounts", "PrivateNetwork", "PrivateTmp", "PrivateUsers",
    "ProcSubset", "ProtectControlGroups", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths",
    "RootDirectory", "RootImage", "TemporaryFileSystem",
)  # fmt: skip
CLOSES_DEV_FUSE = ("DeviceAllow", "DevicePolicy", "ProtectClock")


def directives() -> dict[str, list[str]]:
    """Values by the name of the directive, in the order of the file."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.mark.needs("systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text, count = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    assert count == 1
    copy = tmp_path / "dsfs@sample.service"
    copy.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")


@pytest.mark.parametrize("directive", MAKES_A_MOUNT_NAMESPACE)
def test_no_directive_hides_the_mount_from_the_host(directive: str) -> None:
    assert directive not in directives()


@pytest.mark.parametrize("directive", CLOSES_DEV_FUSE)
def test_no_directive_takes_the_fuse_device_away(directive: str) -> None:
    assert directive not in directives()


def test_daemon_is_notified_watched_stopped_and_started_again() -> None:
    unit = directives()
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["on-failure"]
    assert unit["KillMode"] == ["mixed"]
    assert "KillSignal" not in unit  # SIGTERM
    assert "ExecStop" not in unit
    assert int(unit["WatchdogSec"][0]) > 0
    assert int(unit["TimeoutStopSec"][0]) > 0


def test_daemon_understands_its_command_line_and_a_bad_configuration_is_not_tried_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    unit = directives()
    program, *arguments = unit["ExecStart"][0].replace("%i", "missing").split()
    assert Path(program).name == "dsfs"
    code = cli.main(arguments)
    assert "/etc/dsfs/missing.toml: cannot be read" in capsys.readouterr().err
    assert unit["RestartPreventExitStatus"] == [str(code)]


def test_secrets_come_from_a_file_and_not_from_the_unit() -> None:
    assert directives()["EnvironmentFile"] == ["-/etc/dsfs/%i.env"]
    assert "Environment" not in directives()
