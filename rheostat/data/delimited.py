"""Files of delimited text (CSV, TSV, plain or gzip) as columns of text.

The delimiter, the encoding and the header are found here; what a column means is decided elsewhere.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import DataError

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
MISSING = frozenset(["", "?", "na", "n/a", "nan", "null", "none", "-"])  # whatever their case
SNIFFED_ROWS = 100


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


@dataclass(frozen=True, eq=False)
class Cells:
    """The distinct cells of a column, C of them, each looked at once however many rows hold it."""

    texts: tuple[str, ...]

    @cached_property
    def _parsed(self) -> list[float | None]:
        return [parse_number(text) for text in self.texts]

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The number in each cell, (C,); NaN where there is none."""
        return np.array([math.nan if number is None else number for number in self._parsed])

    @cached_property
    def worded(self) -> NDArray[np.bool_]:
        """Which cells hold something that is not a number, (C,)."""
        return np.array([number is None for number in self._parsed], bool)

    @cached_property
    def missing(self) -> NDArray[np.bool_]:
        """Which cells hold nothing, (C,)."""
        return np.isnan(self.numbers) & ~self.worded


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a file, N rows: row i holds the cell `codes[i]`, and has the number `rows[i]` in the file.

    `cells` may hold some that no row has.
    """

    file: str
    name: str
    cells: Cells
    codes: NDArray[np.intp]  # (N,)
    rows: NDArray[np.intp]  # (N,), from 1

    @cached_property
    def counts(self) -> NDArray[np.intp]:
        """How many rows hold each cell, (C,)."""
        return np.bincount(self.codes, minlength=len(self.cells.texts))

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The number in each row, (N,); NaN where there is none."""
        return self.cells.numbers[self.codes]

    def take(self, rows: NDArray[Any]) -> Column:
        """Some of the rows, by index or by a mask."""
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
    """A file of columns. `content` is the file itself, unpacked; `notes` say what was found."""

    file: str
    columns: tuple[Column, ...]
    header: bool
    content: bytes
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def length(self) -> int:
        return len(self.columns[0].codes)

    def take(self, rows: NDArray[Any]) -> Table:
        return replace(self, columns=tuple(column.take(rows) for column in self.columns))


