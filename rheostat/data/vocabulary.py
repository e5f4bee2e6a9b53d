"""The tokens of texts: characters, words, or subwords by byte pair encoding. All are fitted on training texts alone."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, ClassVar
from unicodedata import normalize

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.base import BEGIN, END, PADDING, UNKNOWN
from rheostat.errors import DataError, SettingError, unknown

FIRST = 4  # the token after PADDING, UNKNOWN, BEGIN and END
UNKNOWN_CHARACTER, UNKNOWN_WORD = "\N{REPLACEMENT CHARACTER}", "<unk>"
NO_TEXT = "\0"  # stands for what is not in the alphabet of subwords, and so is never in it
CODE_POINTS = 0x110000
COUNTED_WORDS = 2**19  # different ones counted at a time, so that a large text does not fill the memory
REMEMBERED_PIECES = 2**16

# Letters, digits, and the marks of scripts that write them apart, which `re` does not take for parts of words
_LETTER = r"\w\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0963\u0966-\u109f\u1ab0-\u1aff\u200c\u200d"
_WORD = re.compile(
    rf"{UNKNOWN_WORD}|[{_LETTER}]+?(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,]\d+)+|[{_LETTER}]+|[^{_LETTER}\s]",
    re.IGNORECASE,
)
_SPACED = re.compile(r"\S+")
# A word with the space before it, so that nothing of a text is lost; no piece is longer than 65 characters
_PIECE = re.compile(rf" ?[{_LETTER}]{{1,64}}| ?[^{_LETTER}\s]{{1,64}}|\s{{1,64}}(?!\S)|\s")


@dataclass(frozen=True)
class Tokens(ABC):
    """A vocabulary made of plain values: these are what is compared, pickled and described."""

    name: ClassVar[str]
    unit: ClassVar[str]  # several tokens, in words

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Its tokens, without BEGIN and END."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text again; PADDING, BEGIN and END are left out."""

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values; `from_description` reads it back."""
        values = {name: msgspec.to_builtins(value) for name, value in self.__getstate__().items()}
        return {"tokens": self.name, **values}

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Characters(Tokens):
    """Every character is a token: that at place i has the number `first` + i. `unknown` is the token of all others.

    Where it is None, there is no such token, and other characters cannot be encoded.

    >>> letters = Characters.fit(["abba", "c"])
    >>> letters.encode("cab!"), letters.decode([2, 6, 4, 5, 1, 3])
    ([6, 4, 5, 1], 'cab\ufffd')
    """

    name: ClassVar[str] = "character"
    unit: ClassVar[str] = "characters"
    characters: str
    first: int = FIRST
    unknown: int | None = UNKNOWN

    @classmethod
    def fit(cls, texts: Iterable[str]) -> Characters:
        """All characters of the texts, behind PADDING, UNKNOWN, BEGIN and END."""
        return cls(seen_characters(texts))

    def __len__(self) -> int:
        return max(self.first + len(self.characters), (self.unknown or 0) + 1)

    def encode(self, text: str) -> list[int]:
        """Its tokens, one per character. Raises DataError for a character that has none."""
        tokens: list[int] = self.numbers(text).tolist()
        return tokens

    def numbers(self, text: str) -> NDArray[np.int32]:
        """As `encode`, but an array (N,), which takes a hundredth of the time."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        numbers: NDArray[np.int32] = self._numbers[codes]
        if self.unknown is None and len(numbers) and numbers.min() < 0:
            character = text[int(numbers.argmin())]
            raise DataError(
                f"The character {character!r} is none of the {len(self.characters)} of the training text: leave it out."
            )
        return numbers

    def decode(self, tokens: Sequence[int]) -> str:
        """The text again; an unknown character becomes U+FFFD."""
        return "".join(map(self._texts.__getitem__, tokens))

    @cached_property
    def _numbers(self) -> NDArray[np.int32]:
        """The token of each code point."""
        numbers = np.full(CODE_POINTS, -1 if self.unknown is None else self.unknown, np.int32)
        numbers[list(map(ord, self.characters))] = self.first + np.arange(len(self.characters))
        return numbers

    @cached_property
    def _texts(self) -> list[str]:
        texts = ["" for _ in range(len(self))]
        texts[self.first : self.first + len(self.characters)] = self.characters
        if self.unknown is not None:
            texts[self.unknown] = UNKNOWN_CHARACTER
        return texts


