"""Tables: one row per example, one column to be predicted."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import Dataset, Kind, Labels
from rheostat.data.columns import CategoryColumn, DateColumn, NumberColumn, Part, fit_column, holds_numbers
from rheostat.data.delimited import read_table
from rheostat.data.huggingface import is_saved, read_tables
from rheostat.data.labels import check_targets, class_codes, class_names, divide, fit_labels, kind_of, labelled
from rheostat.data.parquet import read_parquet
from rheostat.data.split import Rows
from rheostat.data.table import Column, Table
from rheostat.errors import DataError, unknown

PARQUET = ".parquet"
ALL = slice(None)


@dataclass(frozen=True)
class TabularEncoder:
    """How the columns of a file are written as features: first the numbers, then the dates, then the categories.

    `names` are all columns of the training file in their order, `header` is whether it named them itself, and
    `label` is the one that is predicted. Columns that are in none of the three are left out.
    """

    names: tuple[str, ...]
    header: bool
    label: str
    labels: Labels
    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]
    dates: tuple[DateColumn, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The columns that are used, in the order of their features."""
        return self.numbers + self.dates + self.categories

    @property
    def features(self) -> tuple[str, ...]:
        """The name of each feature."""
        return tuple(name for part in self.parts for name in part.features)

    def encode(self, path: Path) -> Tensor:
        """The inputs of another file, (N, features) float32, as the network of this encoder expects them.

        Columns are found by name, or by position where the training file had no header; the label may be absent.
        Raises DataError for a column that is absent, or a cell that is not of the column's kind.
        """
        return self.inputs(_one_table(path, self.header))

    def inputs(self, table: Table, rows: Rows | slice = ALL) -> Tensor:
        """The inputs of some rows of a table, (N, features) float32."""
        columns = self.columns(table)
        inputs = torch.empty(len(table.columns[0].codes[rows]), len(self.features))
        start = 0
        for part in self.parts:  # a column at a time, so that there is never a second copy of all
            stop = start + len(part.features)
            inputs[:, start:stop] = torch.from_numpy(part.encode(columns[part.name].take(rows)))
            start = stop
        return inputs

    def columns(self, table: Table) -> Mapping[str, Column]:
        """The columns of a table by their names in the training file."""
        if self.header:
            found = {column.name: column for column in table.columns}
            for part in self.parts:
                if part.name not in found:
                    raise DataError(
                        f"{table.file}: its first row must name the columns, as in the training file. "
                        + unknown("column", part.name, _shortlist(part.name, table.names))
                    )
            return found
        names = self.names
        if len(table.columns) == len(names) - 1:
            names = tuple(name for name in names if name != self.label)
        if len(table.columns) != len(names):
            raise DataError(
                f"{table.file} has {len(table.columns)} columns; the training file had {len(names)}, and none was "
                f"named. Give as many, or all but {self.label}."
            )
        return dict(zip(names, table.columns, strict=True))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        description: dict[str, Any] = msgspec.to_builtins(self)
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TabularEncoder:
        """The encoder that `describe` described. Raises DataError where it is not one."""
        try:
            return msgspec.convert(description, cls)
        except msgspec.ValidationError as cause:
            raise DataError(f"This is not the description of a table's encoder: {cause}.") from None


def read_tabular(
    path: Path, label: str | None, test: Path | None, kind: Kind | None, validation_fraction: float, seed: int
) -> Dataset:
    """The data set of a file of delimited text or Parquet, or of a folder saved by Hugging Face `datasets`.

    `label` is a column's name, its number from 1, or `last`; a saved folder may say it itself. A part to validate on
    is drawn by `seed` where the folder has none. Raises DataError for data that cannot be trained on, and
    SettingError for a wrong `validation_fraction`.
    """
    parts = read_tables(path) if is_saved(path) else {"train": _one_table(path)}
    if test is not None:
        parts["test"] = _one_table(test, parts["train"].header)
    table = parts["train"]
    if len(table.columns) == 1:
        raise DataError(f"{table.file} has one column only: there must be another to predict it from.")
    table, label_notes = _labelled_rows(table, position := _label_position(table, label))
    column = table.columns[position]
    what = f"{table.file}, column {column.name!r}"
    kind = kind_of(column, kind)
    classes = class_names(column) if kind is Kind.CLASSIFICATION else ()
    targets = _targets(column, classes)[0]
    if "validation" in parts:
        check_targets(what, kind, targets)
        rows = {"train": np.arange(len(targets))}
        split_notes: tuple[str, ...] = ("The parts to train and to validate on are as given.",)
    else:
        train, validation, split_notes = divide(what, kind, targets, validation_fraction, seed)
        rows = {"train": train, "validation": validation}
    labels, kind_notes = fit_labels(what, kind, classes, targets[rows["train"]])
    encoder, column_notes = _fit(table, position, rows["train"], labels)
    notes = (*table.notes, *label_notes, *kind_notes, *column_notes, *split_notes)
    data = {part: (encoder.inputs(table, here), labels.encode(targets[here], what)) for part, here in rows.items()}
    for part in [part for part in parts if part not in data]:
        data[part], part_notes = _other_part(encoder, parts[part])
        notes += part_notes
    return Dataset(
        name=Path(path.name.removesuffix(".gz")).stem,
        train=data["train"],
        validation=data["validation"],
        test=data.get("test"),
        encoder=encoder,
        notes=notes,
        fingerprint=_fingerprint([part.digest for part in parts.values()]),
    )


