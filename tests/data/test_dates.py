"""Dates in texts, against Python's own reading and writing of them."""

from __future__ import annotations

import doctest
import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.data import dates
from rheostat.data.dates import iso_seconds, read_times

moments = st.datetimes(datetime(1583, 1, 1), datetime(9000, 1, 1))


def seconds(moment):
    return (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


def both(text):
    month_first, day_first = read_times([text])
    return month_first[0], day_first[0]


@given(
    moments,
    st.sampled_from(
        [
            "%Y-%m-%d",
            "%Y/%m/%d",
            "%Y.%m.%d",
            "%d %B %Y",
            "%B %d, %Y",
            "%d-%b-%Y",
            "%b %d %Y",
            "%d.%m.%Y",
            "%A, %d %b %Y",
        ]
    ),
    st.sampled_from(["", " %H:%M", " %H:%M:%S", "T%H:%M:%S", ", %I:%M:%S %p", " %H:%M:%S.%f"]),
)
def test_every_form_is_read_as_python_wrote_it(moment, day, clock):
    written = moment.strftime(day + clock)
    expected = datetime.strptime(written, day + clock)
    assert both(written) == (seconds(expected),) * 2
    assert both(written.upper()) == both(written.lower()) == (seconds(expected),) * 2


@given(moments, st.integers(-14 * 60, 14 * 60), st.sampled_from([" ", "T"]), st.booleans())
def test_offsets_from_utc(moment, minutes, between, iso):
    aware = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=minutes)))
    written = aware.isoformat(between) if iso else aware.strftime("%d %b %Y %H:%M:%S %z")
    assert both(written) == (aware.timestamp(),) * 2


@given(moments, st.sampled_from("/-"))
def test_both_orders_of_day_and_month(moment, mark):
    text = f"{moment.day}{mark}{moment.month}{mark}{moment.year}"
    midnight = datetime(moment.year, moment.month, moment.day)
    month_first, day_first = both(text)
    assert day_first == seconds(midnight)
    if moment.day > 12:
        assert math.isnan(month_first)
    else:
        assert month_first == seconds(datetime(moment.year, moment.day, moment.month))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-03", "2024-03-01"),
        ("14:30", "1970-01-01T14:30"),
        ("2:30 pm", "1970-01-01T14:30"),
        ("12:05 AM", "1970-01-01T00:05"),
        ("2024-03-31T10:00:00Z", "2024-03-31T10:00"),
        ("Sun, 31 Mar 2024 10:00:00 GMT", "2024-03-31T10:00"),
        ("March 3rd, 2024", "2024-03-03"),
        ("1 sept 2020", "2020-09-01"),
        ("2024-02-29", "2024-02-29"),
    ],
)
def test_other_forms(text, expected):
    assert both(text) == (np.datetime64(expected, "s").astype(float),) * 2


@pytest.mark.parametrize(
    "text",
    [
        *("", "2024", "20240331", "03-2024", "1/2/24", "31.3.24", "2024-13-01", "2023-02-29", "31 April 2024", "24:00"),
        *(
            "10:60",
            "13:30 pm",
            "0:30 pm",
            "5 lut 2024",
            "2024-3-1-5",
            "192.168.1.1",
            "1.2.3",
            "555-1234-567",
            "-2024-03-01",
        ),
        *(
            "0001-01-01T00:00+05:00",
            "9999-12-31T23:59-05:00",
            "2024-03-31 10:00 nonsense",
            "٢٠٢٤-٠٣-٠١",
            "March",
            "1e5",
        ),
    ],
)
def test_what_is_no_date(text):
    assert np.isnan(both(text)).all()


@given(st.text(max_size=30) | st.text(st.sampled_from("0123456789-/.: TZ+apm"), max_size=24))
def test_any_text_is_read_or_not(text):
    month_first, day_first = both(text)
    iso = iso_seconds(text)
    assert iso is None or iso == month_first == day_first


def test_no_texts_and_examples():
    assert [len(read) for read in read_times([])] == [0, 0]
    results = doctest.testmod(dates)
    assert results.attempted and not results.failed
