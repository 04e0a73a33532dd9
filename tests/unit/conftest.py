"""A configuration, and a daemon that answers from a table."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.fake_daemon import FakeDaemon


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "dsfs.toml"
    path.write_text(
        f'mountpoint = "{tmp_path}/mnt"\nstate_dir = "{tmp_path}"\n[origin]\nurl = "s3://lake"\n'
        f'[backing]\npath = "{tmp_path}/backing"\nlimit = "1GiB"\n'
    )
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "control.sock") as running:
        yield running
