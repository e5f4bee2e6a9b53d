"""Parquet files as tables, by the extra `parquet` (pyarrow); and columns of Arrow, its form in memory.

Numbers, dates and categories are what the file's schema says they are. Texts are read as those of a CSV file are, so
that the same table gives the same inputs from both. A column is read at a time, a batch of rows at a time: memory
holds the cells of the table and never a second copy of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.data.delimited import check_names
from rheostat.data.table import Cells, Column, Places, Table
from rheostat.errors import DataError

BATCH_ROWS = 2**16
NO_CLASSES: Mapping[str, Sequence[str]] = {}
Batches = Callable[[str], Iterable[Any]]  # from a column's name to its Arrow arrays, in the order of the rows
Read = tuple[Cells, NDArray[np.int32]]


def read_parquet(path: Path) -> Table:
    """The columns of a Parquet file. Raises DataError for what cannot be read, and where pyarrow is missing."""
    with arrow_errors(path.name, "Parquet"):
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:

            def batches(name: str) -> Iterator[Any]:
                for batch in file.iter_batches(BATCH_ROWS, columns=[name]):
                    yield batch.column(name)

            return table_of(path.name, file.schema_arrow, batches, digest_of([path]))


@contextmanager
def arrow_errors(file: str, kind: str) -> Iterator[None]:
    """What goes wrong in pyarrow becomes a DataError about `file`, which should be of this kind."""
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{file}: to read it, pyarrow must be there: pip install 'rheostat[parquet]'.") from None
    try:
        yield
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as cause:  # ValueError: texts that are not UTF-8
        problem = str(cause).strip().splitlines()[0].rstrip(".") if str(cause).strip() else type(cause).__name__
        raise DataError(f"{file} cannot be read: {problem}. Is it a whole {kind} file?") from None


def table_of(
    file: str,
    schema: Any,
    batches: Batches,
    digest: str,
    classes: Mapping[str, Sequence[str]] = NO_CLASSES,
    label: str | None = None,
) -> Table:
    """The table of columns of Arrow. `classes` are the names of the classes in columns that hold their numbers, and
    `label` is the column that is to be predicted, where the file says it.

    Columns that are no numbers, dates or texts are left out, with a note. Raises DataError where nothing is left.
    """
    check_names(file, schema.names)
    found: dict[str, Read] = {}
    left_out = []
    for field in schema:
        if field.name in classes:
            found[field.name] = _classes(f"{file}, column {field.name!r}", batches(field.name), classes[field.name])
        elif (reader := _reader(field.type)) is not None:
            found[field.name] = reader(batches(field.name))
        else:
            left_out.append(f"{field.name} ({field.type})")
    lengths = {len(codes) for _, codes in found.values()}
    if len(lengths) > 1:
        raise DataError(f"{file} is damaged: its columns have {', '.join(map(str, sorted(lengths)))} rows.")
    if not (length := sum(lengths)):
        raise DataError(f"{file} holds no rows of numbers, dates or texts; its columns are: {', '.join(schema.names)}.")
    rows = np.arange(1, length + 1)
    columns = tuple(Column(file, name, cells, codes, rows) for name, (cells, codes) in found.items())
    notes = [f"{file}: {length:,} rows of {len(columns)} columns, with their names and types."]
    if left_out:
        notes.append(f"{file}: left out {', '.join(left_out)}: only numbers, dates and texts can be inputs.")
    return Table(file, columns, True, digest, tuple(notes), label)


def _reader(kind: Any) -> Callable[[Iterable[Any]], Read] | None:
    """What reads the arrays of a type of Arrow; None for a type that is not for a table."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _categories if _reader(kind.value_type) in (_texts, _numbers) else None
    for holds, reader in (
        ((types.is_integer, types.is_floating, types.is_decimal), _numbers),
        ((types.is_string, types.is_large_string, types.is_string_view), _texts),
        ((types.is_timestamp, types.is_date, types.is_time), _times),
        ((types.is_duration,), _durations),
        ((types.is_boolean,), _booleans),
        ((types.is_null,), _nothing),
    ):
        if any(check(kind) for check in holds):
            return reader
    return None


