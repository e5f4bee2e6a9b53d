"""Pairs of sentences to be translated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import BEGIN, END, SMALLEST, Dataset, Form, Kind, Labels, Padded
from rheostat.data.pair_files import read_pair_files, source_sentences
from rheostat.data.plain import fingerprint, plain_stem
from rheostat.data.split import split
from rheostat.data.vocabulary import Subwords, from_description, lengths_in_words, padded, unknown_in_words
from rheostat.errors import DataError

MANY = 50_000  # pairs
LONGEST = 100  # subwords of a sentence that is trained on
Row = NDArray[np.int32]


@dataclass(frozen=True)
class PairEncoder:
    """How sentences become tokens: those of each of the two `languages` by a vocabulary of its own.

    So the softmax is over the target language alone, and neither gives merges away to the other.
    """

    source: Subwords
    target: Subwords
    languages: tuple[str, str]

    @property
    def labels(self) -> Labels:
        return Labels(Kind.TEXT)

    def encode(self, path: Path) -> Tensor:
        """The source sentences of a file as tokens (N, S) int64, each ending in END: one per line, or the first
        column of a table. Raises DataError for what cannot be read."""
        return padded([_ended(self.source, sentence) for sentence in source_sentences(path)])

    def rows(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Row, Row]]:
        """The tokens of each pair, END last."""
        return [(_ended(self.source, source), _ended(self.target, target)) for source, target in pairs]

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        sides = {"source": self.source.describe(), "target": self.target.describe()}
        return {**sides, "languages": list(self.languages)}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> PairEncoder:
        """The encoder that `describe` described. Raises DataError where it is not one."""
        try:
            source, target = (from_description(description[side]) for side in ("source", "target"))
            languages = msgspec.convert(description["languages"], tuple[str, str])
        except (KeyError, msgspec.ValidationError) as cause:
            raise DataError(f"This is not the description of an encoder of sentence pairs: {cause}.") from None
        if not isinstance(source, Subwords) or not isinstance(target, Subwords):
            raise DataError("This is not the description of an encoder of sentence pairs, whose tokens are subwords.")
        return cls(source, target, languages)


def read_pairs(
    path: Path,
    target: str | None = None,
    test: str | Path | None = None,
    size: int | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """The data set of sentence pairs.

    `path` is the file of the source language, such as `train.en.gz`, with that of the target language beside it;
    where there are several, `target` names the language (`de`) or the file. Or it is a table of two columns, the
    source first. Files beside it named val, valid, validation or dev instead of train are validated on, and the
    first one named test is held out, unless `test` names another. Each language gets a vocabulary of at most `size`
    subwords (None: 4,000, or 8,000 from 50,000 pairs on; sentences get hardly longer, and the softmax costs half).
    The parts to validate and to test on keep all pairs, and the target sentences as `texts`.

    Raises DataError for what cannot be trained on, and SettingError for an argument that is not allowed.
    """
    files = read_pair_files(path, target, None if test is None else str(test))
    train, pairs = files["train"], files["train"].pairs
    kept = {part: files[part].pairs for part in ("validation", "test") if part in files}
    how = "as given"
    if "validation" not in files:
        rows, held = split(len(pairs), validation_fraction, seed)
        pairs, kept["validation"] = [pairs[row] for row in rows], [train.pairs[row] for row in held]
        how = "drawn at random"
    filled = [pair for pair in pairs if all(pair)]
    if len(filled) < SMALLEST:
        raise DataError(f"{train.what}: {len(filled)} pairs to train on are too few: give at least {SMALLEST}.")
    sources, targets = zip(*filled, strict=True)
    size = size if size is not None else 4000 if len(filled) < MANY else 8000
    encoder = PairEncoder(Subwords.fit(sources, size), Subwords.fit(targets, size), train.languages)
    all_rows = encoder.rows(filled)
    rows_to_train = [row for row in all_rows if max(map(len, row)) <= LONGEST]
    if len(rows_to_train) < SMALLEST:
        raise DataError(
            f"{train.what}: but for {len(rows_to_train)}, all sentences are longer than {LONGEST} subwords."
        )
    rows_of = {part: encoder.rows(kept[part]) for part in kept}
    parts = {part: _padded(rows_of[part], tuple(target for _, target in kept[part])) for part in kept}
    notes = [
        f"{len(rows_to_train):,} pairs to train on and {len(kept['validation']):,} to validate on, {how}.",
        *_left_out(len(pairs) - len(filled), len(all_rows) - len(rows_to_train)),
        *_notes(encoder, rows_to_train, rows_of["validation"]),
        f"The first pair: {filled[0][0][:60]!r} is {filled[0][1][:60]!r}.",
    ]
    return Dataset(
        name=f"{plain_stem(path)}.{'-'.join(train.languages)}",
        train=_padded(rows_to_train),
        validation=parts["validation"],
        test=parts.get("test"),
        encoder=encoder,
        notes=(*chain.from_iterable(each.notes for each in files.values()), *notes),
        fingerprint=fingerprint([*chain.from_iterable(each.digests for each in files.values())]),
        form=Form.PAIRS,
        vocabularies=(encoder.source, encoder.target),
    )


def _ended(vocabulary: Subwords, sentence: str) -> Row:
    return np.array([*vocabulary.encode(sentence), END], np.int32)


def _padded(rows: Sequence[tuple[Row, Row]], texts: tuple[str, ...] = ()) -> Padded:
    """Source (N, S), target behind BEGIN (N, T), target before END (N, T)."""
    sources, targets = zip(*rows, strict=True)
    return Padded((padded(sources), padded([[BEGIN, *row[:-1]] for row in targets]), padded(targets)), texts)


def _left_out(empty: int, long: int) -> list[str]:
    notes = []
    if empty:
        notes.append(f"Left out of training: {empty:,} pairs with an empty sentence.")
    if long:
        notes.append(f"Left out of training: {long:,} pairs with a sentence of more than {LONGEST} subwords.")
    return notes


def _notes(encoder: PairEncoder, train: Sequence[tuple[Row, Row]], validation: Sequence[tuple[Row, Row]]) -> list[str]:
    """On both vocabularies."""
    notes = []
    for side, (language, vocabulary) in enumerate(
        zip(encoder.languages, (encoder.source, encoder.target), strict=True)
    ):
        lengths = [len(row[side]) - 1 for row in train]
        notes += [
            f"{language}: {len(vocabulary):,} subwords, by byte pair encoding of the training sentences alone.",
            lengths_in_words(f"{language}: a sentence to train on", lengths, vocabulary),
            unknown_in_words(f"the {language} sentences validated on", [row[side] for row in validation], vocabulary),
        ]
    return notes
