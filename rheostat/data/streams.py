"""One long text, each token of which is to be predicted from those before it. It may be larger than the memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import Dataset, Form, Kind, Labels, TokenStream
from rheostat.data.plain import PlainText, examine, fingerprint, plain_stem, plain_suffix
from rheostat.data.vocabulary import (
    UNKNOWN_WORD,
    Characters,
    Subwords,
    Words,
    check_tokens,
    from_description,
    seen_characters,
    unknown_in_words,
)
from rheostat.errors import DataError, SettingError

SUFFIXES = (".txt", ".tokens", ".raw")
PARTS = {
    "train": {"train", "training"},
    "validation": {"valid", "val", "validation", "dev"},
    "test": {"test", "testing"},
}
TRAINED, VALIDATED = 0.9, 0.05  # shares of a text that is not divided yet
SMALLEST_PART = 100  # tokens
NEAR = 1000  # characters, within which a part ends before a space
IN_MEMORY = 64 * 2**20  # characters, beyond which tokens are kept in a file
FITTED = 2**24  # characters, at most, by which subwords are fitted
CACHE = Path(".rheostat") / "cache"
FORMATS = (
    f"A text is a file ({', '.join(SUFFIXES)}, maybe packed as .gz), or a folder with one for train, and maybe for "
    "valid and test, named such as train.txt or wiki.valid.tokens."
)
_SPACE = re.compile(r"\s")
AnyVocabulary = Characters | Words | Subwords


@dataclass(frozen=True)
class StreamEncoder:
    """How a long text becomes tokens."""

    vocabulary: AnyVocabulary

    @property
    def labels(self) -> Labels:
        return Labels(Kind.TEXT)

    def encode(self, path: Path) -> Tensor:
        """The tokens (N,) int64 of a whole file. Raises DataError for what cannot be read, and for a character that
        has no token."""
        parts = _numbers(self.vocabulary, examine(path).pieces())
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *parts]))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        return {"vocabulary": self.vocabulary.describe()}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> StreamEncoder:
        """The encoder that `describe` described. Raises DataError where it is not one."""
        if "vocabulary" not in description:
            raise DataError("This is not the description of an encoder of a text: it has no vocabulary.")
        return cls(from_description(description["vocabulary"]))


@dataclass(frozen=True)
class MappedStream(TokenStream):
    """A text whose tokens are in a file, and in memory only where they are looked at.

    It is pickled as the name of the file, so that worker processes of this machine map it too.
    """

    path: Path = Path()

    @classmethod
    def open(cls, path: Path, dtype: torch.dtype, length: int) -> MappedStream:
        """The tokens of a file of nothing else. Raises DataError where it is not there."""
        if not path.is_file():
            raise DataError(f"The tokens in {path} are gone: read the text again.")
        size = path.stat().st_size // dtype.itemsize
        return cls(torch.from_file(str(path), shared=False, size=size, dtype=dtype), length, path)

    def __reduce__(self) -> tuple[Any, ...]:
        whole = self.path.is_file() and self.path.stat().st_size == self.tokens.nbytes
        if whole and self.tokens.device.type == "cpu":
            return MappedStream.open, (self.path, self.tokens.dtype, self.length)
        return TokenStream, (self.tokens, self.length)


@dataclass(frozen=True)
class Section:
    """The characters of a file from `start` to `stop`: a part of the data set."""

    file: PlainText
    start: int
    stop: int

    def pieces(self) -> Iterator[str]:
        return self.file.pieces(self.start, self.stop)


def read_stream(path: Path, test: Path | None = None, tokens: str = "character", length: int = 128) -> Dataset:
    """The data set of one long text.

    `path` is a file, of which the first 90 % are trained on, the next 5 % validated on, and the last 5 % are the
    test; or a folder with a file for each. `test` is a file that is held out instead. `tokens` are characters,
    words, or subwords (bpe); `length` of them are read at a step of training. The tokens are integers of the
    smallest type that holds them; those of more than 64 million characters are kept in `.rheostat/cache`, mapped
    into memory, and the text is read in pieces.

    Raises DataError for what cannot be trained on, and SettingError for an argument that is not allowed.
    """
    check_tokens(tokens)
    if not isinstance(length, int) or length < 1:
        raise SettingError(f"length={length!r} must be a whole number of tokens, such as 128.")
    sections, notes = _sections(path, test)
    vocabulary, vocabulary_note = _fit(tokens, sections)
    large = sum(section.stop - section.start for section in sections.values()) > IN_MEMORY
    read = _mapped if large else _in_memory
    streams = {part: read(each, vocabulary, length) for part, each in sections.items()}
    for part, stream in streams.items():
        _check_size(sections[part], part, len(stream), vocabulary.unit, SMALLEST_PART + length * (part == "train"))
    if tokens != "character":
        validated = streams["validation"].tokens.split(2**20)
        notes.append(unknown_in_words("the part validated on", (part.numpy() for part in validated), vocabulary))
        ratio = (sections["train"].stop - sections["train"].start) / len(streams["train"])
        notes.append(f"There are {ratio:.2f} characters to a token: divide nats per token by that to compare models.")
    if large:
        size = sum(stream.tokens.nbytes for stream in streams.values())
        notes.append(f"The tokens are kept in {CACHE.as_posix()}, {size / 1e6:,.0f} MB, and read when they are needed.")
    beginning = next(sections["train"].pieces()).strip()[:60]
    files = {section.file.path: section.file for section in sections.values()}
    return Dataset(
        name=path.name if path.is_dir() else plain_stem(path),
        train=streams["train"],
        validation=streams["validation"],
        test=streams.get("test"),
        encoder=StreamEncoder(vocabulary),
        notes=(*notes, vocabulary_note, f"It begins {beginning!r}."),
        fingerprint=fingerprint([file.digest for file in files.values()]),
        form=Form.STREAM,
        vocabularies=(vocabulary,),
    )


def looks_like_stream(path: Path) -> bool:
    """Whether `read_stream` can read it, by its name: to be asked last, since any text is a stream."""
    return bool(_found(path, "train")) if path.is_dir() else path.is_file() and plain_suffix(path) in SUFFIXES


def _sections(path: Path, test: Path | None) -> tuple[dict[str, Section], list[str]]:
    """The parts, and notes."""
    files = {"train": path}
    if path.is_dir():
        files = {part: file for part in PARTS if (file := _only(path, part)) is not None}
        if "train" not in files:
            raise DataError(f"{path} has no file to train on. {FORMATS}")
    if test is not None:
        files["test"] = test
    texts = {part: examine(file) for part, file in files.items()}
    notes = [note for text in texts.values() for note in text.notes]
    for text in texts.values():
        if not any(piece.strip() for piece in text.pieces()):
            raise DataError(f"{text.path.name} holds no text. {FORMATS}")
    sections, how = _divided(texts)
    for part, section in sections.items():
        _check_size(section, part, section.stop - section.start, "characters", SMALLEST_PART)
    return sections, [*notes, how]


def _divided(texts: Mapping[str, PlainText]) -> tuple[dict[str, Section], str]:
    """The files as parts; without one to validate on, parts of the one to train on. And a note."""
    sections = {part: Section(text, 0, text.characters) for part, text in texts.items()}
    train = texts["train"]
    if "validation" in texts:
        sizes = ", ".join(f"{section.stop:,} of {section.file.path.name}" for section in sections.values())
        return sections, f"Characters: {sizes}, as given."
    what = f"{train.path.name}: {train.characters:,} characters; the first {100 * TRAINED:.0f} % are trained on"
    if "test" in texts:
        (cut,) = _cuts(train, [TRAINED])
        sections |= {"train": Section(train, 0, cut), "validation": Section(train, cut, train.characters)}
        return sections, f"{what}, the others validated on; {texts['test'].path.name} is the test."
    first, second = _cuts(train, [TRAINED, TRAINED + VALIDATED])
    sections = {
        "train": Section(train, 0, first),
        "validation": Section(train, first, second),
        "test": Section(train, second, train.characters),
    }
    return (
        sections,
        f"{what}, the next {100 * VALIDATED:.0f} % validated on, and the last {100 * VALIDATED:.0f} % tested.",
    )


def _check_size(section: Section, part: str, size: int, unit: str, least: int) -> None:
    if size < least:
        what = f"{section.file.path.name}: the part for {part} has {size:,} {unit}"
        raise DataError(f"{what}; give a longer text, of which it has at least {least:,}.")


def _found(folder: Path, part: str) -> list[Path]:
    """The files in a folder whose names say that they are this part."""
    texts = (file for file in sorted(folder.iterdir()) if file.is_file() and plain_suffix(file) in SUFFIXES)
    return [file for file in texts if PARTS[part] & set(re.split(r"[._-]", plain_stem(file).lower()))]


def _only(folder: Path, part: str) -> Path | None:
    found = _found(folder, part)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{folder}: more than one file may be meant for {part}: {names}. Keep one.")
    return found[0] if found else None


def _cuts(text: PlainText, shares: Iterable[float]) -> list[int]:
    """Places after these shares of a text, before the next space where there is one near."""
    places = [int(share * text.characters) for share in shares]
    cuts: list[int] = []
    at = 0
    for piece in text.pieces():
        for place in places[len(cuts) :]:
            if place < at + len(piece):
                space = _SPACE.search(piece, place - at, place - at + NEAR)
                cuts.append(at + space.start() if space else place)
        at += len(piece)
    return cuts


def _fit(tokens: str, sections: Mapping[str, Section]) -> tuple[AnyVocabulary, str]:
    """The vocabulary of the part to train on, and a note."""
    train = sections["train"]
    if tokens == "character":
        known = seen_characters(train.pieces())
        others = seen_characters(chain.from_iterable(s.pieces() for part, s in sections.items() if part != "train"))
        unseen = len(set(others) - set(known))
        note = f"The vocabulary is the {len(known):,} characters of the part to train on"
        if not unseen:
            return Characters(known, 0, None), f"{note}, and there are no others."
        note = f"{note}, and one token for the {unseen:,} others in the parts to validate and to test on."
        return Characters(known, 0, len(known)), note
    if tokens == "bpe":
        every = -(-(train.stop - train.start) // FITTED)
        subwords = Subwords.fit(islice(train.pieces(), 0, None, every), spaced=False)
        return subwords, f"The vocabulary is {len(subwords):,} subwords, by byte pair encoding of the part to train on."
    if UNKNOWN_WORD in next(train.pieces()):  # a text whose words were chosen already, such as the Penn Treebank
        words = Words.fit(train.pieces(), lower=False, punctuation=False, lines=True, least=1, most=50_000)
        how = f": what stands between spaces, since {UNKNOWN_WORD} stands for others already"
    else:
        words = Words.fit(train.pieces(), lower=False, lines=True)
        how = " that come at least twice in the part to train on"
    return words, f"The vocabulary is the {len(words.words):,} most common words{how}; others are one token."


def _numbers(vocabulary: AnyVocabulary, pieces: Iterable[str]) -> Iterator[NDArray[np.int32]]:
    for piece in pieces:
        if isinstance(vocabulary, Characters):
            yield vocabulary.numbers(piece)
        else:
            yield np.array(vocabulary.encode(piece), np.int32)


def _dtype(vocabulary: AnyVocabulary) -> type[np.uint8] | type[np.int16] | type[np.int32]:
    """The smallest that holds every token. Not uint16, with which torch can do little."""
    if len(vocabulary) <= 2**8:
        return np.uint8
    return np.int16 if len(vocabulary) <= 2**15 else np.int32


def _in_memory(section: Section, vocabulary: AnyVocabulary, length: int) -> TokenStream:
    dtype = _dtype(vocabulary)
    numbers = [part.astype(dtype) for part in _numbers(vocabulary, section.pieces())]
    return TokenStream(torch.from_numpy(np.concatenate(numbers)), length)


def _mapped(section: Section, vocabulary: AnyVocabulary, length: int) -> TokenStream:
    """Tokens in a file, which is written unless an earlier reading of the same text has left it."""
    dtype = np.dtype(_dtype(vocabulary))
    settings = msgspec.json.encode([section.start, section.stop, dtype.name, vocabulary.describe()])
    key = hashlib.sha256(section.file.digest + settings).hexdigest()[:16]
    path = CACHE.absolute() / f"{plain_stem(section.file.path)}-{key}.tokens"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, (numbers.astype(dtype) for numbers in _numbers(vocabulary, section.pieces())))
        except OSError as cause:
            raise DataError(f"The tokens cannot be kept in {path.parent}: {cause.strerror or cause}.") from None
    return MappedStream.open(path, torch.from_numpy(np.empty(0, dtype)).dtype, length)


def _write(path: Path, parts: Iterable[NDArray[Any]]) -> None:
    """Writes all of a file or nothing."""
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            for numbers in parts:
                file.write(numbers.data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
