"""Columns of text as numbers for a network: what a column holds, and how it is written as features."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rheostat.data.dates import read_times
from rheostat.data.scaling import moments, standardised
from rheostat.data.table import Column
from rheostat.errors import DataError

TYPO_SHARE = 0.01  # texts among numbers or dates, up to which they are taken for mistakes
LOOKED_AT = 100  # texts, half of which must be dates before the others are looked at
DAY = 86_400  # seconds
MOST_LEVELS = 100
RAREST_LEVEL = 0.001  # of the training rows; rarer ones are grouped
GROUPED_SHARE, GROUPED_SPREAD = 0.05, 0.5  # of rows, and sd of log counts in them, from which frequencies tell much
MOST_COUNTED = 10_000  # levels whose frequency is kept
NAMES_SHARE, NAMES_LEAST = 0.5, 50  # more different texts than both are names or free text
COUNTERS = frozenset(["id", "index", "row", "column_1", "unnamed: 0"])
_COMMAS = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?", re.ASCII)

# Why a column is left out
NOTHING = "they hold nothing in the training rows"
CONSTANT = "they do not vary"
NAMES = "they hold names or free text, most of them once"
COUNTER = "they count the rows"
RARE = f"each of their levels is in less than {RAREST_LEVEL:.1%} of the training rows, and all are about as common"
UNCLEAR = "they hold dates that may be day/month or month/day; write them as 2024-03-31 to have them used"

Cycle = Literal["month", "weekday", "hour"]
CYCLES: tuple[Cycle, ...] = ("month", "weekday", "hour")


@dataclass(frozen=True)
class NumberColumn:
    """Standardised numbers; a missing one is the training median, and a second feature says so.

    `mean` and `scale` (standard deviation) are those of the training rows. `indicator` is whether there is a
    second feature, which is where a number is missing in the training rows.
    """

    name: str
    median: float
    mean: float
    scale: float
    indicator: bool

    @property
    def features(self) -> tuple[str, ...]:
        return (self.name, f"{self.name} is missing") if self.indicator else (self.name,)

    def encode(self, column: Column) -> NDArray[np.float32]:
        """(N, 1) or with the indicator (N, 2). Raises DataError for a cell that is not a finite number."""
        present = column.counts > 0
        if (worded := column.cells.worded & present).any():
            raise DataError(f"{column.first(worded)} is not a number, as the training rows have there.")
        _check_finite(column)
        missing = np.isnan(column.numbers)
        filled = np.where(missing, self.median, column.numbers)[:, None]
        what = f"{column.file}, column {column.name!r}"
        scaled: NDArray[np.float32] = standardised(filled, np.array([self.mean]), np.array([self.scale]), what).numpy()
        return np.column_stack([scaled, missing.astype(np.float32)]) if self.indicator else scaled


@dataclass(frozen=True)
class DateColumn:
    """Days since the training mean, standardised as a number is, and sine and cosine of each of the `cycles`.

    All are in UTC. `median`, `mean` and `scale` (standard deviation) are days since 1970, of the training rows; a
    missing date is the median, with zeros for the cycles, and where there is one in the training rows, `indicator`,
    a last feature says so. `day_first` is how 3/4/2024 is read.
    """

    name: str
    median: float
    mean: float
    scale: float
    indicator: bool
    cycles: tuple[Cycle, ...]
    day_first: bool

    @property
    def features(self) -> tuple[str, ...]:
        waves = [f"{self.name} {cycle} ({wave})" for cycle in self.cycles for wave in ("sine", "cosine")]
        return (self.name, *waves, f"{self.name} is missing") if self.indicator else (self.name, *waves)

    def encode(self, column: Column) -> NDArray[np.float32]:
        """(N, features). Raises DataError for a cell that is not a date."""
        seconds = column.cells.times[self.day_first]
        if (wrong := np.isnan(seconds) & ~column.cells.missing & (column.counts > 0)).any():
            raise DataError(f"{column.first(wrong)} is not a date, as the training rows have there.")
        moments_of_rows = seconds[column.codes]
        missing = np.isnan(moments_of_rows)
        days = np.where(missing, self.median, moments_of_rows / DAY)[:, None]
        what = f"{column.file}, column {column.name!r}"
        parts = [standardised(days, np.array([self.mean]), np.array([self.scale]), what).numpy()]
        for cycle in self.cycles:
            angle = 2 * math.pi * phase(cycle, moments_of_rows)
            parts += [np.where(missing, 0, wave(angle)).astype(np.float32) for wave in (np.sin, np.cos)]
        return np.column_stack([*parts, missing.astype(np.float32)] if self.indicator else parts)


def phase(cycle: Cycle, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far through a cycle each moment is, from 0 to 1; NaN for none. `seconds` (N,) are since 1970.

    >>> moments = np.array(["1970-01-01T06:00", "2024-12-31T18:00"], "datetime64[s]").astype(float)
    >>> [phase(cycle, moments).tolist() for cycle in ("hour", "month")]
    [[0.25, 0.75], [0.0, 0.9166666666666666]]
    """
    day = np.floor(seconds / DAY)
    if cycle == "hour":
        return seconds / DAY - day
    if cycle == "weekday":
        return (day + 3) % 7 / 7  # from Monday; 1 January 1970 was a Thursday
    known = np.where(np.isnan(day), 0, day).astype("datetime64[D]")
    return np.where(np.isnan(day), np.nan, known.astype("datetime64[M]").astype(np.int64) % 12 / 12)


