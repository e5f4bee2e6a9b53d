"""Standardising: mean 0 and standard deviation 1, by the statistics of the training part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.errors import DataError

CHUNK_VALUES = 2**22  # worked on at a time in double precision, so that bytes of images do not fill the memory


def moments(values: NDArray[Any], what: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation, (F,) each, of the columns of `values` (N, F).

    A column that does not vary gets a standard deviation of 1, so that it becomes all zeros. Raises DataError,
    beginning with `what`, where they are too large to be computed.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        mean = sum(chunk.sum(0) for chunk in _chunks(values)) / len(values)
        variance = sum(np.square(chunk - mean).sum(0) for chunk in _chunks(values)) / len(values)
    if not (np.isfinite(mean) & np.isfinite(variance)).all():
        raise DataError(f"{what}: its numbers are too large to be standardised. Give them in a larger unit.")
    first = values[0].astype(np.float64)
    constant = values.min(0) == values.max(0)
    sd = np.sqrt(variance)
    return np.where(constant, first, mean), np.where(constant | (sd == 0), 1.0, sd)


def standardised(values: NDArray[Any], mean: NDArray[np.float64], sd: NDArray[np.float64], what: str) -> Tensor:
    """`(values - mean) / sd`, (N, F) float32. Raises DataError, beginning with `what`, where that is not finite."""
    result = np.empty(values.shape, np.float32)
    start = 0
    with np.errstate(over="ignore"):
        for chunk in _chunks(values):
            result[start : start + len(chunk)] = (chunk - mean) / sd
            start += len(chunk)
    if not np.isfinite(result).all():
        raise DataError(f"{what}: a value is too far from those in the training part to be standardised.")
    return torch.from_numpy(result)


def _chunks(values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    rows = max(CHUNK_VALUES // max(values[0].size, 1), 1) if len(values) else 1
    for start in range(0, len(values), rows):
        yield values[start : start + rows].astype(np.float64)
