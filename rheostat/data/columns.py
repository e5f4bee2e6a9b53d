"""Columns of text as numbers for a network: what a column holds, and how it is written as features."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.data.delimited import Column
from rheostat.data.scaling import moments, standardised
from rheostat.errors import DataError

TYPO_SHARE = 0.01  # texts among numbers, up to which they are taken for mistakes
MOST_LEVELS = 100
RAREST_LEVEL = 0.001  # of the training rows; rarer ones are grouped
NAMES_SHARE, NAMES_LEAST = 0.5, 50  # more different texts than both are names or free text
COUNTERS = frozenset(["id", "index", "row", "column_1", "unnamed: 0"])
_COMMAS = re.compile(r"[+-]?\d+(,\d+)+(\.\d+)?", re.ASCII)

# Why a column is left out
NOTHING = "they hold nothing in the training rows"
CONSTANT = "they do not vary"
NAMES = "they hold names or free text, most of them once"
COUNTER = "they count the rows"


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
class CategoryColumn:
    """One feature per level, 1 where a row has it and else 0. The level "" stands for a missing cell.

    `other` is whether a last feature stands for all other levels; without it they are zero everywhere.
    """

    name: str
    levels: tuple[str, ...]
    other: bool

    @property
    def features(self) -> tuple[str, ...]:
        levels = [f"{self.name} is {level or 'missing'}" for level in self.levels]
        return (*levels, f"{self.name} is another") if self.other else tuple(levels)

    def encode(self, column: Column) -> NDArray[np.float32]:
        """(N, features)."""
        width = len(self.features)
        places = {level: place for place, level in enumerate(self.levels)}
        rows = np.eye(width + 1, width, dtype=np.float32)  # the last one is zero everywhere
        unseen = len(self.levels)  # the feature `other`, or beyond the last
        of_cell = np.array([places.get(level, unseen) for level in _levels(column)], np.intp)
        return rows[of_cell[column.codes]]


def fit_column(column: Column, train: NDArray[np.intp]) -> NumberColumn | CategoryColumn | str:
    """How to write a column; or the words why it is left out.

    What it holds is judged by all rows, all statistics come from the rows `train`. Raises DataError for a column
    of numbers with a few texts, or an infinite number, in it.
    """
    training = column.take(train)
    if training.amount(~column.cells.missing) == 0:
        return NOTHING
    if holds_numbers(column):
        counts_rows = column.name.lower() in COUNTERS and np.ptp(column.numbers - column.rows) == 0
        return COUNTER if counts_rows else _fit_numbers(training)
    words = ~column.cells.missing & (column.counts > 0)
    if words.sum() > max(NAMES_LEAST, NAMES_SHARE * column.amount(words)):
        return NAMES
    return _fit_categories(training)


def holds_numbers(column: Column) -> bool:
    """Whether the cells are numbers. Raises DataError where they nearly are, naming the one that is not."""
    cells = column.cells
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
    levels = sorted(sorted(common, key=lambda level: (-amounts[level], level))[:MOST_LEVELS])
    other = any(n for level, n in amounts.items() if level not in levels)
    return CategoryColumn(training.name, tuple(levels), other) if len(levels) + other > 1 else CONSTANT


def _levels(column: Column) -> list[str]:
    """The level of each cell, (C,): all words for a missing one are the same level."""
    pairs = zip(column.cells.texts, column.cells.missing.tolist(), strict=True)
    return ["" if missing else text for text, missing in pairs]