@dataclass(frozen=True)
class CategoryColumn:
    """One feature per level, 1 where a row has it and else 0. The level "" stands for a missing cell.

    `other` is whether one more feature stands for all other levels; without it they are zero everywhere. Where
    there are `frequencies`, a last feature says how common the level is: the logarithm of its number of training
    rows, in standard units, here by level. A level that is not in them counts as one of a single row, `rarest`.
    """

    name: str
    levels: tuple[str, ...]
    other: bool
    frequencies: Mapping[str, float] = field(default_factory=dict)
    rarest: float = 0.0

    @property
    def features(self) -> tuple[str, ...]:
        features = [f"{self.name} is {level or 'missing'}" for level in self.levels]
        features += [f"{self.name} is another"] * self.other + [f"frequency of {self.name}"] * bool(self.frequencies)
        return tuple(features)

    def encode(self, column: Column) -> NDArray[np.float32]:
        """(N, features)."""
        width = len(self.levels) + self.other
        places = {level: place for place, level in enumerate(self.levels)}
        rows = np.eye(width + 1, width, dtype=np.float32)  # the last one is zero everywhere
        unseen = len(self.levels)  # the feature `other`, or beyond the last
        levels = _levels(column)
        encoded = rows[np.array([places.get(level, unseen) for level in levels], np.intp)[column.codes]]
        if not self.frequencies:
            return encoded
        frequencies = np.array([self.frequencies.get(level, self.rarest) for level in levels], np.float32)
        return np.column_stack([encoded, frequencies[column.codes]])


Part = NumberColumn | DateColumn | CategoryColumn


def fit_column(column: Column, train: NDArray[np.intp]) -> Part | str:
    """How to write a column; or the words why it is left out.

    What it holds is judged by all rows, all statistics come from the rows `train`. Raises DataError for a column
    of numbers or dates with a few texts, or an infinite number, in it.
    """
    training = column.take(train)
    if training.amount(~column.cells.missing) == 0:
        return NOTHING
    if holds_numbers(column):
        counts_rows = column.name.lower() in COUNTERS and np.ptp(column.numbers - column.rows) == 0
        return COUNTER if counts_rows else _fit_numbers(training)
    if (order := _date_order(column)) is not None:
        return order if isinstance(order, str) else _fit_dates(training, order)
    words = ~column.cells.missing & (column.counts > 0)
    if words.sum() > max(NAMES_LEAST, NAMES_SHARE * column.amount(words)):
        return NAMES
    return _fit_categories(training)


def holds_numbers(column: Column) -> bool:
    """Whether the cells are numbers. Raises DataError where they nearly are, naming the one that is not."""
    cells = column.cells
    if cells.seconds is not None:
        return False
    texts, known = column.amount(cells.worded), column.amount(~cells.missing)
    if texts == known:
        _check_commas(column)
        return False
    if texts == 0:
        _check_finite(column)
        return True
    if texts <= TYPO_SHARE * known:
        raise DataError(
            f"{column.first(cells.worded)} is not a number, but {100 * (1 - texts / known):.1f} % of this column "
            "are. Correct it, or leave the cell empty where the number is not known."
        )
    _check_commas(column)
    return False


def _check_finite(column: Column) -> None:
    if (infinite := np.isinf(column.cells.numbers) & (column.counts > 0)).any():
        raise DataError(
            f"{column.first(infinite)} is not a finite number. Correct it, or leave the cell empty where the number "
            "is not known."
        )


def _check_commas(column: Column) -> None:
    """Refuses 1,5 and 1,000: a guess which of the two is meant would be wrong by a factor of a thousand."""
    texts = column.cells.texts
    commas = np.array([_COMMAS.fullmatch(text) is not None for text in texts], bool)
    words = column.cells.worded & ~commas
    if column.amount(commas) and column.amount(words) <= TYPO_SHARE * column.amount(~column.cells.missing):
        raise DataError(
            f"{column.first(commas)} is a number with a comma. Write numbers with a decimal point, and with nothing "
            "between thousands."
        )


