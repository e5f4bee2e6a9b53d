"""Data sets of Hugging Face `datasets`, as its `save_to_disk` leaves them in a folder; by the extra `parquet`.

Such a folder holds `state.json` with the names of its Arrow files and `dataset_info.json` with the features, or
`dataset_dict.json` with the names of its splits, each a folder of the former kind. pyarrow reads all of it; the
library `datasets` is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rheostat.data.base import Form
from rheostat.data.parquet import arrow_errors, digest_of, table_of
from rheostat.data.table import Table
from rheostat.errors import DataError

STATE, INFO, SPLITS = "state.json", "dataset_info.json", "dataset_dict.json"
PARTS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
COUNTERS = ("id", "idx", "index")  # columns that say nothing of the example
LOOKED_AT, FEWEST_WORDS = 1000, 3  # texts, and words in a text on average, from which it is one to be read

Decoded = TypeVar("Decoded")


class _File(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    files: list[_File] = msgspec.field(name="_data_files")


class _Feature(msgspec.Struct):
    """A column: `type` is Value, with its `dtype`; ClassLabel, with the `names` of the classes; Image; and others."""

    type: str = msgspec.field(name="_type")
    dtype: str = ""
    names: list[str] = []
    languages: list[str] = []


class _Info(msgspec.Struct):
    features: dict[str, Any]


class _Splits(msgspec.Struct):
    splits: list[str]


@dataclass(frozen=True)
class Examples:
    """What a reader of images, texts or sentence pairs makes a data set of, with one label for each input.

    The inputs are files of images, texts, or sentences; the labels are the names of classes, or the sentences in the
    other language. `digest` is the SHA-256 of the files, `notes` say where they come from.
    """

    inputs: Sequence[str] | Sequence[bytes]
    labels: Sequence[str]
    digest: bytes
    notes: tuple[str, ...]


def is_saved(folder: Path) -> bool:
    """Whether it is a folder that `save_to_disk` left."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def form_of(folder: Path, label: str | None = None) -> Form:
    """What an example is: an image, a text, a pair of sentences, or a row of a table. Raises DataError."""
    return _layout(_parts(folder)["train"], label)[0]


def read_tables(folder: Path) -> dict[str, Table]:
    """The tables "train" and, where the folder has them, "validation" and "test". Raises DataError."""
    return {name: _table(part) for name, part in _parts(folder).items()}


def read_examples(folder: Path, label: str | None = None) -> dict[str, Examples]:
    """The examples "train" and, where the folder has them, "validation" and "test", unless it holds tables.

    `label` is the column to predict; without it, the only one of classes. Raises DataError.
    """
    parts = _parts(folder)
    layout = _layout(parts["train"], label)
    return {name: _examples(part, *layout) for name, part in parts.items()}


@dataclass(frozen=True)
class _Part:
    """A folder with Arrow files of the same columns, whose meaning the features say."""

    name: str
    files: tuple[Path, ...]
    features: Mapping[str, _Feature]

    @property
    def classes(self) -> dict[str, list[str]]:
        """The names of the classes in each column that holds their numbers."""
        return {name: feature.names for name, feature in self.features.items() if feature.type == "ClassLabel"}

    def arrays(self, column: str) -> Iterator[Any]:
        """A column, an Arrow array at a time, which stays in the files until it is looked at."""
        import pyarrow

        for file in self.files:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                if column not in stream.schema.names:
                    raise DataError(f"{self.name}: {file.name} lacks the column {column!r}, which the others have.")
                for batch in stream:
                    yield batch.column(column)

    def schema(self) -> Any:
        import pyarrow

        with pyarrow.memory_map(str(self.files[0])) as source, pyarrow.ipc.open_stream(source) as stream:
            return stream.schema


def _parts(folder: Path) -> dict[str, _Part]:
    """The splits of a folder that have a known name, or the only one there is, which is to be trained on."""
    if (folder / STATE).is_file():
        return {"train": _part(folder)}
    splits = _decoded(folder / SPLITS, _Splits).splits
    if len(splits) == 1:
        return {"train": _part(folder / splits[0])}
    found = {part: next((name for name in names if name in splits), None) for part, names in PARTS.items()}
    if found["train"] is None:
        raise DataError(f"{folder.name}: there is no split 'train'; its splits are: {', '.join(splits) or 'none'}.")
    return {part: _part(folder / name) for part, name in found.items() if name is not None}


