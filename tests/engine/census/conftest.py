"""A node whose census is looked at, and the directory of others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.censused import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "one", tmp_path / "backing")
    yield made
    made.census.close()
