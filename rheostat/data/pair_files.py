"""Pairs of sentences, as files hold them: two files whose lines go together, or a table of two columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rheostat.data.base import SMALLEST
from rheostat.data.plain import examine, first_lines, plain_stem, plain_suffix
from rheostat.data.text_files import first_columns, words_per_cell
from rheostat.errors import DataError, unknown

TABLES = (".tsv", ".txt")
FORMATS = (
    "Pairs of sentences are two files whose lines go together, named such as train.en and train.de, or a table of two "
    "columns separated by a tab (.tsv, .txt)."
)
PARTS = {"validation": "(?:val|valid|validation|dev).*", "test": "test.*"}  # what such files are named instead of train

_LANGUAGE = re.compile(r"\.(?:[a-z]{2,3}(?:[_-][a-z0-9]{2,8})?|source|target)")
_NO_LANGUAGE = re.compile(
    r"\.(?:bin|cfg|csv|db|doc|htm|ini|jpg|js|log|md|npy|npz|pdf|png|py|rst|sh|tar|tsv|txt|xml|zip)"
)
_HEADER = re.compile(
    r"(?:source|target)?[ _]?(?:sentence|text)|source|target|src|tgt|trg|input|output|question|answer|translation"
    r"|english|german|french|spanish|italian|dutch|portuguese|polish|turkish|russian|arabic|hindi|chinese|japanese"
    r"|en|de|fr|es|it|nl|pt|pl|cs|ro|hu|sv|da|fi|el|ru|uk|bg|tr|ar|he|fa|hi|zh|ja|ko|vi|th|id",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pairs:
    """Pairs (source, target) without spaces around them, the names of both languages, and what was read."""

    what: str
    pairs: Sequence[tuple[str, str]]
    languages: tuple[str, str]
    notes: tuple[str, ...]
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class Naming:
    """How the files of a data set are named: a stem for each part, and the suffix of each language or of the table."""

    folder: Path
    suffixes: tuple[str, ...]
    target: str | None  # the column, in a table

    def stems(self, pattern: str) -> list[str]:
        """The stems that match, in order, of those that have a file for each suffix."""
        stems = sorted({plain_stem(file) for file in self.folder.iterdir() if re.fullmatch(pattern, plain_stem(file))})
        return [stem for stem in stems if all(self.files(stem, suffix) for suffix in self.suffixes)]

    def files(self, stem: str, suffix: str) -> list[Path]:
        """The file itself, the packed one, or both."""
        paths = (self.folder / f"{stem}{suffix}{packed}" for packed in ("", ".gz"))
        return [path for path in paths if path.is_file()]

    def read(self, stem: str) -> Pairs:
        files = [self.files(stem, suffix)[0] for suffix in self.suffixes]
        return _read_table(files[0], self.target) if len(files) == 1 else _read_two(files[0], files[1])


def read_pair_files(path: Path, target: str | None, test: str | None) -> dict[str, Pairs]:
    """The parts that are there: train, and maybe validation and test, from files that are named alike.

    `target` is a language, a file or a column, `test` a file or its name. Raises DataError for what cannot be read,
    or does not go together.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}. {FORMATS}")
    naming = Naming(path.parent, (plain_suffix(path),), target)
    if plain_suffix(path) not in TABLES:
        naming = Naming(path.parent, (plain_suffix(path), _other_language(path, target)), None)
    parts = {"train": naming.read(plain_stem(path))}
    before, found, after = map(re.escape, plain_stem(path).partition("train"))
    stems = {part: naming.stems(before + pattern + after) if found else [] for part, pattern in PARTS.items()}
    if test is not None:
        parts["test"] = _test_part(naming, test, stems.pop("test"))
    for part, (first, *others) in ((part, found) for part, found in stems.items() if found):
        parts[part] = naming.read(first)
        if others:
            how = ", of which test=NAME chooses another" if part == "test" else ""
            notes = (*parts[part].notes, f"Not used: {', '.join(others)}{how}.")
            parts[part] = replace(parts[part], notes=notes)
    return parts


def source_sentences(path: Path) -> list[str]:
    """The sentences of a file, one per line, or the first column of a table."""
    lines = examine(path).lines()
    if plain_suffix(path) in TABLES:
        rows = [line.split("\t") for line in lines]
        lines = [row[0] for row in (rows[1:] if rows and _names(rows[0]) else rows)]
    return [line.strip() for line in lines]


def looks_like_pairs(path: Path) -> bool:
    """Whether `read_pairs` is meant for it: a file named as a language with another one beside it, or a table with
    sentences in its first two columns. Looks at its beginning only, and raises nothing."""
    if not path.is_file():
        return False
    if plain_suffix(path) not in TABLES:
        return bool(_siblings(path))
    columns = first_columns(path, "\t")
    lines = [line for line in first_lines(path) if line.strip()]
    if len(columns) < 2 or len(columns[0]) < max(SMALLEST, 0.9 * len(lines)):
        return False
    return all(words_per_cell(cells) >= 2 and 3 * len(set(cells)) >= len(cells) for cells in columns[:2])


