"""Which rows to train on, and which to validate on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SettingError
from rheostat.types import derive_seed

Rows = NDArray[np.intp]


def split(rows: int, fraction: float, seed: int, classes: NDArray[np.integer[Any]] | None = None) -> tuple[Rows, Rows]:
    """The rows to train on and those to validate on, each in order; `fraction` of them, rounded up, validate.

    With `classes`, (rows,) numbers from 0, both parts hold the classes in equal shares, and every class of at
    least two rows is in both; a class of one row is trained on. The result depends on the arguments alone.

    Raises SettingError for a fraction that is not between 0 and 1.

    >>> train, validation = split(10, 0.2, seed=0, classes=np.array([0] * 5 + [1] * 5))
    >>> len(train), validation.tolist()
    (8, [1, 9])
    """
    if not 0 < fraction < 1:
        raise SettingError(f"validation_fraction={fraction!r} must be between 0 and 1, such as 0.2.")
    shuffled = np.random.default_rng(derive_seed(seed, "validation split")).permutation(rows)
    wanted = math.ceil(fraction * rows - 1e-9)  # 0.07 * 100 is a little more than 7
    if classes is None:
        chosen = shuffled[: min(wanted, rows - 1)]
    else:
        counts = np.bincount(classes)
        by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
        rank = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = by_class[rank < np.repeat(_shares(counts, wanted), counts)]
    validates = np.zeros(rows, bool)
    validates[chosen] = True
    return np.flatnonzero(~validates), np.flatnonzero(validates)


def _shares(counts: NDArray[np.intp], wanted: int) -> NDArray[np.intp]:
    """How many rows of each class validate: in proportion, what is left over to the largest remainders."""
    most: NDArray[np.intp] = np.maximum(counts - 1, 0)
    exact = counts * (wanted / counts.sum())
    shares: NDArray[np.intp] = np.clip(np.floor(exact).astype(np.intp), np.minimum(1, most), most)
    open_classes = np.flatnonzero(shares < most)
    by_remainder = open_classes[np.argsort(-(exact - shares)[open_classes], kind="stable")]
    shares[by_remainder[: max(wanted - int(shares.sum()), 0)]] += 1
    return shares