def _part(folder: Path) -> _Part:
    files = tuple(folder / file.filename for file in _decoded(folder / STATE, _State).files)
    if not files:
        raise DataError(f"{folder.name}: {STATE} names no files, so there is nothing to learn from.")
    features = {}
    for name, feature in _decoded(folder / INFO, _Info).features.items():
        # lists are written as [feature] by versions before 4; they are for no form of ours
        described = feature if isinstance(feature, dict) and "_type" in feature else {"_type": "List"}
        try:
            features[name] = msgspec.convert(described, _Feature)
        except msgspec.ValidationError as cause:
            raise DataError(f"{folder.name}: {INFO} describes the column {name!r} wrongly: {cause}.") from None
    return _Part(folder.name, files, features)


def _decoded(path: Path, kind: type[Decoded]) -> Decoded:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as cause:
        raise DataError(f"{path.parent.name}: {path.name} cannot be read: {cause.strerror or cause}.") from None
    except msgspec.MsgspecError as cause:
        raise DataError(f"{path.parent.name}: {path.name} is not what save_to_disk writes: {cause}.") from None


def _layout(part: _Part, label: str | None) -> tuple[Form, str, str]:
    """The form, the column of the inputs (empty for rows), and that of the labels."""
    for name, feature in part.features.items():
        if feature.type == "Translation" and label is None:
            return Form.PAIRS, name, name
    if label is None and len(part.classes) == 1:
        label = next(iter(part.classes))
    if label is None or label not in part.features:
        return Form.ROWS, "", ""  # the reader of tables asks for it
    others = [name for name in part.features if name != label and name.lower() not in COUNTERS]
    if len(others) == 1:
        feature = part.features[others[0]]
        if feature.type == "Image":
            return Form.IMAGES, others[0], label
        if feature.dtype in ("string", "large_string") and _is_prose(part, others[0]):
            return Form.TEXTS, others[0], label
    return Form.ROWS, "", label


def _is_prose(part: _Part, column: str) -> bool:
    """Whether the first texts of a column are sentences, rather than words that come again and again."""
    with arrow_errors(part.name, "datasets"):
        texts = next(iter(part.arrays(column)))[:LOOKED_AT].to_pylist()
    words = [len(text.split()) for text in texts if text is not None]
    return sum(words) >= FEWEST_WORDS * max(len(words), 1)


def _table(part: _Part) -> Table:
    label = next(iter(part.classes)) if len(part.classes) == 1 else None
    with arrow_errors(part.name, "datasets"):
        return table_of(part.name, part.schema(), part.arrays, digest_of(part.files), part.classes, label)


def _examples(part: _Part, form: Form, inputs: str, label: str) -> Examples:
    if form is Form.ROWS:
        raise DataError(f"{part.name} holds a table rather than images, texts or sentence pairs.")
    with arrow_errors(part.name, "datasets"):
        rows = list(_translations(part, inputs) if form is Form.PAIRS else _labelled(part, inputs, label))
        digest = bytes.fromhex(digest_of(part.files))
    kept = [(example, answer) for example, answer in rows if example is not None and answer is not None]
    if not kept:
        raise DataError(f"{part.name}: no row has both an example and a label.")
    notes = [f"{part.name}: {len(kept):,} rows; from the column {inputs!r}, {label!r} is to be predicted."]
    if form is Form.PAIRS:
        notes = [f"{part.name}: {len(kept):,} sentence pairs, {' to '.join(part.features[inputs].languages)}."]
    if len(kept) < len(rows):
        notes.append(f"{part.name}: left out {len(rows) - len(kept):,} rows with a missing example or label.")
    examples, answers = zip(*kept, strict=True)
    return Examples(examples, answers, digest, tuple(notes))


def _translations(part: _Part, column: str) -> Iterator[tuple[str | None, str | None]]:
    """The sentences of the first language, and of the second."""
    languages = part.features[column].languages
    if len(languages) != 2:
        raise DataError(f"{part.name}, column {column!r}: its languages are {languages}; there must be two.")
    for array in part.arrays(column):
        yield from ((cell and cell[languages[0]], cell and cell[languages[1]]) for cell in array.to_pylist())


def _labelled(part: _Part, inputs: str, label: str) -> Iterator[tuple[str | bytes | None, str | None]]:
    """Texts or the files of images, and the names of their classes."""
    names = part.classes.get(label)
    for examples, answers in zip(part.arrays(inputs), part.arrays(label), strict=True):
        for example, answer in zip(examples.to_pylist(), answers.to_pylist(), strict=True):
            if isinstance(example, dict):  # an image
                if example["bytes"] is None:
                    raise DataError(f"{part.name}, column {inputs!r}: the images are elsewhere ({example['path']}).")
                example = example["bytes"]
            if names is not None and answer is not None:
                if answer >= len(names):
                    raise DataError(f"{part.name}, column {label!r}: there is no name for the class {answer}.")
                answer = names[answer] if answer >= 0 else None  # -1 is no label
            yield example, None if answer is None else str(answer)
