"""Dates and times in texts, in the forms that can be read in one way only.

These are: ISO 8601 (2024-03-31, also with / or . between, with a time behind a space or T, and with a UTC offset);
the day, the name of the month and the year, or the month first (31 March 2024, Mar 31, 2024); 31.3.2024; a year and
a month (2024-03); a time of day alone (14:30, 2:30 pm), which stands for that time on 1 January 1970; and 31/3/2024
or 3/31/2024, where the caller must choose between the two. Two digits are no year.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain

import numpy as np
from numpy.typing import NDArray

_EPOCH = datetime(1970, 1, 1)
_MONTHS = ["january", "february", "march", "april", "may", "june"]
_MONTHS += ["july", "august", "september", "october", "november", "december"]
_NAMES = {month[:n]: number for number, month in enumerate(_MONTHS, 1) for n in (3, len(month))} | {"sept": 9}

_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?(?: ?(?P<half>[ap]m))?"
_ZONE = r"(?: ?(?:(?P<utc>z|utc|gmt)|(?P<sign>[+-])(?P<zone_hour>\d\d):?(?P<zone_minute>\d\d)))?"
_WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,? )?"
_DAYS = (
    r"(?P<year>\d{4})(?P<mark>[-/.])(?P<month>\d{1,2})(?P=mark)(?P<day>\d{1,2})",
    _WEEKDAY + r"(?P<day>\d{1,2})(?:st|nd|rd|th)?[ -](?P<name>[a-z]{3,9})\.?,?[ -](?P<year>\d{4})",
    _WEEKDAY + r"(?P<name>[a-z]{3,9})\.? (?P<day>\d{1,2})(?:st|nd|rd|th)?,? (?P<year>\d{4})",
    r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})",
    r"(?P<one>\d{1,2})(?P<mark>[-/])(?P<two>\d{1,2})(?P=mark)(?P<year>\d{4})",
)
_FORMS = [
    re.compile(form, re.ASCII | re.IGNORECASE)
    for form in (
        *(rf"{day}(?:(?:,? |t){_CLOCK}{_ZONE})?" for day in _DAYS),
        r"(?P<year>\d{4})-(?P<month>\d\d)",
        _CLOCK + _ZONE,
    )
]


def read_times(texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds since 1970 in UTC, (C,) twice, NaN where a text is no date: with the month first, and the day first.

    The two differ only for dates such as 3/4/2024.

    >>> month_first, day_first = read_times(["2024-03-31", "3/4/2024", "today"])
    >>> month_first.astype("datetime64[s]").astype("datetime64[D]").tolist()
    [datetime.date(2024, 3, 31), datetime.date(2024, 3, 4), None]
    >>> day_first.astype("datetime64[s]").astype("datetime64[D]").tolist()
    [datetime.date(2024, 3, 31), datetime.date(2024, 4, 3), None]
    """
    both = np.fromiter(chain.from_iterable(map(_read, texts)), np.float64, 2 * len(texts)).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def iso_seconds(text: str) -> float | None:
    """Seconds since 1970 in UTC of a date in ISO 8601 with - between; None for other texts, some dates among them."""
    if len(text) < 10 or text[4] != "-":
        return None
    try:
        return _since_epoch(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None


def _read(text: str) -> tuple[float, float]:
    """Seconds with the month first and with the day first, NaN where that is no date."""
    if (seconds := iso_seconds(text)) is not None:
        return seconds, seconds
    for form in _FORMS:
        if (match := form.fullmatch(text)) is not None:
            parts = {name: part.lower() for name, part in match.groupdict().items() if part}
            return _of_parts(parts, "one", "two"), _of_parts(parts, "two", "one")
    return math.nan, math.nan


def _of_parts(parts: Mapping[str, str], month_in: str, day_in: str) -> float:
    """Seconds since 1970 of the parts of a date, NaN where there is no such day or time."""
    month = _NAMES.get(parts["name"], 0) if "name" in parts else int(parts.get("month", parts.get(month_in, "1")))
    day = int(parts.get("day", parts.get(day_in, "1")))
    hour, half = int(parts.get("hour", 0)), parts.get("half")
    if half is not None:
        hour = hour % 12 + 12 * (half == "pm") if 1 <= hour <= 12 else 24
    microsecond = int(parts.get("fraction", "0").ljust(6, "0")[:6])
    offset = timedelta(hours=int(parts.get("zone_hour", 0)), minutes=int(parts.get("zone_minute", 0)))
    try:
        clock = hour, int(parts.get("minute", 0)), int(parts.get("second", 0)), microsecond
        moment = datetime(int(parts.get("year", 1970)), month, day, *clock)
        return _since_epoch(moment + offset if parts.get("sign") == "-" else moment - offset)
    except (ValueError, OverflowError):
        return math.nan


def _since_epoch(moment: datetime) -> float:
    """Seconds since 1970 in UTC, which is also what a time without an offset is taken for."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return (moment - _EPOCH) / timedelta(seconds=1)
