"""What people and machines see of what the doctor found."""

import pytest

from dsfs.doctor.check import Finding, Verdict, fail, note, ok, warn
from dsfs.doctor.examine import Row
from dsfs.doctor.judgement.nfs import Lease
from dsfs.doctor.report import Pages, exit_code, to_json

GOOD = Row("nfs.hard", ok("hard"), "hard", 0.1)
NOTED = Row("nfs.lease", note("91 s", "shorter"), Lease(91, 0), 0.1)
WARNED = Row("nfs.version", warn("NFS 3\x1b[2J", "mount option vers=4.1"), "3", 0.1)
FAILED = Row("nfs.access", fail("ro", "mount option rw"), False, 0.1)
UNKNOWN = Row("nfs.slots", Finding(Verdict.UNKNOWN, "not on NFS"), None, 0.0)


@pytest.mark.parametrize(
    ("rows", "code"),
    [([], 0), ([UNKNOWN], 0), ([GOOD, NOTED, UNKNOWN], 0), ([GOOD, WARNED], 5), ([FAILED, WARNED], 6)],
)
def test_exit_code_is_that_of_the_worst(rows: list[Row], code: int) -> None:
    assert exit_code(rows) == code


def test_people_see_verdict_measured_value_and_remedy() -> None:
    pages = Pages()
    text = pages.area("NFS client", [GOOD, WARNED]) + pages.summary([GOOD, GOOD, WARNED])
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines == [
        "NFS client",
        "  nfs.hard     ok    hard",
        "  nfs.version  warn  NFS 3\\x1b[2J",
        "                     mount option vers=4.1",
        "",
        "1 warn, 2 ok",
    ]


def test_an_area_of_which_nothing_was_checked_is_one_line() -> None:
    assert Pages().area("NFS client", [UNKNOWN, UNKNOWN]) == "NFS client\n  not checked: not on NFS\n\n"


def test_machines_get_values_with_their_fields() -> None:
    answer = to_json([("NFS client", NOTED), ("NFS client", UNKNOWN)])
    assert answer["worst"] == "note"
    assert answer["checks"][0] == {
        "area": "NFS client",
        "check": "nfs.lease",
        "verdict": "note",
        "measured": "91 s",
        "remedy": "shorter",
        "value": {"lease_s": 91, "expired_s": 0},
        "seconds": 0.1,
    }
    assert (answer["checks"][1]["verdict"], answer["checks"][1]["value"]) == ("not checked", None)
