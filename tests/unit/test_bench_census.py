"""The benchmark of the census, in small."""

import time
from pathlib import Path

from bench.census.content import change, make
from bench.census.rounds import measure

SEGMENTS = 300


def test_count_is_complete_and_a_quiet_one_looks_at_folders_only(tmp_path: Path) -> None:
    backing, state = tmp_path / "backing", tmp_path / "state"
    make(backing, SEGMENTS, versions=4)
    now_ns = time.time_ns() + 3600 * 10**9
    first, quiet = (measure(backing, state, now_ns + number) for number in range(2))
    change(backing, SEGMENTS, changed=20)
    changed = measure(backing, state, now_ns + 2)
    assert first.entries > 2 * SEGMENTS > quiet.entries
    assert quiet.entries < changed.entries
    assert (first.rounds, quiet.rounds, changed.rounds) == (1, 1, 1)
    assert len(list(backing.glob("segments/*/*.sum"))) == SEGMENTS
