"""Small data sets that come with scikit-learn, so that they need no network."""

from __future__ import annotations

from rheostat.data.arrays import from_arrays
from rheostat.data.base import Dataset, Kind
from rheostat.errors import DataError, unknown

NAMES = ("digits", "breast_cancer", "diabetes", "iris", "wine")


def load_builtin(name: str, validation_fraction: float, seed: int) -> Dataset:
    """One of `NAMES`. Raises DataError for another, and SettingError for a wrong `validation_fraction`.

    >>> digits = load_builtin("digits", 0.2, seed=0)
    >>> digits.inputs, digits.outputs, len(digits.train[0]), len(digits.validation[0])
    (64, 10, 1437, 360)
    """
    if name not in NAMES:
        raise DataError(unknown("built-in data set", name, NAMES))
    from sklearn import datasets  # takes a second

    loaders = {
        "digits": datasets.load_digits,
        "breast_cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
    }
    bunch = loaders[name]()
    kind = Kind.REGRESSION if name == "diabetes" else Kind.CLASSIFICATION
    classes = tuple(map(str, bunch.target_names)) if kind is Kind.CLASSIFICATION else ()
    return from_arrays(name, {"train": (bunch.data, bunch.target)}, kind, validation_fraction, seed, classes)