@dataclass(frozen=True)
class Words(Tokens):
    """Words are tokens, the word at place i that of number 4 + i; others are UNKNOWN, written `<unk>`.

    `lower` makes no difference between capitals and small letters. `punctuation` takes every mark for a word of
    its own and splits "don't" into "do" and "n't", as the Penn Treebank does and pretrained vectors expect; without
    it, words are what stands between spaces. `lines` makes a word of the end of a line.

    >>> words = Words.fit(["I don't.", "I do, I do!"])
    >>> words.words, words.encode("I do? Do I"), words.decode([5, 4, 1])
    (('do', 'i'), [5, 4, 1, 4, 5], 'i do <unk>')
    """

    name: ClassVar[str] = "word"
    unit: ClassVar[str] = "words"
    words: tuple[str, ...]
    lower: bool = True
    punctuation: bool = True
    lines: bool = False

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        lower: bool = True,
        punctuation: bool = True,
        lines: bool = False,
        least: int = 2,
        most: int = 20_000,
    ) -> Words:
        """The `most` common words that come at least `least` times; equally common ones in alphabetical order."""
        splitting = cls((), lower, punctuation, lines)
        counts = _counted(map(splitting.split, texts))
        counts.pop(UNKNOWN_WORD, None)
        kept = sorted((word for word, count in counts.items() if count >= least), key=lambda w: (-counts[w], w))
        return cls(tuple(kept[:most]), lower, punctuation, lines)

    def __len__(self) -> int:
        return FIRST + len(self.words)

    def split(self, text: str) -> list[str]:
        """The words of a text, known or not."""
        text = normalize("NFC", text).replace("’", "'")
        text = text.lower() if self.lower else text
        words = (_WORD if self.punctuation else _SPACED).findall
        if not self.lines:
            return words(text)
        first, *others = text.split("\n")
        found = words(first)
        for line in others:
            found.append("\n")
            found += words(line)
        return found

    def encode(self, text: str) -> list[int]:
        return [self._numbers.get(word, UNKNOWN) for word in self.split(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """The words with a space between each two, but none at the ends of lines."""
        words = [self._texts[token] for token in tokens if token not in (PADDING, BEGIN, END)]
        return " ".join(words).replace(" \n", "\n").replace("\n ", "\n")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, FIRST)}

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return ("", UNKNOWN_WORD, "", "", *self.words)


