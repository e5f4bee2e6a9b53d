"""Texts with a label each, as files hold them: in tables, in lines behind their label, in folders with a file each."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rheostat.data.base import SMALLEST
from rheostat.data.delimited import DELIMITERS, read_table
from rheostat.data.huggingface import is_saved, read_examples
from rheostat.data.plain import examine, first_lines, plain_stem, plain_suffix
from rheostat.data.table import Table
from rheostat.errors import DataError, SettingError, unknown

TABLES = (".tsv", ".csv")
PARTS = {
    "train": ("train", "training"),
    "validation": ("dev", "val", "valid", "validation"),
    "test": ("test", "testing"),
}
LOOKED_AT = 1000  # cells, to see what a column holds
UNLABELLED = frozenset(["unsup", "unlabeled", "unlabelled"])  # folders of texts without a class, such as IMDB's
LABEL_NAMES = frozenset(["label", "class", "target", "sentiment", "category", "y"])
FORMATS = (
    "Texts to be classified are a table (.tsv, .csv) with a column of texts and one of classes, a text file whose "
    "lines begin with __label__NAME, a folder with such files named train, dev and test, or a folder with a folder "
    "of .txt files for each class."
)

_MARKED = re.compile(r"\s*((?:__label__\S+(?:\s+|$))+)(.*)", re.DOTALL)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_IDEOGRAM = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # written without spaces: each counts as a word


@dataclass(frozen=True)
class Layout:
    """The columns of a table: `names` of all, and those of the `text` and the `label`.

    `header` is whether the file names them itself.
    """

    names: tuple[str, ...]
    header: bool
    text: str
    label: str


@dataclass(frozen=True)
class Labelled:
    """N texts of a file or folder, and the label of each. `digests` are of what was read."""

    what: str
    texts: Sequence[str]
    labels: Sequence[str]
    notes: tuple[str, ...]
    digests: tuple[bytes, ...]
    layout: Layout | None = None


def read_sources(path: Path, label: str | None, test: Path | None) -> dict[str, Labelled]:
    """The parts that are there: train, and maybe validation and test."""
    if is_saved(path):
        if test is not None:
            raise SettingError(f"test={str(test)!r}: {path.name} was saved with its own parts; save one named test.")
        return {
            part: Labelled(path.name, [str(text) for text in each.inputs], each.labels, each.notes, (each.digest,))
            for part, each in read_examples(path, label).items()
        }
    files = {"train": path}
    if path.is_dir() and any(_found(path, "train")):
        for part in PARTS:
            found = _found(path, part)
            if len(found) > 1:
                names = ", ".join(one.name for one in found)
                raise DataError(f"{path.name}: more than one of its files may be meant for {part}: {names}. Keep one.")
            if found:
                files[part] = found[0]
    if test is not None:
        files["test"] = test
    train = _read(files.pop("train"), label, None)
    return {"train": train, **{part: _read(file, label, train.layout) for part, file in files.items()}}


def _found(folder: Path, part: str) -> list[Path]:
    """The files or folders for a part in a folder."""
    return [
        path
        for path in sorted(folder.iterdir())
        if (path.name if path.is_dir() else plain_stem(path)).lower() in PARTS[part]
        and (path.is_dir() or plain_suffix(path) in (*TABLES, ".txt"))
    ]


def _read(path: Path, label: str | None, layout: Layout | None) -> Labelled:
    if path.is_dir():
        read = _read_folders(path)
    elif plain_suffix(path) in TABLES:
        read = _read_table(path, label, layout)
    else:
        read = _read_lines(path)
    if label is not None and read.layout is None:
        raise SettingError(f"label={label!r} has no meaning for {path.name}, which is not a table: leave it out.")
    return read


def _read_table(path: Path, label: str | None, layout: Layout | None) -> Labelled:
    table = read_table(path, None if layout is None else layout.header)
    _check_rows(path, table)
    notes = list(table.notes)
    if layout is None:
        layout = _layout(table, label)
        notes.append(f"{path.name}: the texts are in the column {layout.text!r}, the classes in {layout.label!r}.")
        if others := [name for name in table.names if name not in (layout.text, layout.label)]:
            notes.append(f"{path.name}: left out the columns {', '.join(others)}.")
    labels = _cells(table, layout, layout.label)
    kept = [row for row, name in enumerate(labels) if name]
    texts = _cells(table, layout, layout.text)
    if len(kept) < len(labels):
        notes.append(f"{path.name}: left out {len(labels) - len(kept):,} rows without a label.")
    return Labelled(
        f"{path.name}, column {layout.label!r}",
        [texts[row] for row in kept],
        [labels[row] for row in kept],
        tuple(notes),
        (examine(path).digest,),
        layout,
    )


def _layout(table: Table, label: str | None) -> Layout:
    """Which column is the label, and which of the others holds the longest texts."""
    if len(table.names) == 1:
        raise DataError(f"{table.file} has one column only. {FORMATS}")
    if label is not None:
        label = _named(table, label)
    lengths = {column.name: words_per_cell(column.cells.texts) for column in table.columns if column.name != label}
    text = max(lengths, key=lambda name: lengths[name])
    if lengths[text] == 0:
        raise DataError(f"{table.file} has no column of texts beside the label. {FORMATS}")
    others = [name for name in lengths if name != text]
    named = [name for name in others if name.lower() in LABEL_NAMES]
    if label is None:
        if len(others) > 1 and len(named) != 1:
            raise DataError(
                f"{table.file}: which column is the class of the texts? Give its name, its number, or 'last' "
                f"(--target NAME): {', '.join(others)}."
            )
        label = others[0] if len(others) == 1 else named[0]
    return Layout(table.names, table.header, text, label)


def _named(table: Table, label: str) -> str:
    """The name of the column that is given by its name, its number from 1, or `last`."""
    if label in table.names:
        return label
    if label == "last":
        return table.names[-1]
    if label.isdecimal() and 1 <= int(label) <= len(table.names):
        return table.names[int(label) - 1]
    raise DataError(f"{table.file}: {unknown('column', label, table.names)} A number from 1, or 'last', will do too.")


def _check_rows(path: Path, table: Table) -> None:
    """Refuses a file of which quotation marks without a partner in their cell have made several lines one row."""
    if not any("\n" in text for column in table.columns for text in column.cells.texts):
        return
    lines = [line for line in examine(path).lines() if line.strip()]
    if len(widths := {line.count("\t") for line in lines}) == 1 and widths != {0}:
        number = next(n for n, line in enumerate(lines, 1) if any(c.startswith('"') for c in line.split("\t")))
        raise DataError(
            f"{path.name}: quotation marks make one row of several lines, though each line is a row by its tabs. "
            f'Remove those that begin a cell (the first is in line {number}), or write them as CSV does: """so"".".'
        )