def _one_table(path: Path, header: bool | None = None) -> Table:
    """The table of a file or a saved folder without splits; `header` is whether delimited text names its columns."""
    if is_saved(path):
        tables = read_tables(path)
        if len(tables) > 1:
            raise DataError(f"{path.name} has several parts: give the folder of one, such as {path / 'test'}.")
        return tables["train"]
    return read_parquet(path) if path.suffix.lower() == PARQUET else read_table(path, header)


def _fingerprint(digests: Sequence[str]) -> str:
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return whole[:12]


def _label_position(table: Table, label: str | None) -> int:
    if label is None and table.label is not None:
        label = table.label
    if label is None:
        raise DataError(
            f"{table.file}: which column is to be predicted? Give its name, its number, or 'last' (--target NAME): "
            f"{_listed(table.names)}."
        )
    if label in table.names:
        return table.names.index(label)
    if label == "last":
        return len(table.columns) - 1
    if label.isdecimal() and 1 <= int(label) <= len(table.columns):
        return int(label) - 1
    raise DataError(
        f"{table.file}: "
        + unknown("column", label, _shortlist(label, table.names))
        + f" A number from 1 to {len(table.columns)}, or 'last', will do too."
    )


def _shortlist(name: str, names: Sequence[str]) -> Sequence[str]:
    """The names that are worth listing to someone who wrote `name`."""
    if len(names) <= 30:
        return names
    return difflib.get_close_matches(name, names, n=10, cutoff=0.5) or [*names[:10], "..."]


def _labelled_rows(table: Table, position: int) -> tuple[Table, tuple[str, ...]]:
    """The rows with a label, and a note on the others."""
    column = table.columns[position]
    keep = labelled(column)
    if not keep.any():
        raise DataError(f"{table.file}, column {column.name!r}: no row has a label.")
    if keep.all():
        return table, ()
    words = sorted({column.cells.texts[code] for code in column.codes[~keep]})
    return table.take(keep), (
        f"{table.file}: left out {int((~keep).sum()):,} rows without a label ({_listed(list(map(repr, words)))}).",
    )


def _targets(column: Column, classes: tuple[str, ...]) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Classes (N,), or numbers (N, 1) where there are none; and notes."""
    if classes:
        return class_codes(column, classes)
    if not holds_numbers(column):
        raise DataError(f"{column.first(column.cells.worded)} is not a number, as the labels to train on are.")
    return column.numbers[:, None], ()


def _fit(table: Table, position: int, train: Rows, labels: Labels) -> tuple[TabularEncoder, tuple[str, ...]]:
    """The encoder of a table, by its training rows, and notes on what was done with the columns."""
    parts: list[Part] = []
    left_out: dict[str, list[str]] = {}
    for place, column in enumerate(table.columns):
        if place != position:
            part = fit_column(column, train)
            if isinstance(part, str):
                left_out.setdefault(part, []).append(column.name)
            else:
                parts.append(part)
    reasons = [f"left out {_listed(names)}: {why}" for why, names in left_out.items()]
    if not parts:
        raise DataError(f"{table.file}: no column is left to predict from; {'; '.join(reasons)}.")
    numbers = tuple(part for part in parts if isinstance(part, NumberColumn))
    dates = tuple(part for part in parts if isinstance(part, DateColumn))
    categories = tuple(part for part in parts if isinstance(part, CategoryColumn))
    encoder = TabularEncoder(table.names, table.header, table.names[position], labels, numbers, categories, dates)
    return encoder, (*(f"{table.file}: {reason}." for reason in reasons), *_column_notes(encoder))


def _column_notes(encoder: TabularEncoder) -> list[str]:
    """What was done with the columns that are used."""
    numbers, dates, categories = encoder.numbers, encoder.dates, encoder.categories
    of_dates = f"{len(dates)} of dates, " if dates else ""
    notes = [
        f"{len(numbers)} columns of numbers, standardised, {of_dates}and {len(categories)} of categories, one input "
        f"per level: {len(encoder.features)} inputs."
    ]
    for part in dates:
        cycles = f", and the {', '.join(part.cycles)} as points on a circle" if part.cycles else ""
        notes.append(f"Dates in {part.name}: days since their mean, standardised{cycles}.")
    for what, filled in (("Numbers", numbers), ("Dates", dates)):
        if gaps := [part.name for part in filled if part.indicator]:
            notes.append(f"{what} missing in {_listed(gaps)}: the median stands in, and one more input says where.")
    if gaps := [part.name for part in categories if "" in part.levels]:
        notes.append(f"Categories missing in {_listed(gaps)}: they are a level of their own.")
    if grouped := [part.name for part in categories if part.other]:
        notes.append(f"Rare levels of {_listed(grouped)} are grouped.")
    if counted := [part.name for part in categories if part.frequencies]:
        notes.append(f"{_listed(counted)}: one more input says how common the level is in the training rows.")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _other_part(encoder: TabularEncoder, table: Table) -> tuple[tuple[Tensor, Tensor], tuple[str, ...]]:
    """Another table as inputs and targets, and notes."""
    columns = encoder.columns(table)
    if encoder.label not in columns:
        raise DataError(f"{table.file} has no column {encoder.label!r}, without which nothing can be tested.")
    position = table.columns.index(columns[encoder.label])
    table, label_notes = _labelled_rows(table, position)
    column = table.columns[position]
    targets, target_notes = _targets(column, encoder.labels.classes)
    y = encoder.labels.encode(targets, f"{table.file}, column {column.name!r}")
    return (encoder.inputs(table), y), (*table.notes, *label_notes, *target_notes)