def shortened(text: str) -> str:
    """A cell in quotation marks, cut to a readable length."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def read_table(path: Path, header: bool | None = None) -> Table:
    """The columns of a file, at least one with at least one row.

    Whether its first row is a header is found out unless `header` says it. Spaces around cells are dropped and
    blank rows skipped. Raises DataError for what cannot be read, or has rows of different lengths.
    """
    content = _content(path)
    text, notes = _decoded(path.name, content)
    records, delimiter, quote_notes = _parsed(path.name, text)
    filled = [row for row, record in enumerate(records) if any(map(str.strip, record))]
    if not filled:
        raise DataError(f"{path.name} is empty: it must hold rows of cells, separated by commas, tabs, ; or |.")
    _check_lengths(path.name, [records[row] for row in filled], filled)
    by_column = [list(map(str.strip, cells)) for cells in zip(*(records[row] for row in filled), strict=True)]
    rows = np.array(filled) + 1
    columns = [_column(path.name, cells, rows) for cells in by_column]
    if header is None:
        header = _has_header(columns)
    if header and len(rows) == 1:
        raise DataError(f"{path.name} holds nothing but the names of its columns: there must be rows below them.")
    names = [(header and cells[0]) or f"column_{number}" for number, cells in enumerate(by_column, 1)]
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{path.name}: more than one column is named {shortened(repeated[0])}: rename all but one.")
    columns = [replace(column, name=name) for column, name in zip(columns, names, strict=True)]
    note = (
        f"{path.name}: {len(rows) - header:,} rows of {len(columns)} columns, separated by {DELIMITERS[delimiter]}; "
        + ("the first row names the columns." if header else f"no header, so they are named {_span(names)}.")
    )
    table = Table(path.name, tuple(columns), header, content, (note, *notes, *quote_notes))
    return table.take(np.arange(1, len(rows))) if header else table


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise DataError(f"{path} cannot be read: {cause.strerror or cause}.") from None
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as cause:
        raise DataError(f"{path.name} cannot be unpacked: {cause}. Is it a whole gzip file?") from None


def _decoded(file: str, content: bytes) -> tuple[str, tuple[str, ...]]:
    if b"\0" in content:
        raise DataError(
            f"{file} is not plain text: it holds zero bytes. A spreadsheet or a UTF-16 text must be saved as CSV in "
            "UTF-8 first."
        )
    try:
        return content.decode("utf-8-sig"), ()
    except UnicodeDecodeError:
        return content.decode("latin-1"), (f"{file}: it is not UTF-8, so it was read as Latin-1.",)


def _parsed(file: str, text: str) -> tuple[list[list[str]], str, tuple[str, ...]]:
    """The rows, the delimiter, and notes.

    Quotation marks that do not pair up would swallow rows without a word. They are taken as ordinary characters
    where that makes rows of equal length, as in plain text separated by tabs; else they are an error.
    """
    delimiter = _sniffed(text, quoted=True)
    records = _records(text, delimiter, quoted=True)
    try:
        return list(records), delimiter, ()
    except csv.Error as cause:
        problem = f"{file}, line {records.line_num}: {cause}. A quotation mark without its partner may be the reason."
    try:
        delimiter = _sniffed(text, quoted=False)
        plain = list(_records(text, delimiter, quoted=False))
    except csv.Error:
        raise DataError(problem) from None
    if len({len(record) for record in plain if record}) > 1:
        raise DataError(problem)
    return plain, delimiter, (f"{file}: its quotation marks do not pair up, so they are ordinary characters.",)


def _records(text: str, delimiter: str, quoted: bool) -> Any:
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=True,
    )


def _sniffed(text: str, quoted: bool) -> str:
    """The delimiter that splits most of the first rows into equally many cells, and then into the most."""

    def score(delimiter: str) -> tuple[float, int]:
        try:
            lengths = [len(row) for row in islice(_records(text, delimiter, quoted), SNIFFED_ROWS) if row]
        except csv.Error:
            return 0.0, 0
        ((usual, times),) = Counter(lengths).most_common(1) or [(1, 0)]
        return (times / len(lengths), usual) if usual > 1 else (0.0, 0)

    return max(DELIMITERS, key=score)


def _column(file: str, texts: Sequence[str], rows: NDArray[np.intp]) -> Column:
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    codes = np.fromiter(map(places.__getitem__, texts), np.intp, len(texts))
    return Column(file, "", Cells(tuple(places)), codes, rows)


def _check_lengths(file: str, records: Sequence[Sequence[str]], filled: Sequence[int]) -> None:
    lengths = [len(record) for record in records]
    if len(set(lengths)) == 1:
        return
    ((usual, _),) = Counter(lengths).most_common(1)
    odd = next(place for place, length in enumerate(lengths) if length != usual)
    hint = ""
    if any("\n" in cell for cell in records[odd]):
        hint = " One of its cells spans several lines: a quotation mark may be missing its partner."
    raise DataError(
        f"{file}: row {filled[odd] + 1} has {lengths[odd]} cells where most rows have {usual}.{hint} Every row must "
        "have the same number; put a cell that holds the delimiter in quotation marks."
    )


def _has_header(columns: Sequence[Column]) -> bool:
    """Whether the first row names the columns.

    Columns of numbers decide: do they begin with a text, at least half of them? Where there are none, the first
    row is a header when its texts never come again, in every column whose texts do come again.
    """
    begins_with_text = []
    for column in columns:
        cells, below = column.cells, column.take(np.arange(1, len(column.codes)))
        numbers = below.amount(~cells.worded & ~cells.missing)
        if numbers > 9 * below.amount(cells.worded) and not cells.missing[0]:
            begins_with_text.append(bool(cells.worded[0]))
    if begins_with_text:
        return 2 * sum(begins_with_text) >= len(begins_with_text)
    recurring = [column for column in columns if 2 * len(column.cells.texts) <= len(column.codes)]
    return bool(recurring) and all(c.counts[0] == 1 and not c.cells.missing[0] for c in recurring)