def _cells(table: Table, layout: Layout, name: str) -> list[str]:
    """The cells of a column: found by name, or by position where files have no header. Raises DataError."""
    names = table.names
    if not layout.header and len(names) in (len(layout.names), len(layout.names) - 1):
        names = layout.names if len(names) == len(layout.names) else tuple(n for n in layout.names if n != layout.label)
    elif not layout.header:
        raise DataError(f"{table.file} has {len(names)} columns; the training file had {len(layout.names)}.")
    if name not in names:
        raise DataError(f"{table.file}: {unknown('column', name, names)} The training file has it.")
    column = table.columns[names.index(name)]
    texts = column.cells.texts
    return [texts[code] for code in column.codes]


def _read_lines(path: Path) -> Labelled:
    """Lines as fastText has them: one label or several, each behind `__label__`, and the text."""
    file = examine(path)
    texts, labels, several = [], [], 0
    for number, line in enumerate(file.lines(), 1):
        if not line.strip():
            continue
        if (match := _MARKED.fullmatch(line)) is None:
            raise DataError(f"{path.name}, line {number} does not begin with a label. {FORMATS}")
        first, *others = match[1].split()
        several += bool(others)
        labels.append(first.removeprefix("__label__"))
        texts.append(match[2].strip())
    if not texts:
        raise DataError(f"{path.name} is empty. {FORMATS}")
    notes = [f"{path.name}: {len(texts):,} lines with a label and a text."]
    if several:
        notes.append(f"{path.name}: {several:,} lines have several labels; the first of them counts.")
    return Labelled(path.name, texts, labels, (*file.notes, *notes), (file.digest,))


