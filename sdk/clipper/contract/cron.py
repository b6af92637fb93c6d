"""Cron expressions that never come true, such as one for the 30th of February."""

from __future__ import annotations

__all__ = ["never"]

_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of each month, in the longest year
_NAMES = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def never(cron: str) -> str:
    """Why a well-formed expression of five fields never comes true; "" for one that does.

    With both a day of the month and a day of the week, either suffices, as in every cron: it always comes true.
    """
    _, _, days, months, weekdays = cron.split()
    if days.startswith("*") or not weekdays.startswith("*"):
        return ""
    first = min(_lowest(term) for term in days.split(","))
    chosen = sorted({month for term in months.split(",") for month in _values(term)})
    longest = max(_LONGEST[month - 1] for month in chosen)
    if first <= longest:
        return ""
    named = [_NAMES[month - 1] for month in chosen]
    has = f"{named[0]} has" if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]} have"
    return f"it never comes true: {has} at most {longest} days, and day {first} is the first that it asks for"


def _lowest(term: str) -> int:
    return int(term.partition("/")[0].partition("-")[0])


def _values(term: str) -> range:
    """The months of one term: `*`, a number or a name, a range of them, each with or without a step."""
    span, _, step = term.partition("/")
    low, _, high = span.partition("-")
    if low == "*":
        first, last = 1, 12
    else:
        first = _month(low)
        last = _month(high) if high else 12 if step else first
    return range(first, last + 1, int(step or 1))


def _month(text: str) -> int:
    return int(text) if text.isdecimal() else 1 + [name[:3].upper() for name in _NAMES].index(text)
