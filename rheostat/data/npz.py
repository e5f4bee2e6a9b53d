"""Files of arrays as numpy.savez writes them, and the names by which arrays are known."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import DataError

Array = NDArray[Any]

INPUTS, LABELS = ("x", "inputs", "data"), ("y", "labels", "targets")
KEYS = "x and y (or inputs and labels, data and targets), or x_train and y_train with x_val, y_val, x_test, y_test"


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, Array]]:
    """The arrays of a file, each read when it is asked for; what goes wrong becomes a DataError."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path.name} is not an .npz file, as numpy.savez writes it.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except DataError:
        raise
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as cause:
        problem = str(cause) or type(cause).__name__
        raise DataError(f"{path.name} cannot be read: {problem}. Save plain numbers with numpy.savez.") from None


def named(file: str, archive: Mapping[str, Array], names: Sequence[str]) -> Array:
    """The one array of an archive that has one of these names, whatever its case. Raises DataError."""
    found = [key for key in archive if key.lower() in names]
    if len(found) != 1:
        held = ", ".join(map(repr, archive)) or "none"
        problem = f"more than one of its arrays may be meant: {', '.join(found)}" if found else f"no array {names[0]!r}"
        raise DataError(f"{file}: {problem}. It must hold {KEYS}; it holds {held}.")
    array = archive[found[0]]
    if not isinstance(array, np.ndarray):  # a file of another kind, packed beside the arrays
        raise DataError(f"{file}: {found[0]!r} is not an array.")
    return array