def _class_folders(path: Path) -> dict[str, list[Path]]:
    """The .txt files of each folder in a folder that has some, in the order of their names."""
    folders = [one for one in sorted(path.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    files = {folder.name: sorted(folder.glob("*.txt")) for folder in folders if folder.name not in UNLABELLED}
    return {name: found for name, found in files.items() if found}


def _read_folders(path: Path) -> Labelled:
    if not (folders := _class_folders(path)):
        raise DataError(f"{path.name}: none of its folders holds .txt files. {FORMATS}")
    files = {name: [examine(file) for file in found] for name, found in folders.items()}
    flat = [file for found in files.values() for file in found]
    notes = [f"{path.name}: {len(flat):,} texts in the folders {', '.join(folders)}."]
    if unlabelled := [one.name for one in sorted(path.iterdir()) if one.is_dir() and one.name in UNLABELLED]:
        notes.append(f"{path.name}: left out {', '.join(unlabelled)}, whose texts have no class.")
    if latin := [file.path.name for file in flat if file.notes]:
        notes.append(
            f"{path.name}: {len(latin):,} files are not UTF-8, so they were read as Latin-1; first {latin[0]}."
        )
    return Labelled(
        path.name,
        [_BREAK.sub("\n", file.text()).strip() for file in flat],
        [name for name, found in files.items() for _ in found],
        tuple(notes),
        tuple(file.digest for file in flat),
    )


def read_texts_alone(path: Path, layout: Layout | None) -> list[str]:
    """The texts of a new file or folder, which need no labels."""
    if is_saved(path):
        return [str(text) for each in read_examples(path).values() for text in each.inputs]
    if path.is_dir():
        if not (files := sorted(path.glob("*.txt"))):
            raise DataError(f"{path.name} holds no .txt file.")
        return [_BREAK.sub("\n", examine(file).text()).strip() for file in files]
    lines = examine(path).lines() if plain_suffix(path) != ".csv" else ["\t"]
    if plain_suffix(path) not in TABLES or not any("\t" in line for line in lines):  # a text per line
        named = layout is not None and layout.header and lines[:1] == [layout.text]
        marks = ((line, _MARKED.fullmatch(line)) for line in lines[named:])
        return [(match[2] if match else line).strip() for line, match in marks]
    table = read_table(path, layout.header if layout else None)
    _check_rows(path, table)
    if layout is None or len(table.names) == 1:
        column = max(table.columns, key=lambda column: words_per_cell(column.cells.texts))
        return [column.cells.texts[code] for code in column.codes]
    return _cells(table, layout, layout.text)


def looks_like_texts(path: Path) -> bool:
    """Whether `read_texts` is meant for it: in a table, one column of few holds long and mostly different texts, and
    another one few different values. Looks at its beginning only, and raises nothing."""
    if path.is_dir():
        train = (_found(path, "train") or [path])[0]
        return bool(_class_folders(train)) if train.is_dir() else looks_like_texts(train)
    if plain_suffix(path) not in TABLES:
        lines = [line for line in first_lines(path) if line.strip()]
        return bool(lines) and all(map(_MARKED.fullmatch, lines))
    columns = first_columns(path, "\t" if plain_suffix(path) == ".tsv" else DELIMITERS)
    if not 2 <= len(columns) <= 4 or len(columns[0]) < SMALLEST:
        return False
    texts = [words_per_cell(cells) >= 3 and 5 * len(set(cells)) >= 4 * len(cells) for cells in columns]
    return sum(texts) == 1 and any(2 * len(set(cells)) <= len(cells) for cells in columns)


def first_columns(path: Path, delimiters: Iterable[str]) -> list[tuple[str, ...]]:
    """The columns of the first rows of a table, for a look, by the delimiter that fits best; none where none does."""
    lines = [line for line in first_lines(path) if line.strip()]
    best: tuple[float, int, list[tuple[str, ...]]] = (0.0, 1, [])
    for delimiter in delimiters:
        quotes = None if delimiter == "\t" else '"'
        try:
            rows = list(csv.reader(lines, delimiter=delimiter, quotechar=quotes, skipinitialspace=True))
        except csv.Error:
            continue
        ((width, times),) = Counter(map(len, rows)).most_common(1) or [(1, 0)]
        if width > 1 and (times / len(rows), width) > best[:2]:
            columns = zip(*(row for row in rows if len(row) == width), strict=True)
            best = (times / len(rows), width, list(columns))
    return best[2]


def words_per_cell(cells: Iterable[str]) -> float:
    """How many words with a letter in them a cell holds on average, of the first thousand."""
    counts = [
        len(_IDEOGRAM.findall(cell)) + sum(any(map(str.isalpha, word)) for word in _IDEOGRAM.sub(" ", cell).split())
        for cell in islice(cells, LOOKED_AT)
    ]
    return sum(counts) / max(len(counts), 1)
