"""A table in memory: columns of cells, from whatever kind of file they came."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rheostat.data.dates import read_times

NONE = np.empty(0)
MISSING = frozenset(["", "?", "na", "n/a", "nan", "null", "none", "-"])  # whatever their case


def parse_number(cell: str) -> float | None:
    """The number that a cell holds, infinite ones included; None for a text. Missing cells are NaN.

    >>> [parse_number(cell) for cell in ("-3", "1e-4", "N/A", "1,000", "1_000")]
    [-3.0, 0.0001, nan, None, None]
    """
    if cell.lower() in MISSING:
        return math.nan
    if "_" in cell or not cell.isascii():  # float() would take 1_000, and the digits of other scripts
        return None
    try:
        return float(cell)
    except ValueError:
        return None


class Places(dict[str, int]):
    """A number from 0 for each different text, given when it is first seen."""

    def __missing__(self, text: str) -> int:
        self[text] = place = len(self)
        return place


class _Texts(Sequence[str]):
    """Texts that were kept, and after them values that are written out when they are asked for."""

    def __init__(self, kept: Sequence[str], values: NDArray[np.float64], write: Callable[[float], str]) -> None:
        self.kept, self.values, self.write = kept, values, write

    def __len__(self) -> int:
        return len(self.kept) + len(self.values)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self.kept[place] if place < len(self.kept) else self.write(float(self.values[place - len(self.kept)]))


def _number_text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.16g}"


def _time_text(seconds: float) -> str:
    return "" if math.isnan(seconds) else str(np.datetime64(round(seconds * 1e6), "us"))


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a column, C of them, each looked at once however many rows hold it.

    `texts` are as they are in the file, `numbers` what they hold, NaN where it is no number, and `worded` says
    which hold something that is not a number. `seconds` since 1970 are there where the file itself says that the
    column holds times. No two cells are the same, but for numbers of which there are very many.
    """

    texts: Sequence[str]
    numbers: NDArray[np.float64]  # (C,)
    worded: NDArray[np.bool_]  # (C,)
    seconds: NDArray[np.float64] | None = None  # (C,)

    @classmethod
    def of_texts(cls, texts: Sequence[str], values: NDArray[np.float64] = NONE, of_times: bool = False) -> Cells:
        """Cells that are read as texts, and behind them numbers, or times, whose texts were not kept."""
        numbers, worded = np.full(len(texts), math.nan), np.zeros(len(texts), bool)
        for place, text in enumerate(texts):
            if (number := parse_number(text)) is None:
                worded[place] = True
            else:
                numbers[place] = number
        if not len(values):
            return cls(texts, numbers, worded)
        worded = np.concatenate([worded, np.full(len(values), of_times)])
        if of_times:
            numbers = np.concatenate([numbers, np.full(len(values), math.nan)])
            return cls(_Texts(texts, values, _time_text), numbers, worded)
        numbers = np.concatenate([numbers, values])
        return cls(_Texts(texts, numbers[len(texts) :], _number_text), numbers, worded)

    @classmethod
    def of_words(cls, texts: Sequence[str]) -> Cells:
        """Cells that are words, whatever they look like."""
        worded = np.array([text.lower() not in MISSING for text in texts], bool)
        return cls(texts, np.full(len(texts), math.nan), worded)

    @classmethod
    def of_numbers(cls, values: NDArray[np.float64]) -> Cells:
        """Numbers (C,); a missing one is NaN."""
        return cls(_Texts((), values, _number_text), values, np.zeros(len(values), bool))

    @classmethod
    def of_seconds(cls, seconds: NDArray[np.float64]) -> Cells:
        """Times (C,) since 1970; a missing one is NaN."""
        return cls(_Texts((), seconds, _time_text), np.full(len(seconds), math.nan), ~np.isnan(seconds), seconds)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which cells hold nothing, (C,)."""
        return np.isnan(self.numbers) & ~self.worded

    @cached_property
    def times(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Seconds since 1970, (C,) twice, NaN where a cell is no date: 3/4/2024 as 4 March, and as 3 April."""
        if self.seconds is not None:
            return self.seconds, self.seconds
        if not isinstance(self.texts, _Texts):
            return read_times(self.texts)
        values = self.texts.values if self.texts.write is _time_text else np.full(len(self.texts.values), math.nan)
        month_first, day_first = read_times(self.texts.kept)
        return np.concatenate([month_first, values]), np.concatenate([day_first, values])


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a file, N rows: row i holds the cell `codes[i]`, and has the number `rows[i]` in the file.

    `cells` may hold some that no row has.
    """

    file: str
    name: str
    cells: Cells
    codes: NDArray[np.int32]  # (N,)
    rows: NDArray[np.intp]  # (N,), from 1

    @property
    def counts(self) -> NDArray[np.intp]:
        """How many rows hold each cell, (C,)."""
        return np.bincount(self.codes, minlength=len(self.cells.texts))

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The number in each row, (N,); NaN where there is none."""
        return self.cells.numbers[self.codes]

    def take(self, rows: NDArray[Any] | slice) -> Column:
        """Some of the rows, by index, by a mask or by a slice."""
        return replace(self, codes=self.codes[rows], rows=self.rows[rows])

    def amount(self, cells: NDArray[np.bool_]) -> int:
        """How many rows hold one of these cells, a mask (C,)."""
        return int(self.counts[cells].sum())

    def first(self, cells: NDArray[np.bool_]) -> str:
        """Words for the first row that holds one of these cells, a mask (C,): where it is, and what it holds."""
        row = int(np.argmax(cells[self.codes]))
        text = self.cells.texts[self.codes[row]]
        return f"{self.file}, column {self.name!r}, row {self.rows[row]}: {shortened(text)}"


@dataclass(frozen=True, eq=False)
class Table:
    """A file of columns. `digest` is the SHA-256 of the file, unpacked; `notes` say what was found.

    `header` is whether the file names its columns itself, and `label` the column that it says is to be predicted.
    """

    file: str
    columns: tuple[Column, ...]
    header: bool
    digest: str
    notes: tuple[str, ...]
    label: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def length(self) -> int:
        return len(self.columns[0].codes)

    def take(self, rows: NDArray[Any] | slice) -> Table:
        """Some of the rows, by index, by a mask or by a slice."""
        numbers = self.columns[0].rows[rows]  # all columns share them
        columns = tuple(replace(column, codes=column.codes[rows], rows=numbers) for column in self.columns)
        return replace(self, columns=columns)


def shortened(text: str) -> str:
    """A cell in quotation marks, cut to a readable length."""
    return repr(text if len(text) <= 40 else text[:37] + "...")