@dataclass(frozen=True)
class Subwords(Tokens):
    """Byte pair encoding (Sennrich et al. 2016), of characters rather than bytes: frequent words are one token,
    others are several, down to the characters of the `alphabet`, which come first. `merges` are the pairs of tokens
    that are joined, the most important first.

    Tokens hold the spaces of the text, so `decode(encode(text))` is the text, but that characters outside the
    alphabet become U+FFFD. `spaced` puts a space before the text, and takes it away again, so that its first word
    is the token that it is elsewhere.

    >>> subwords = Subwords.fit(["low lower lowest"] * 3, size=16)
    >>> [subwords.decode([token]) for token in subwords.encode("lowest slow")]
    ['lowe', 's', 't', '', 's', 'l', 'ow']
    >>> subwords.decode(subwords.encode("slow, lower")), len(subwords)
    ('slow\ufffd lower', 16)
    """

    name: ClassVar[str] = "bpe"
    unit: ClassVar[str] = "subwords"
    alphabet: str
    merges: tuple[tuple[str, str], ...]
    spaced: bool = True

    @classmethod
    def fit(cls, texts: Iterable[str], size: int = 8000, spaced: bool = True) -> Subwords:
        """At most `size` tokens, at most half of them single characters: the most common where there are more.

        Raises SettingError for a size below 10.
        """
        if size < 10:
            raise SettingError(f"size={size!r} must be at least 10 tokens; 8000 is usual.")
        from tokenizers import Tokenizer, models, trainers

        characters: Counter[str] = Counter()

        def split() -> Iterable[list[str]]:
            for text in texts:
                characters.update(text)
                yield _PIECE.findall(" " + text if spaced else text)

        pieces = _counted(split())
        if spaced:
            characters[" "] += 1  # always known
        characters.pop(NO_TEXT, None)
        alphabet = sorted(characters, key=lambda character: (character != " ", -characters[character], character))
        alphabet = alphabet[: size // 2]
        trainer = trainers.BpeTrainer(
            vocab_size=size - FIRST,
            min_frequency=2,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.train_from_iterator(pieces.elements(), trainer)
        merges = msgspec.json.decode(tokenizer.to_str())["model"]["merges"]
        return cls("".join(sorted(alphabet)), tuple((left, right) for left, right in merges), spaced)

    def __len__(self) -> int:
        return FIRST + len(self._tokens)

    def encode(self, text: str) -> list[int]:
        of_piece = self._of_piece
        return [token for piece in _PIECE.findall(" " + text if self.spaced else text) for token in of_piece(piece)]

    def decode(self, tokens: Sequence[int]) -> str:
        text = "".join(map(self._texts.__getitem__, tokens))
        return text.removeprefix(" ") if self.spaced else text

    @cached_property
    def _tokens(self) -> tuple[str, ...]:
        """From number 4 on. The same token may come of several pairs."""
        return tuple(dict.fromkeys([*self.alphabet, *map("".join, self.merges)]))

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        return ("", UNKNOWN_CHARACTER, "", "", *self._tokens)

    @cached_property
    def _of_piece(self) -> Callable[[str], list[int]]:
        from tokenizers import models

        numbers = {token: number for number, token in enumerate(self._tokens, FIRST)}
        numbers[NO_TEXT] = UNKNOWN
        model = models.BPE(vocab=numbers, merges=list(self.merges), unk_token=NO_TEXT)
        return lru_cache(REMEMBERED_PIECES)(lambda piece: [token.id for token in model.tokenize(piece)])


VOCABULARIES: Mapping[str, type[Characters] | type[Words] | type[Subwords]] = {
    kind.name: kind for kind in (Characters, Words, Subwords)
}


def check_tokens(tokens: str) -> None:
    """Raises SettingError for a kind of token that is none of `VOCABULARIES`."""
    if tokens not in VOCABULARIES:
        raise SettingError(unknown("tokens", tokens, VOCABULARIES))


def from_description(description: Mapping[str, Any]) -> Characters | Words | Subwords:
    """The vocabulary that `describe` described. Raises DataError where it is not one."""
    values = dict(description)
    try:
        return msgspec.convert(values, VOCABULARIES[values.pop("tokens", None)])
    except (KeyError, TypeError, msgspec.ValidationError) as cause:
        raise DataError(f"This is not the description of a vocabulary: {cause}.") from None


def seen_characters(texts: Iterable[str]) -> str:
    """All characters of the texts, each once and in order."""
    seen = np.zeros(CODE_POINTS, bool)
    for text in texts:
        seen[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)] = True
    return "".join(map(chr, np.flatnonzero(seen).tolist()))


def padded(rows: Sequence[Sequence[int] | NDArray[np.int32]]) -> Tensor:
    """Rows of tokens as (N, L) int64, filled up with PADDING; L is at least 1."""
    tokens = np.full((len(rows), max(map(len, rows), default=1) or 1), PADDING)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return torch.from_numpy(tokens)


def lengths_in_words(what: str, lengths: Sequence[int], vocabulary: Tokens) -> str:
    """A note on how many tokens there are in each of some texts."""
    middle, high = np.percentile(lengths, (50, 99))
    most = f"{max(lengths):,} at most; 99 of 100 have no more than {high:,.0f}"
    return f"{what} has {middle:,.0f} {vocabulary.unit} in the median and {most}."


def unknown_in_words(what: str, rows: Iterable[NDArray[Any]], vocabulary: Tokens) -> str:
    """A note on the share of tokens that are UNKNOWN."""
    counts = [(int((row == UNKNOWN).sum()), len(row)) for row in rows]
    unseen, tokens = (sum(column) for column in zip(*counts, strict=True))
    return f"{100 * unseen / max(tokens, 1):.2f} % of the {vocabulary.unit} of {what} are not in the vocabulary."


def _counted(texts: Iterable[Iterable[str]]) -> Counter[str]:
    """How often each word comes. When too many are different, the rarest so far are forgotten, and with them their
    count: lossy counting (Manku and Motwani 2002), exact below that and wrong only for words that are rare."""
    counts: Counter[str] = Counter()
    rare = 0
    for words in texts:
        counts.update(words)
        while len(counts) > COUNTED_WORDS:
            rare += 1
            counts = Counter({word: count for word, count in counts.items() if count > rare})
    return counts
