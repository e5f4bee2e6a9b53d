"""Which kind of thing is predicted, and the classes as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.data.base import SMALLEST, Kind, Labels
from rheostat.data.columns import holds_numbers
from rheostat.data.split import Rows, split
from rheostat.data.table import Column, parse_number
from rheostat.errors import DataError, unknown

MOST_CLASSES = 20  # different whole numbers, beyond which they are amounts rather than classes
WORDS_OR_MISSING = frozenset(["none", "-"])  # may well be classes where the others are words, such as + and -


def labelled(column: Column) -> NDArray[np.bool_]:
    """Which rows have a label, (N,). Among words, "none" and "-" are taken for classes."""
    missing = column.cells.missing
    if column.amount(column.cells.worded):
        missing = missing & np.array([t.lower() not in WORDS_OR_MISSING for t in column.cells.texts], bool)
    return ~missing[column.codes]


def kind_of_numbers(numbers: NDArray[Any]) -> Kind:
    """Up to 20 different whole numbers are classes."""
    values = np.unique(numbers)
    classes = len(values) <= MOST_CLASSES and np.equal(np.mod(values, 1), 0).all()
    return Kind.CLASSIFICATION if classes else Kind.REGRESSION


def kind_of(column: Column, wanted: Kind | None) -> Kind:
    """What to predict from a column whose labels are all there. Raises DataError for words to be regressed."""
    if wanted is Kind.CLASSIFICATION:
        return wanted
    if holds_numbers(column):
        return wanted or kind_of_numbers(column.numbers)
    if wanted is Kind.REGRESSION:
        raise DataError(f"{column.first(column.cells.worded | column.cells.missing)} is not a number to be predicted.")
    return Kind.CLASSIFICATION


def check_targets(what: str, kind: Kind, targets: NDArray[Any]) -> None:
    """`targets` are classes (N,) or numbers (N, T). Raises DataError where there is nothing to be learnt."""
    if len(targets) < SMALLEST:
        raise DataError(f"{what}: {len(targets)} labelled rows are too few: give at least {SMALLEST}.")
    different = len(np.unique(targets, axis=0))
    if different == 1:
        raise DataError(f"{what}: all {len(targets):,} rows have the same label, so there is nothing to be learnt.")
    if kind is Kind.CLASSIFICATION and 2 * different > len(targets):
        raise DataError(
            f"{what}: there are {different:,} different labels in {len(targets):,} rows, so they are names rather "
            "than classes. Choose another label; for numbers to be predicted give kind='regression'."
        )


def divide(
    what: str, kind: Kind, targets: NDArray[Any], fraction: float, seed: int
) -> tuple[Rows, Rows, tuple[str, ...]]:
    """The rows to train on, those to validate on, and notes. `targets` are classes (N,) or numbers (N, T).

    Raises DataError for targets that cannot be learnt, and SettingError for a wrong fraction.
    """
    check_targets(what, kind, targets)
    classes = targets if kind is Kind.CLASSIFICATION else None
    train, validation = split(len(targets), fraction, seed, classes)
    sizes = f"{len(train):,} rows to train on and {len(validation):,} to validate on, drawn at random"
    if classes is None:
        return train, validation, (sizes + ".",)
    notes = [sizes + " in equal shares of the classes."]
    if lonely := int((np.bincount(classes) == 1).sum()):
        notes.append(f"{what}: {lonely} classes have one row only; they are trained on and not validated.")
    return train, validation, tuple(notes)


def fit_labels(
    what: str, kind: Kind, classes: tuple[str, ...], targets: NDArray[Any]
) -> tuple[Labels, tuple[str, ...]]:
    """The labels, from the training targets, and notes."""
    if kind is Kind.CLASSIFICATION:
        counts = np.bincount(targets, minlength=len(classes))
        most = int(counts.argmax())
        share = f"the most common, {classes[most]!r}, is {100 * counts[most] / len(targets):.1f} % of the rows"
        return Labels(kind, classes), (f"{what} is predicted as one of {len(classes)} classes; {share}.",)
    labels = Labels.of_numbers(targets, what)
    if len(labels.means) == 1:
        spread = f"mean {labels.means[0]:.4g}, standard deviation {labels.scales[0]:.4g}"
        return labels, (f"{what} is predicted as a number; {spread}.",)
    return labels, (f"{what} is predicted as {len(labels.means)} numbers; errors are in standard deviations of each.",)


def class_names(column: Column) -> tuple[str, ...]:
    """The different labels, in their order as numbers or else as texts."""
    present = np.flatnonzero(column.counts)
    texts = [column.cells.texts[place] for place in present.tolist()]
    if np.isnan(column.cells.numbers[present]).any():
        return tuple(sorted(texts))
    return tuple(map(number_name, np.unique(column.cells.numbers[present]).tolist()))


def class_codes(column: Column, classes: tuple[str, ...]) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """The number of each row's class, (N,), and notes. Numbers may be written otherwise (1.0 for 1), and texts
    may differ by a full stop at their end. Raises DataError for a label that is none of the classes."""
    exact = {name: code for code, name in enumerate(classes)}
    plain = {_plain(name): code for name, code in exact.items()}
    codes = np.full(len(column.cells.texts), -1)
    notes: tuple[str, ...] = ()
    for place in np.flatnonzero(column.counts).tolist():
        text = column.cells.texts[place]
        number = parse_number(text)
        code = exact.get(text)
        if code is None and number is not None:
            code = exact.get(number_name(number))
        if code is None and len(plain) == len(classes):
            code = plain.get(_plain(text))
            if code is not None:
                notes = (f"{column.file}: labels such as {text!r} are taken for {classes[code]!r}.",)
        if code is None:
            this = np.arange(len(codes)) == place
            raise DataError(f"{column.first(this)}. " + unknown("class", text, classes))
        codes[place] = code
    return codes[column.codes], notes


def _plain(text: str) -> str:
    return text.rstrip(".").strip()


def number_name(number: float) -> str:
    return f"{number + 0.0:.0f}" if number.is_integer() else repr(number)  # + 0.0: no minus before zero
