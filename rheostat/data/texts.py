"""Texts to be classified."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import UNKNOWN, Dataset, Form, Kind, Labels, Padded
from rheostat.data.labels import check_targets, divide, fit_labels
from rheostat.data.plain import fingerprint, plain_stem
from rheostat.data.text_files import Labelled, Layout, read_sources, read_texts_alone
from rheostat.data.vectors import read_vectors
from rheostat.data.vocabulary import (
    Characters,
    Subwords,
    Words,
    check_tokens,
    from_description,
    lengths_in_words,
    padded,
    unknown_in_words,
)
from rheostat.errors import DataError, SettingError, unknown

LONGEST = {"character": 1000, "word": 400, "bpe": 400}  # tokens of a text that are read


@dataclass(frozen=True)
class TextEncoder:
    """How texts become tokens: by a vocabulary, and at most `length` from the beginning of each.

    `layout` is that of the tables they were trained on, None where these were not tables.
    """

    vocabulary: Characters | Words | Subwords
    length: int
    labels: Labels
    layout: Layout | None

    def encode(self, path: Path) -> Tensor:
        """The tokens (N, L) int64 of a table, a file with a text per line, or a folder with a .txt file per text, in
        the order of their names. Labels may be there. Raises DataError for what cannot be read."""
        return self.tokens(self.rows(read_texts_alone(path, self.layout)))

    def rows(self, texts: Iterable[str]) -> list[NDArray[np.int32]]:
        """All tokens of each text."""
        return [np.array(self.vocabulary.encode(text), np.int32) for text in texts]

    def tokens(self, rows: Sequence[NDArray[np.int32]]) -> Tensor:
        """The first tokens of each text, (N, L) int64; a text without any is one unknown token."""
        return padded([row[: self.length] if len(row) else [UNKNOWN] for row in rows])

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        return {
            "vocabulary": self.vocabulary.describe(),
            "length": self.length,
            "labels": msgspec.to_builtins(self.labels),
            "layout": msgspec.to_builtins(self.layout),
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TextEncoder:
        """The encoder that `describe` described. Raises DataError where it is not one."""
        try:
            return cls(
                from_description(description["vocabulary"]),
                msgspec.convert(description["length"], int),
                msgspec.convert(description["labels"], Labels),
                msgspec.convert(description["layout"], Layout | None),
            )
        except (KeyError, msgspec.ValidationError) as cause:
            raise DataError(f"This is not the description of an encoder of texts: {cause}.") from None


def read_texts(
    path: Path,
    label: str | None,
    test: Path | None,
    validation_fraction: float,
    seed: int,
    tokens: str = "word",
    vectors: Path | None = None,
) -> Dataset:
    """The data set of texts with a class each. `text_files.FORMATS` says what `path` may be; files may be packed (.gz).

    `label` is the column of a table with the classes: its name, its number from 1, or `last`; it may be left out
    where only one can be meant. `test` is held out. `tokens` are words, characters, or subwords (bpe). `vectors` is
    a file of pretrained embeddings of words.

    Raises DataError for what cannot be trained on, and SettingError for an argument that is not allowed.
    """
    check_tokens(tokens)
    if vectors is not None and tokens != "word":
        raise SettingError(f"vectors={str(vectors)!r} are embeddings of words, so tokens={tokens!r} cannot use them.")
    sources = read_sources(path, label, test)
    train = sources["train"]
    classes = class_names(train.labels)
    parts, split_notes = _divided(sources, classes, validation_fraction, seed)
    labels, label_notes = fit_labels(train.what, Kind.CLASSIFICATION, classes, parts["train"][1])
    vocabulary, vocabulary_note = _fit(tokens, parts["train"][0], vectors is not None)
    encoder = TextEncoder(vocabulary, LONGEST[tokens], labels, train.layout)
    rows = {part: encoder.rows(texts) for part, (texts, _) in parts.items()}
    encoded = {part: Padded((encoder.tokens(rows[part]), torch.from_numpy(parts[part][1]))) for part in parts}
    embeddings, vector_notes = None, tuple[str, ...]()
    if vectors is not None and isinstance(vocabulary, Words):
        embeddings, vector_notes = read_vectors(vectors, vocabulary)
    return Dataset(
        name=path.name if path.is_dir() else plain_stem(path),
        train=encoded["train"],
        validation=encoded["validation"],
        test=encoded.get("test"),
        encoder=encoder,
        notes=(
            *chain.from_iterable(source.notes for source in sources.values()),
            *label_notes,
            *split_notes,
            *vector_notes,
            vocabulary_note,
            unknown_in_words("the texts validated on", rows["validation"], vocabulary),
            *_length_notes(rows["train"], encoder),
            _example(parts["train"][0][0], classes[int(parts["train"][1][0])], vocabulary),
        ),
        fingerprint=fingerprint([*chain.from_iterable(source.digests for source in sources.values())]),
        form=Form.TEXTS,
        vocabularies=(vocabulary,),
        vectors=embeddings,
    )


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels, in their order as numbers or else as texts."""
    different = sorted(set(labels))
    try:
        return tuple(sorted(different, key=float))
    except ValueError:
        return tuple(different)


