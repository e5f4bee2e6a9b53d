"""From what the user points at to a data set."""

from __future__ import annotations

from pathlib import Path

from rheostat.data import builtin
from rheostat.data.base import Dataset, Kind
from rheostat.errors import DataError, SettingError, unknown

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
ARRAYS = (".npz",)
SUPPORTED = (
    f"Supported: tables ({', '.join(TABLES)}), arrays ({', '.join(ARRAYS)}), and built in: {', '.join(builtin.NAMES)}."
)


def read(
    target: str | Path,
    *,
    label: str | int | None = None,
    test: str | Path | None = None,
    kind: Kind | str | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """The data set of a file or a built-in name.

    `label` is the column of a table to predict: its name, its number from 1, or "last". `test` is another file of
    the same kind, held out. `kind` (classification or regression) is inferred from the labels where it is not
    given. `validation_fraction` of the rows, drawn by `seed`, are validated on.

    Raises DataError for data that cannot be trained on, and SettingError for an argument that is not allowed.
    """
    if kind is not None and kind not in list(Kind):
        raise SettingError(unknown("kind", kind, Kind))
    kind = None if kind is None else Kind(kind)
    path, test_path = Path(target), None if test is None else Path(test)
    if str(target) in builtin.NAMES:
        for name, value in (("label", label), ("test", test), ("kind", kind)):
            if value is not None:
                raise SettingError(f"{target} is built in, so {name}={str(value)!r} has no meaning: leave it out.")
        return builtin.load_builtin(str(target), validation_fraction, seed)
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()
    if suffix not in (*TABLES, *ARRAYS):
        if not suffix:
            raise DataError(unknown("built-in data set", target, builtin.NAMES) + f" {SUPPORTED}")
        raise DataError(f"{target}: files of the kind {suffix!r} cannot be read. {SUPPORTED}")
    for file in filter(None, (path, test_path)):
        if not file.is_file():
            raise DataError(f"There is no file {file} (in {Path.cwd()}).")
    if suffix in ARRAYS:
        from rheostat.data.arrays import read_npz

        if label is not None:
            raise SettingError(f"label={label!r} has no meaning for {path.name}: its labels are the array y.")
        return read_npz(path, test_path, kind, validation_fraction, seed)
    from rheostat.data.tabular import read_tabular

    return read_tabular(path, None if label is None else str(label), test_path, kind, validation_fraction, seed)
