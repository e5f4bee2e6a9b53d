"""Pretrained embeddings of words, as GloVe and word2vec write them in text files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from rheostat.data.base import PADDING
from rheostat.data.plain import BLOCK_BYTES, blocks
from rheostat.data.vocabulary import FIRST, Words
from rheostat.errors import DataError
from rheostat.types import derive_seed

MOST_MALFORMED = 0.01  # of the lines; a file with more is refused
SPREAD = 0.1  # standard deviation of what stands in for a missing row
FORMAT = (
    "Each line must be a word and its numbers, separated by spaces, as GloVe and word2vec write them in text files."
)


def read_vectors(path: Path, vocabulary: Words) -> tuple[Tensor, tuple[str, ...]]:
    """The embeddings (len(vocabulary), E) float32 of a file, maybe packed (.gz), and notes.

    The file is read line by line, and only the rows of the vocabulary are kept. A word that it only has in other
    capitals gets that row; one that it does not have gets small random numbers, always the same. The row of PADDING
    is zero. Raises DataError for a file that holds something else, or no word of the vocabulary.
    """
    numbers = {word: number for number, word in enumerate(vocabulary.words, FIRST)}
    folded: dict[str, list[int]] = {}
    for word, number in numbers.items():
        folded.setdefault(word.lower(), []).append(number)
    rows: dict[int, list[float]] = {}
    exact: set[int] = set()
    malformed: list[int] = []
    size = line_number = 0
    for line_number, line in enumerate(_lines(path), 1):
        first, *others = line.split(b" ", 1)
        if not size:
            size = _size(path, line)
            if first.isdigit() and line.count(b" ") == 1:  # a header: how many words, of how many numbers
                continue
        word = first.decode("utf-8", "replace")
        number = numbers.get(word, 0)
        wanted = [number] if number and number not in exact else []
        wanted += [n for n in folded.get(word.lower(), ()) if n not in rows and n != number]
        values = _values(others[0] if others else b"", size, parse=bool(wanted))
        if values is None:
            malformed.append(line_number)
            continue
        rows.update(dict.fromkeys(wanted, values))
        exact.update({number} & set(wanted))
    notes = _checked(path, line_number, malformed, len(rows), size)
    spread = torch.Generator().manual_seed(derive_seed(0, "missing vectors"))
    vectors = torch.randn(len(vocabulary), max(size, 1), generator=spread) * SPREAD
    vectors[PADDING] = 0
    vectors[list(rows)] = torch.tensor(list(rows.values()))
    share = 100 * len(rows) / len(vocabulary.words)
    coverage = f"{path.name} has vectors of {size} numbers for {len(rows):,} words of the vocabulary, {share:.1f} %"
    return vectors, (f"{coverage}; the others begin with small random ones.", *notes)


def _size(path: Path, line: bytes) -> int:
    """How many numbers a word has, by the first line."""
    fields = line.split(b" ")
    size = int(fields[1]) if len(fields) == 2 and all(map(bytes.isdigit, fields)) else len(fields) - 1
    if size < 1:
        raise DataError(f"{path.name}, line 1 has no numbers. {FORMAT}")
    return size


def _values(text: bytes, size: int, parse: bool) -> list[float] | None:
    """The numbers of a row, or none where they are not to be parsed; None where they are not `size` finite ones."""
    if text.count(b" ") != size - 1:
        return None
    if not parse:
        return []
    try:
        values = [float(value) for value in text.split(b" ")]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _checked(path: Path, lines: int, malformed: list[int], found: int, size: int) -> tuple[str, ...]:
    """Refuses a file that is no file of vectors for this vocabulary; else a note on lines that were left out."""
    if not lines:
        raise DataError(f"{path.name} is empty. {FORMAT}")
    named = ", ".join(map(str, malformed[:3])) + (f" and {len(malformed) - 3:,} more" if len(malformed) > 3 else "")
    if len(malformed) > max(MOST_MALFORMED * lines, 1):
        raise DataError(f"{path.name}: lines {named} are not a word and {size} finite numbers. {FORMAT}")
    if not found:
        raise DataError(f"{path.name} has none of the words of the training texts: is it of another language? {FORMAT}")
    return (f"{path.name}: left out what is not a word and {size} finite numbers: line {named}.",) * bool(malformed)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines that hold something, tabs as spaces, without spaces around them."""
    rest = b""
    for block in blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        yield from _stripped(lines)
        if len(rest) > BLOCK_BYTES:
            raise DataError(f"{path.name} has a line of more than a million characters. {FORMAT}")
    yield from _stripped([rest])


def _stripped(lines: list[bytes]) -> Iterator[bytes]:
    return (kept for line in lines if (kept := line.replace(b"\t", b" ").strip()))
