"""Whether a cron expression ever comes true, compared with a library that looks for the next time."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

from cronsim import CronSim, CronSimError

from clipper.contract.cron import never

DAYS = ("*", "*/31", "1", "29", "30", "31", "30,31", "31,5", "30-31", "31/2")
MONTHS = ("*", "2", "FEB", "4", "2,4", "FEB-APR", "4,6,9,11", "2/2", "2/3", "*/2", "*/12", "APR/7", "9-11/2", "11/2")
WEEKDAYS = ("*", "*/2", "1", "MON-FRI")


def comes(cron: str) -> bool:
    try:
        return next(CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC)), None) is not None
    except CronSimError:
        return False


def test_it_says_never_where_there_is_no_next_time() -> None:
    expressions = [f"0 0 {days} {months} {weekdays}" for days, months, weekdays in product(DAYS, MONTHS, WEEKDAYS)]
    assert [cron for cron in expressions if never(cron)] == [cron for cron in expressions if not comes(cron)]


def test_the_reason_names_the_months_and_the_day() -> None:
    assert never("0 0 30 2 *") == (
        "it never comes true: February has at most 29 days, and day 30 is the first that it asks for"
    )
    assert "April, June and September have at most 30 days" in never("0 8 31 4,JUN,9 *")