def _divided(
    sources: Mapping[str, Labelled], classes: tuple[str, ...], fraction: float, seed: int
) -> tuple[dict[str, tuple[Sequence[str], NDArray[np.int64]]], tuple[str, ...]]:
    """Texts and classes (N,) of train, validation, and maybe test; and notes."""
    numbers = {name: number for number, name in enumerate(classes)}
    parts: dict[str, tuple[Sequence[str], NDArray[np.int64]]] = {}
    for part, source in sources.items():
        if wrong := [name for name in source.labels if name not in numbers]:
            raise DataError(f"{source.what}: {unknown('class', wrong[0], classes)}")
        parts[part] = source.texts, np.array([numbers[name] for name in source.labels], np.int64)
    what, (texts, codes) = sources["train"].what, parts["train"]
    if "validation" in parts:
        check_targets(what, Kind.CLASSIFICATION, codes)
        sizes = (f"{len(texts):,} texts to train on and {len(parts['validation'][0]):,} to validate on, as given.",)
        return parts, sizes
    train, validation, notes = divide(what, Kind.CLASSIFICATION, codes, fraction, seed)
    for part, rows in (("train", train), ("validation", validation)):
        parts[part] = [texts[row] for row in rows], codes[rows]
    return parts, notes


def _fit(tokens: str, texts: Sequence[str], rare: bool) -> tuple[Characters | Words | Subwords, str]:
    """The vocabulary of the training texts, and a note. With `rare`, words that come once belong to it."""
    if tokens == "character":
        characters = Characters.fit(texts)
        return characters, f"The vocabulary is the {len(characters.characters):,} characters of the training texts."
    if tokens == "bpe":
        subwords = Subwords.fit(texts)
        return subwords, f"The vocabulary is {len(subwords):,} subwords, by byte pair encoding of the training texts."
    words = Words.fit(texts, least=1 if rare else 2)
    often = "" if rare else " at least twice"
    return words, (
        f"The vocabulary is the {len(words.words):,} most common words that come{often} in the training texts, in "
        "small letters."
    )


def _length_notes(rows: Sequence[NDArray[np.int32]], encoder: TextEncoder) -> list[str]:
    lengths = [len(row) for row in rows]
    notes = [lengths_in_words("A text to train on", lengths, encoder.vocabulary)]
    if cut := sum(one > encoder.length for one in lengths):
        notes.append(
            f"{cut:,} texts to train on are cut to their first {encoder.length:,} tokens, and so are all others."
        )
    if empty := lengths.count(0):
        notes.append(f"{empty:,} texts to train on hold nothing; they are one unknown token.")
    return notes


def _example(text: str, label: str, vocabulary: Characters | Words | Subwords) -> str:
    beginning = " ".join(text.split())[:60]
    tokens = " · ".join(vocabulary.decode([token]) for token in vocabulary.encode(beginning)[:8])
    return f"The first text is of the class {label!r}, and begins with the tokens {tokens}"
