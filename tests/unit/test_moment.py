"""Points of time as people write them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from dsfs.model.moment import Moment, parse_moment


@pytest.fixture(autouse=True)
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31", "2027-01-30T23:00"),
        ("2027-07-31", "2027-07-30T22:00"),
        ("2027-01-31 18:00", "2027-01-31T17:00"),
        ("2027-01-31T18:00:05", "2027-01-31T17:00:05"),
        (" 2027-01-31T18:00Z ", "2027-01-31T18:00"),
        ("2027-01-31T18:00+05:30", "2027-01-31T12:30"),
    ],
)
def test_date_is_of_this_time_zone_unless_it_names_one(text: str, moment: str) -> None:
    seconds = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    assert parse_moment(text) == Moment(seconds, is_relative=False)


def test_end_of_a_day_is_the_beginning_of_the_next() -> None:
    for day, following in (("2027-01-31", "2027-02-01"), ("2027-03-28", "2027-03-29"), ("2028-02-28", "2028-02-29")):
        assert parse_moment(day, end_of_day=True) == parse_moment(following)
    assert parse_moment("2027-01-31 18:00", end_of_day=True) == parse_moment("2027-01-31 18:00")


@pytest.mark.parametrize(("text", "seconds"), [("30d", 30 * 86_400), ("12h", 43_200), ("1.5 m", 90), ("0", 0)])
def test_duration_is_relative(text: str, seconds: float) -> None:
    assert parse_moment(text, end_of_day=True) == Moment(seconds, is_relative=True)


@pytest.mark.parametrize("text", ["", "30", "tomorrow", "2027-02-30", "31.1.2027", "-1d", "1y"])
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match='expected a date such as "2027-01-31"'):
        parse_moment(text, end_of_day=True)


@pytest.mark.parametrize("text", ["1960-01-01", "9999-12-30", "99999d"])
def test_what_no_pin_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a time between 1970 and 2242"):
        parse_moment(text, end_of_day=True)
