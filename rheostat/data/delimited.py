"""Files of delimited text (CSV, TSV, plain or gzip) as columns of text.

The delimiter, the encoding and the header are found here; what a column means is decided elsewhere. A file is read
as a stream, three times: for its encoding, for its delimiter (the first rows), and for its cells. A column keeps each
different text once, and a number or a date that is one of very many as 8 bytes, so that a table takes little more
room than its file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import zlib
from array import array
from codecs import getincrementaldecoder
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rheostat.data.dates import iso_seconds
from rheostat.data.table import Cells, Column, Places, Table, parse_number, shortened
from rheostat.errors import DataError

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
SNIFFED_ROWS = 100
CHUNK_BYTES, CHUNK_CELLS = 2**20, 2**18  # read, and worked on, at a time
MOST_TEXTS = 2**14  # different ones in a column, beyond which numbers and dates are kept without them
FEW_OTHERS = 0.01  # of those, up to which the column is one of numbers, or of dates


@dataclass(frozen=True)
class _Source:
    """A text file, plain or packed, that can be read again and again."""

    path: Path
    encoding: str

    @contextmanager
    def records(self, delimiter: str, quoted: bool) -> Iterator[Any]:
        """Its rows, as a reader of the csv module, which counts the lines."""
        with _opened(self.path) as binary, io.TextIOWrapper(binary, self.encoding, newline="") as text:
            yield csv.reader(
                text,
                delimiter=delimiter,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
                skipinitialspace=True,
                strict=True,
            )


def _number(cell: str) -> float | None:
    number = parse_number(cell)
    return None if number is None or math.isnan(number) else number


@dataclass
class _Gatherer:
    """Collects the cells of one column, a chunk at a time.

    `places` numbers the texts, and `codes` are those of the rows. Once there are very many texts and nearly all are
    numbers, or dates in ISO 8601, `read` gives their value: a new cell that has one goes to `values`, the first with
    the code -1, the second with -2, and so on. The arrays grow in place: many small ones would leave holes.
    """

    places: Places = field(default_factory=Places)
    codes: array[int] = field(default_factory=lambda: array("i"))
    values: array[float] = field(default_factory=lambda: array("d"))
    read: Callable[[str], float | None] | None = None
    judged: bool = False

    def take(self, cells: Sequence[str]) -> None:
        if self.read is None:
            self._add(np.fromiter(map(self.places.__getitem__, cells), np.int32, len(cells)))
            if len(self.places) > MOST_TEXTS and not self.judged:
                self._judge()
            return
        values = _plain_numbers(cells) if self.read is _number else None
        if values is None:
            read = [self.read(cell) for cell in cells]
            values = np.array([value for value in read if value is not None], np.float64)
            codes = [0 if value is not None else self.places[cell] for cell, value in zip(cells, read, strict=True)]
            by_value = np.array([value is not None for value in read])
        else:
            codes, by_value = [0] * len(cells), np.ones(len(cells), bool)
        new = np.array(codes, np.int32)
        new[by_value] = -1 - len(self.values) - np.arange(len(values))
        self.values.frombytes(values.tobytes())
        self._add(new)

    def _add(self, codes: NDArray[np.int32]) -> None:
        self.codes.frombytes(codes.tobytes())

    def _judge(self) -> None:
        self.judged = True
        for read in (_number, iso_seconds):
            if sum(read(text) is None for text in self.places) <= FEW_OTHERS * len(self.places):
                self.read = read
                return

    def cells(self) -> tuple[Cells, NDArray[np.int32]]:
        """All cells and the code of each row; the texts are let go."""
        texts, codes, values = tuple(self.places), np.frombuffer(self.codes, np.int32), np.frombuffer(self.values)
        self.places.clear()
        by_value = codes < 0
        codes[by_value] = len(texts) - 1 - codes[by_value]
        return Cells.of_texts(texts, values, of_times=self.read is iso_seconds), codes


def _plain_numbers(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """The numbers in cells that all hold one, as `parse_number` reads them but faster; else None."""
    if not (text := "".join(cells)).isascii() or "_" in text:
        return None
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None


@dataclass
class _Gathered:
    """What a pass over the rows of a file found, blank rows left out.

    `lengths` counts the rows of each number of cells, and `first` has the first row of each, with whether one of its
    cells spans several lines. Where they differ, columns are not gathered to the end.
    """

    columns: list[_Gatherer] = field(default_factory=list)
    rows: list[NDArray[np.intp]] = field(default_factory=list)  # their numbers in the file, from 1
    lengths: Counter[int] = field(default_factory=Counter)
    first: dict[int, tuple[int, bool]] = field(default_factory=dict)

    def extend(self, records: Sequence[list[str]], start: int) -> None:
        """Further rows; the first of them is the row `start` of the file."""
        filled = [place for place, record in enumerate(records) if any(map(str.strip, record))]
        for place in filled:
            length = len(records[place])
            self.lengths[length] += 1
            if length not in self.first:
                self.first[length] = start + place, any("\n" in cell for cell in records[place])
        if len(self.lengths) != 1:
            return
        if not self.columns:
            self.columns = [_Gatherer() for _ in records[filled[0]]]
        by_column = zip(*(records[place] for place in filled), strict=True)
        for column, cells in zip(self.columns, by_column, strict=False):  # there may be no row
            column.take(list(map(str.strip, cells)))
        self.rows.append(np.array(filled, np.intp) + start)


def read_table(path: Path, header: bool | None = None) -> Table:
    """The columns of a file, at least one with at least one row.

    Whether its first row is a header is found out unless `header` says it. Spaces around cells are dropped and
    blank rows skipped. Raises DataError for what cannot be read, or has rows of different lengths.
    """
    source, digest, notes = _surveyed(path)
    gathered, delimiter, quote_notes = _parsed(source)
    if not gathered.lengths:
        raise DataError(f"{path.name} is empty: it must hold rows of cells, separated by commas, tabs, ; or |.")
    _check_lengths(path.name, gathered)
    rows = np.concatenate(gathered.rows)
    columns = [Column(path.name, "", *column.cells(), rows) for column in gathered.columns]
    firsts = [column.cells.texts[0] for column in columns]
    if header is None:
        header = _has_header(columns)
    if header and len(rows) == 1:
        raise DataError(f"{path.name} holds nothing but the names of its columns: there must be rows below them.")
    names = [(header and first) or f"column_{number}" for number, first in enumerate(firsts, 1)]
    check_names(path.name, names)
    columns = [replace(column, name=name) for column, name in zip(columns, names, strict=True)]
    note = (
        f"{path.name}: {len(rows) - header:,} rows of {len(columns)} columns, separated by {DELIMITERS[delimiter]}; "
        + ("the first row names the columns." if header else f"no header, so they are named {_span(names)}.")
    )
    table = Table(path.name, tuple(columns), header, digest, (note, *notes, *quote_notes))
    return table.take(slice(1, None)) if header else table


def check_names(file: str, names: Sequence[str]) -> None:
    """Raises DataError where two columns have the same name."""
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise DataError(f"{file}: more than one column is named {shortened(repeated[0])}: rename all but one.")


def _span(names: Sequence[str]) -> str:
    """
    >>> _span(["column_1", "column_2", "column_3"])
    'column_1 to column_3'
    """
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        if path.suffix.lower() != ".gz":
            yield file
            return
        with gzip.open(file) as unpacked:
            yield unpacked  # type: ignore[misc]  # a GzipFile reads as a BinaryIO does


def _surveyed(path: Path) -> tuple[_Source, str, tuple[str, ...]]:
    """The file with its encoding, the SHA-256 of what it holds, and notes."""
    digest, decoder, utf8 = hashlib.sha256(), getincrementaldecoder("utf-8")(), True
    try:
        with _opened(path) as file:
            while chunk := file.read(CHUNK_BYTES):
                if b"\0" in chunk:
                    raise DataError(
                        f"{path.name} is not plain text: it holds zero bytes. A spreadsheet or a UTF-16 text must be "
                        "saved as CSV in UTF-8 first."
                    )
                digest.update(chunk)
                utf8 = utf8 and _decodes(decoder, chunk, final=False)
    except OSError as cause:
        if path.suffix.lower() != ".gz" or cause.errno is not None:
            raise DataError(f"{path} cannot be read: {cause.strerror or cause}.") from None
        raise DataError(f"{path.name} cannot be unpacked: {cause}. Is it a whole gzip file?") from None
    except (EOFError, zlib.error) as cause:
        raise DataError(f"{path.name} cannot be unpacked: {cause}. Is it a whole gzip file?") from None
    if utf8 and _decodes(decoder, b"", final=True):
        return _Source(path, "utf-8-sig"), digest.hexdigest(), ()
    return _Source(path, "latin-1"), digest.hexdigest(), (f"{path.name}: it is not UTF-8, so it was read as Latin-1.",)


def _decodes(decoder: Any, chunk: bytes, final: bool) -> bool:
    try:
        decoder.decode(chunk, final)
        return True
    except UnicodeDecodeError:
        return False


def _parsed(source: _Source) -> tuple[_Gathered, str, tuple[str, ...]]:
    """The rows, the delimiter, and notes.

    Quotation marks that do not pair up would swallow rows without a word. They are taken as ordinary characters
    where that makes rows of equal length, as in plain text separated by tabs; else they are an error.
    """
    file, delimiter = source.path.name, _sniffed(source, quoted=True)
    with source.records(delimiter, quoted=True) as records:
        try:
            return _gathered(records), delimiter, ()
        except csv.Error as cause:
            problem = (
                f"{file}, line {records.line_num}: {cause}. A quotation mark without its partner may be the reason."
            )
    try:
        delimiter = _sniffed(source, quoted=False)
        with source.records(delimiter, quoted=False) as records:
            plain = _gathered(records)
    except csv.Error:
        raise DataError(problem) from None
    if len(plain.lengths) > 1:
        raise DataError(problem)
    return plain, delimiter, (f"{file}: its quotation marks do not pair up, so they are ordinary characters.",)


def _gathered(records: Iterator[list[str]]) -> _Gathered:
    """Raises csv.Error for what the csv module refuses."""
    gathered, start, width = _Gathered(), 1, max(CHUNK_CELLS // SNIFFED_ROWS, 1)  # not known yet
    while chunk := list(islice(records, max(CHUNK_CELLS // width, 1))):
        gathered.extend(chunk, start)
        start, width = start + len(chunk), max(map(len, chunk)) or 1
    return gathered


def _sniffed(source: _Source, quoted: bool) -> str:
    """The delimiter that splits most of the first rows into equally many cells, and then into the most."""

    def score(delimiter: str) -> tuple[float, int]:
        try:
            with source.records(delimiter, quoted) as records:
                lengths = [len(row) for row in islice(records, SNIFFED_ROWS) if row]
        except csv.Error:
            return 0.0, 0
        ((usual, times),) = Counter(lengths).most_common(1) or [(1, 0)]
        return (times / len(lengths), usual) if usual > 1 else (0.0, 0)

    return max(DELIMITERS, key=score)


def _check_lengths(file: str, gathered: _Gathered) -> None:
    if len(gathered.lengths) == 1:
        return
    ((usual, _),) = gathered.lengths.most_common(1)
    row, spans, length = min((*first, length) for length, first in gathered.first.items() if length != usual)
    hint = " One of its cells spans several lines: a quotation mark may be missing its partner." if spans else ""
    raise DataError(
        f"{file}: row {row} has {length} cells where most rows have {usual}.{hint} Every row must "
        "have the same number; put a cell that holds the delimiter in quotation marks."
    )


def _has_header(columns: Sequence[Column]) -> bool:
    """Whether the first row names the columns.

    Columns of numbers decide: do they begin with a text, at least half of them? Where there are none, the first
    row is a header when its texts never come again, in every column whose texts do come again.
    """
    begins_with_text = []
    for column in columns:
        cells, below = column.cells, column.take(slice(1, None))
        numbers = below.amount(~cells.worded & ~cells.missing)
        if numbers > 9 * below.amount(cells.worded) and not cells.missing[0]:
            begins_with_text.append(bool(cells.worded[0]))
    if begins_with_text:
        return 2 * sum(begins_with_text) >= len(begins_with_text)
    recurring = [column for column in columns if 2 * len(column.cells.texts) <= len(column.codes)]
    return bool(recurring) and all(c.counts[0] == 1 and not c.cells.missing[0] for c in recurring)
