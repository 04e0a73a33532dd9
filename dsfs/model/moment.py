"""Points of time as people write them: a date, a date and time, or a duration."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from functools import partial

from dsfs.model.quantity import parse_duration

MOST_SECONDS = 2**33  # in nanoseconds it is still a number that documents may hold
EXPECTED_MOMENT = 'a date such as "2027-01-31", a date and time such as "2027-01-31 18:00", or a duration such as "30d"'


@dataclass(frozen=True, slots=True)
class Moment:
    """Seconds since the epoch; or, `is_relative`, seconds from the time at which it is asked for."""

    seconds: float
    is_relative: bool


def parse_moment(text: str, *, end_of_day: bool = False) -> Moment:
    """What the text means in the time zone of this process, where it names none.

    A date alone is the beginning of that day, or its end.  ValueError if it means nothing, or is too far away.
    """
    moment = _read(text.strip(), end_of_day=end_of_day)
    if not 0 <= moment.seconds < MOST_SECONDS:
        raise ValueError("expected a time between 1970 and 2242")
    return moment


def _read(text: str, *, end_of_day: bool) -> Moment:
    for read in (partial(_of_date, end_of_day=end_of_day), datetime.fromisoformat):
        try:
            return Moment(read(text).astimezone().timestamp(), is_relative=False)
        except (ValueError, OverflowError):
            continue
    try:
        return Moment(parse_duration(text), is_relative=True)
    except ValueError:
        raise ValueError(f"expected {EXPECTED_MOMENT}") from None


def _of_date(text: str, *, end_of_day: bool) -> datetime:
    return datetime.combine(date.fromisoformat(text) + timedelta(days=end_of_day), time_of_day())