def _test_part(naming: Naming, test: str, known: Sequence[str]) -> Pairs:
    """`test` is a file, maybe in another folder, or the name of one without its suffixes."""
    for file in (Path(test), naming.folder / test):
        if file.is_file():
            naming, test = replace(naming, folder=file.parent), plain_stem(file)
    if not all(naming.files(test, suffix) for suffix in naming.suffixes):
        raise DataError(f"{unknown('test', test, known)} It must have files ending in {' and '.join(naming.suffixes)}.")
    return naming.read(test)


def _siblings(path: Path) -> dict[str, str]:
    """The suffixes of the other languages of a file, by the names of their files."""
    suffix = plain_suffix(path)
    if not _is_language(suffix):
        return {}
    beside = (file for file in sorted(path.parent.iterdir()) if plain_stem(file) == plain_stem(path))
    others = ((file.name, plain_suffix(file)) for file in beside)
    return {name: other for name, other in others if other != suffix and _is_language(other)}


def _is_language(suffix: str) -> bool:
    return bool(_LANGUAGE.fullmatch(suffix)) and not _NO_LANGUAGE.fullmatch(suffix)


def _other_language(path: Path, target: str | None) -> str:
    """The suffix of the target language."""
    siblings = _siblings(path)
    if not siblings:
        raise DataError(f"{path.name} has no file of another language beside it. {FORMATS}")
    languages = sorted(set(siblings.values()))
    if target is not None:
        wanted = siblings.get(Path(target).name, f".{target.lower()}")
        if wanted not in languages:
            raise DataError(unknown("target language", target, [language[1:] for language in languages]))
        return wanted
    if len(languages) > 1:
        listed = ", ".join(siblings)
        raise DataError(f"{path.name} goes with more than one file: {listed}. Say which is the target (--target NAME).")
    return languages[0]


def _read_two(source: Path, target: Path) -> Pairs:
    files = [examine(source), examine(target)]
    sources, targets = (file.lines() for file in files)
    what = f"{source.name} and {target.name}"
    if len(sources) != len(targets):
        raise DataError(
            f"{source.name} has {len(sources):,} lines and {target.name} {len(targets):,}; line by line they must be "
            "translations, so both must have as many."
        )
    languages = (plain_suffix(source)[1:], plain_suffix(target)[1:])
    return Pairs(
        what,
        [(one.strip(), other.strip()) for one, other in zip(sources, targets, strict=True)],
        languages,
        (f"{what}: {len(sources):,} pairs, from {languages[0]} to {languages[1]}.", *files[0].notes, *files[1].notes),
        (files[0].digest, files[1].digest),
    )


def _read_table(path: Path, target: str | None) -> Pairs:
    """Lines of cells, separated by tabs; quotation marks are ordinary characters."""
    file = examine(path)
    rows = [(number, line.split("\t")) for number, line in enumerate(file.lines(), 1) if line.strip()]
    if not rows:
        raise DataError(f"{path.name} is empty. {FORMATS}")
    width = Counter(len(cells) for _, cells in rows).most_common(1)[0][0]
    for number, cells in rows:
        if len(cells) != width or width < 2:
            usual = f"most have {width}" if width > 1 else "two are needed"
            raise DataError(f"{path.name}, line {number} has {len(cells)} columns where {usual}. {FORMATS}")
    names = _names(rows[0][1])
    source_column, target_column = _columns(path, names, width, target)
    pairs = [(cells[source_column].strip(), cells[target_column].strip()) for _, cells in rows[bool(names) :]]
    languages = (names[source_column], names[target_column]) if names else ("source", "target")
    notes = [f"{path.name}: {len(pairs):,} pairs, from column {source_column + 1} to column {target_column + 1}."]
    if width > 2:
        notes.append(f"{path.name}: left out {width - 2} other columns.")
    return Pairs(path.name, pairs, languages, (*file.notes, *notes), (file.digest,))


def _names(cells: Sequence[str]) -> list[str]:
    """The names of the columns, where a first row holds names; else none."""
    names = [cell.strip() for cell in cells]
    both = len(names) > 1 and all(map(_HEADER.fullmatch, names[:2])) and names[0].lower() != names[1].lower()
    return names if both else []


def _columns(path: Path, names: Sequence[str], width: int, target: str | None) -> tuple[int, int]:
    """The places of the source and the target: the first two, or the target that was named and the first other one."""
    if target is None:
        return 0, 1
    numbers = [str(number) for number in range(1, width + 1)]
    for known in (names, numbers):
        if target in known:
            place = list(known).index(target)
            return int(place == 0), place
    raise DataError(f"{path.name}: {unknown('column', target, names or numbers)}")
