"""Arrays in memory or in an `.npz` file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import Dataset, Kind, Labels
from rheostat.data.images import image_arrays, is_pictures
from rheostat.data.labels import check_targets, divide, fit_labels, kind_of_numbers, number_name
from rheostat.data.npz import INPUTS, LABELS, named, opened
from rheostat.data.scaling import moments, standardised
from rheostat.errors import DataError, unknown

Array = NDArray[Any]
Pair = tuple[Array, Array]

PARTS = {
    "train": (("x_train",), ("y_train",)),
    "validation": (("x_val", "x_valid", "x_validation"), ("y_val", "y_valid", "y_validation")),
    "test": (("x_test",), ("y_test",)),
}


@dataclass(frozen=True)
class ArrayEncoder:
    """How arrays become inputs: by mean and standard deviation of the training part.

    There is one of each per feature where an example is a row of features, and a single one for all where it has
    more dimensions, as images have. `shape` is that of an example.
    """

    shape: tuple[int, ...]
    labels: Labels
    means: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def fit(cls, x: Array, labels: Labels) -> ArrayEncoder:
        """From the training inputs (N, ...)."""
        means, scales = moments(x if x.ndim == 2 else x.reshape(-1, 1), "The inputs")
        return cls(x.shape[1:], labels, tuple(means.tolist()), tuple(scales.tolist()))

    def encode(self, path: Path) -> Tensor:
        """The inputs of an `.npz` file, (N, *shape) float32; labels need not be there. Raises DataError."""
        with opened(path) as archive:
            return self.inputs(_checked_inputs(path.name, named(path.name, archive, INPUTS)), path.name)

    def inputs(self, x: Array, what: str) -> Tensor:
        """Standardised inputs, (N, *shape) float32. Raises DataError for another shape."""
        if x.shape[1:] != self.shape:
            raise DataError(f"{what}: its examples have the shape {x.shape[1:]}; those to train on have {self.shape}.")
        flat = x if x.ndim == 2 else x.reshape(-1, 1)
        return standardised(flat, np.array(self.means), np.array(self.scales), what).reshape(x.shape)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        description: dict[str, Any] = msgspec.to_builtins(self)
        return description

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ArrayEncoder:
        """The encoder that `describe` described. Raises DataError where it is not one."""
        try:
            return msgspec.convert(description, cls)
        except msgspec.ValidationError as cause:
            raise DataError(f"This is not the description of an encoder of arrays: {cause}.") from None


def read_npz(path: Path, test: Path | None, kind: Kind | None, validation_fraction: float, seed: int) -> Dataset:
    """The data set of an `.npz` file; `npz.KEYS` says how its arrays may be named. `test` is another such file.

    Raises DataError for a file that cannot be trained on, and SettingError for a wrong `validation_fraction`.
    """
    with opened(path) as archive:
        parts = _parts(path.name, archive)
    if test is not None:
        with opened(test) as archive:
            others = _parts(test.name, archive)
        parts["test"] = others.get("test", others["train"])
    return from_arrays(path.stem, parts, kind, validation_fraction, seed)


def from_arrays(
    name: str,
    parts: Mapping[str, Pair],
    kind: Kind | None = None,
    validation_fraction: float = 0.2,
    seed: int = 0,
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """The data set of arrays: `parts` has pairs (inputs, labels) for "train" and maybe "validation" and "test".

    Inputs are numbers (N, ...). Labels are whole numbers or texts (N,), which are classes; real numbers (N,),
    which are predicted as numbers unless they are whole and at most 20 different ones; numbers (N, T); or classes
    written as ones and zeros (N, C). `kind` overrules that. Without a validation part, `validation_fraction` of
    the training part, drawn by `seed`, becomes it. `class_names` name the classes, in order.

    Raises DataError for what cannot be trained on, and SettingError for a wrong `validation_fraction`.
    """
    inputs, answers = _checked(name, parts, kind)
    kind = kind or _kind(answers["train"])
    values = np.unique(answers["train"]) if kind is Kind.CLASSIFICATION else None
    classes = () if values is None else class_names or tuple(map(_class_name, values.tolist()))
    targets = {part: _targets(f"{name}, {part}", y, values) for part, y in answers.items()}
    if kind is Kind.CLASSIFICATION and is_pictures(inputs["train"]):
        pictures = {part: (inputs[part], targets[part]) for part in inputs}
        return image_arrays(name, pictures, classes, validation_fraction, seed)
    if "validation" in parts:
        check_targets(name, kind, targets["train"])
        split_notes: tuple[str, ...] = ("The parts to train and to validate on are as given.",)
    else:
        train, validation, split_notes = divide(name, kind, targets["train"], validation_fraction, seed)
        for each in (inputs, targets):
            each |= {"train": each["train"][train], "validation": each["train"][validation]}
    labels, label_notes = fit_labels(name, kind, classes, targets["train"])
    encoder = ArrayEncoder.fit(inputs["train"], labels)
    scaled = "each feature" if len(encoder.shape) == 1 else "all values together"

    def encoded(part: str) -> tuple[Tensor, Tensor]:
        what = f"{name}, {part}"
        return encoder.inputs(inputs[part], what), labels.encode(targets[part], what)

    return Dataset(
        name=name,
        train=encoded("train"),
        validation=encoded("validation"),
        test=encoded("test") if "test" in parts else None,
        encoder=encoder,
        notes=(*label_notes, f"Examples of shape {encoder.shape}, {scaled} standardised.", *split_notes),
        fingerprint=_fingerprint([array for pair in parts.values() for array in pair]),
    )


def _parts(file: str, archive: Mapping[str, Array]) -> dict[str, Pair]:
    if not any(key.lower() == "x_train" for key in archive):
        return {"train": (named(file, archive, INPUTS), named(file, archive, LABELS))}
    parts = {}
    for part, (inputs, labels) in PARTS.items():
        if part == "train" or any(key.lower() in (*inputs, *labels) for key in archive):
            parts[part] = (named(file, archive, inputs), named(file, archive, labels))
    return parts


def _checked(name: str, parts: Mapping[str, Pair], kind: Kind | None) -> tuple[dict[str, Array], dict[str, Array]]:
    """The inputs and the labels of all parts, which go together."""
    inputs, labels = {}, {}
    for part, (x, y) in parts.items():
        inputs[part] = _checked_inputs(f"{name}, {part}", x)
        labels[part] = _checked_labels(f"{name}, {part}", y, len(x), kind)
    expected = labels["train"]
    for part, y in labels.items():
        if y.shape[1:] != expected.shape[1:] or (y.dtype.kind == "U") != (expected.dtype.kind == "U"):
            raise DataError(
                f"{name}, {part}: its labels are {y.dtype} of shape {y.shape}; those to train on are "
                f"{expected.dtype} of shape {expected.shape}, which does not go together."
            )
    return inputs, labels


def _checked_inputs(what: str, x: Array) -> Array:
    """Inputs (N, ...): one number per example becomes (N, 1)."""
    if x.dtype.kind not in "biuf":
        raise DataError(f"{what}: the inputs are of type {x.dtype}; they must be numbers.")
    if x.size == 0 or x.ndim == 0:
        raise DataError(f"{what}: the inputs have the shape {x.shape}; give at least one example with one feature.")
    _check_finite(f"{what}: the inputs", x)
    return x[:, None] if x.ndim == 1 else x


def _checked_labels(what: str, y: Array, examples: int, kind: Kind | None) -> Array:
    """Labels (N,), or numbers (N, T) with T > 1."""
    if y.dtype.kind not in "biufU":
        raise DataError(f"{what}: the labels are of type {y.dtype}; they must be numbers or texts.")
    if y.ndim not in (1, 2) or y.size == 0 or len(y) != examples:
        raise DataError(f"{what}: the labels have the shape {y.shape} for {examples} examples; give one for each.")
    _check_finite(f"{what}: the labels", y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind == "U" and (y.ndim == 2 or kind is Kind.REGRESSION):
        raise DataError(f"{what}: the labels are texts; that is for classes, with one text per example.")
    if y.ndim == 2 and kind is not Kind.REGRESSION:
        if ((y == 0) | (y == 1)).all() and (y.sum(1) == 1).all():
            classes: Array = y.argmax(1)
            return classes
        if kind is Kind.CLASSIFICATION:
            raise DataError(f"{what}: labels of shape {y.shape} are not classes; give one whole number per example.")
    return y


def _check_finite(what: str, array: Array) -> None:
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise DataError(
            f"{what} hold {int((~finite).sum()):,} NaN or infinite values, the first at {first}. Remove or fill them."
        )


def _kind(y: Array) -> Kind:
    if y.ndim == 2:
        return Kind.REGRESSION
    return kind_of_numbers(y) if y.dtype.kind == "f" else Kind.CLASSIFICATION


def _targets(what: str, y: Array, values: Array | None) -> Array:
    """The place of each label among the `values` of the classes, (N,); or numbers (N, T) where there are none."""
    if values is None:
        return y.reshape(len(y), -1)
    if not (known := np.isin(y, values)).all():
        raise DataError(f"{what}: " + unknown("class", y[~known][0].item(), values.tolist()))
    return np.searchsorted(values, y)


def _class_name(value: Any) -> str:
    return number_name(value) if isinstance(value, float) else str(value)


def _fingerprint(arrays: Sequence[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()[:12]
