"""Events as people see them."""

import pytest

from dsfs.admin.eventlines import event_line

EVENT = {
    "at_s": 1_800_000_000.0, "kind": "dropped", "dataset": "photos", "version": "v1", "bytes": 5 * 2**30,
    "why": "by ann", "node": "0123456789abcdef", "host": "gpu1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "gpu1  photos/v1 dropped 5.00 GiB (by ann)"),
        ({"bytes": 0, "why": ""}, "gpu1  photos/v1 dropped"),
        ({"kind": "started", "dataset": "", "version": "", "bytes": 0, "why": "x\n"}, r"gpu1  node started (x\n)"),
    ],
)
def test_line_says_when_where_what_and_why(changes: dict[str, object], line: str) -> None:
    at, told = event_line(EVENT | changes).split("  ", 1)
    assert at.startswith("2027-01-1")
    assert told == line
