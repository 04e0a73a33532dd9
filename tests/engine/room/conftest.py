"""What every test of room begins with."""

from pathlib import Path

import pytest

from dsfs.storage.backing import BackingDirectory
from tests.engine.backing_sample import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backing(tmp_path: Path) -> BackingDirectory:
    return BackingDirectory(tmp_path)