def _date_order(column: Column) -> bool | str | None:
    """Whether the day comes first in a column of dates, or UNCLEAR; None where they are not dates.

    Raises DataError where they nearly are, naming the one that is not.
    """
    cells = column.cells
    words = np.flatnonzero(cells.worded & (column.counts > 0))
    looked_at = read_times([cells.texts[place] for place in words[:LOOKED_AT]])
    if 2 * max((~np.isnan(seconds)).sum() for seconds in looked_at) < min(len(words), LOOKED_AT):
        return None
    amounts = [column.amount(~np.isnan(seconds)) for seconds in cells.times]
    dates, known = max(amounts), column.amount(~cells.missing)
    if dates < (1 - TYPO_SHARE) * known:
        return None
    day_first = amounts[1] > amounts[0]
    if dates < known:
        wrong = np.isnan(cells.times[day_first]) & ~cells.missing
        raise DataError(
            f"{column.first(wrong)} is not a date, but {100 * dates / known:.1f} % of this column are. Correct it, or "
            "leave the cell empty where the date is not known."
        )
    differs = (cells.times[0] != cells.times[1]) & ~cells.missing
    return UNCLEAR if amounts[0] == amounts[1] and column.amount(differs) else day_first


def _fit_dates(training: Column, day_first: bool) -> DateColumn | str:
    seconds = training.cells.times[day_first][training.codes]
    missing = np.isnan(seconds)
    known = seconds[~missing]
    if not missing.any() and known.min() == known.max():
        return CONSTANT
    median = float(np.median(known)) / DAY
    days = np.where(missing, median, seconds / DAY)[:, None]
    mean, scale = moments(days, f"{training.file}, column {training.name!r}")
    cycles = tuple(cycle for cycle in CYCLES if np.ptp(phase(cycle, known)) > 0)
    indicator = bool(missing.any())
    return DateColumn(training.name, median, float(mean[0]), float(scale[0]), indicator, cycles, day_first)


def _fit_numbers(training: Column) -> NumberColumn | str:
    numbers = training.numbers
    missing = np.isnan(numbers)
    known = numbers[~missing]
    if not missing.any() and known.min() == known.max():
        return CONSTANT
    median = float(np.median(known))
    filled = np.where(missing, median, numbers)[:, None]
    mean, scale = moments(filled, f"{training.file}, column {training.name!r}")
    return NumberColumn(training.name, median, float(mean[0]), float(scale[0]), bool(missing.any()))


def _fit_categories(training: Column) -> CategoryColumn | str:
    amounts: dict[str, int] = {}
    for level, count in zip(_levels(training), training.counts.tolist(), strict=True):
        amounts[level] = amounts.get(level, 0) + count
    common = [level for level, n in amounts.items() if n and n >= RAREST_LEVEL * len(training.codes)]
    levels = tuple(sorted(sorted(common, key=lambda level: (-amounts[level], level))[:MOST_LEVELS]))
    grouped = {level: n for level, n in amounts.items() if n and level not in levels}
    if not grouped:
        return CategoryColumn(training.name, levels, other=False) if len(levels) > 1 else CONSTANT
    counts = np.array(list(grouped.values()))
    spread = np.sqrt(np.cov(np.log(counts), fweights=counts, ddof=0))
    if counts.sum() < GROUPED_SHARE * len(training.codes) or spread < GROUPED_SPREAD:
        return CategoryColumn(training.name, levels, other=True) if levels else RARE
    return CategoryColumn(training.name, levels, bool(levels), *_frequencies(amounts))


def _frequencies(amounts: Mapping[str, int]) -> tuple[dict[str, float], float]:
    """The frequency of each level, the most common ones first, and that of a level of a single row."""
    counts = np.array([n for n in amounts.values() if n])
    mean, sd = np.average(np.log(counts), weights=counts), np.sqrt(np.cov(np.log(counts), fweights=counts, ddof=0))
    often = sorted(((n, level) for level, n in amounts.items() if n > 1), key=lambda pair: (-pair[0], pair[1]))
    return {level: float((math.log(n) - mean) / sd) for n, level in often[:MOST_COUNTED]}, float(-mean / sd)


def _levels(column: Column) -> list[str]:
    """The level of each cell, (C,): all words for a missing one are the same level."""
    pairs = zip(column.cells.texts, column.cells.missing.tolist(), strict=True)
    return ["" if missing else text for text, missing in pairs]