def _numbers(arrays: Iterable[Any]) -> Read:
    return _distinct(Cells.of_numbers, map(_floats, arrays))


def _times(arrays: Iterable[Any]) -> Read:
    import pyarrow

    def seconds(array: Any) -> NDArray[np.float64]:
        if pyarrow.types.is_time(array.type):
            array = array.cast(pyarrow.time64("us"), safe=False)
        else:
            zone = array.type.tz if pyarrow.types.is_timestamp(array.type) else None
            array = array.cast(pyarrow.timestamp("us", zone), safe=False)  # in UTC, whatever its time zone
        return _floats(array.cast(pyarrow.int64())) / 1e6

    return _distinct(Cells.of_seconds, map(seconds, arrays))


def _durations(arrays: Iterable[Any]) -> Read:
    import pyarrow

    units = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
    seconds = (_floats(array.cast(pyarrow.int64())) / units[array.type.unit] for array in arrays)
    return _distinct(Cells.of_numbers, seconds)


def _floats(array: Any) -> NDArray[np.float64]:
    """As numbers, (N,); a null becomes NaN."""
    import pyarrow

    values: NDArray[np.float64] = array.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _distinct(cells: Callable[[NDArray[np.float64]], Cells], values: Iterable[NDArray[np.float64]]) -> Read:
    """The different values, and which of them each row holds."""
    different, codes = np.unique(np.concatenate([np.empty(0), *values]), return_inverse=True)
    return cells(different), codes.astype(np.int32)


def _texts(arrays: Iterable[Any]) -> Read:
    return _coded(Cells.of_texts, (array.dictionary_encode() for array in arrays))


def _categories(arrays: Iterable[Any]) -> Read:
    return _coded(Cells.of_words, arrays)


def _coded(cells: Callable[[Sequence[str]], Cells], arrays: Iterable[Any]) -> Read:
    """The different texts of arrays that number their texts, and which of them each row holds."""
    places = Places()
    codes = [np.empty(0, np.int32)]
    for array in arrays:
        array.validate(full=True)  # a damaged file may have numbers beyond its texts
        texts = ["" if text is None else str(text).strip() for text in array.dictionary.to_pylist()]
        place = np.array([places[text] for text in (*texts, "")], np.int32)
        codes.append(place[array.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)])
    return cells(tuple(places)), np.concatenate(codes)


def _booleans(arrays: Iterable[Any]) -> Read:
    import pyarrow

    codes = [array.cast(pyarrow.int8()).fill_null(2).to_numpy(zero_copy_only=False) for array in arrays]
    return Cells.of_words(("False", "True", "")), np.concatenate([np.empty(0, np.int32), *codes]).astype(np.int32)


def _nothing(arrays: Iterable[Any]) -> Read:
    return Cells.of_texts(("",)), np.zeros(sum(map(len, arrays)), np.int32)


def _classes(what: str, arrays: Iterable[Any], names: Sequence[str]) -> Read:
    """Numbers of classes by their names; a null or -1 is missing."""
    numbers = [array.fill_null(-1).to_numpy(zero_copy_only=False) for array in arrays]
    codes = np.concatenate([np.empty(0, np.int64), *numbers])
    if len(codes) and codes.max() >= len(names):
        raise DataError(f"{what}: there is no name for the class {codes.max()}; there are {len(names)} names.")
    worded = np.arange(len(names) + 1) < len(names)
    cells = Cells((*names, ""), np.full(len(worded), math.nan), worded)
    return cells, np.where(codes < 0, len(names), codes).astype(np.int32)


def digest_of(paths: Iterable[Path]) -> str:
    """The SHA-256 of what files hold, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    return digest.hexdigest()
