"""What is there to learn from? The door of this room: every reader of files gives a `Dataset`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rheostat.data.scaling import moments, standardised

SMALLEST = 10  # rows, below which nothing can be learnt


class Kind(StrEnum):
    """What is predicted: one of several classes, numbers, or a text."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    TEXT = "text"


@dataclass(frozen=True)
class Labels:
    """What is predicted, and how it is written for the network.

    `classes` are the names of classes 0, 1, ...; `means` and `scales` (standard deviations) belong to the T
    targets of a regression, one each, and come from the training part.
    """

    kind: Kind
    classes: tuple[str, ...] = ()
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()

    @classmethod
    def of_numbers(cls, targets: NDArray[Any], what: str) -> Labels:
        """For a regression, from the training targets (N, T). Raises DataError where they are too large."""
        means, scales = moments(targets, what)
        return cls(Kind.REGRESSION, (), tuple(means.tolist()), tuple(scales.tolist()))

    def encode(self, targets: NDArray[Any], what: str) -> Tensor:
        """Classes (N,) as int64, or numbers (N, T) in standard units as float32."""
        if self.kind is Kind.CLASSIFICATION:
            return torch.from_numpy(targets.astype(np.int64))
        return standardised(targets, np.array(self.means), np.array(self.scales), what)

    def decode(self, outputs: Tensor) -> list[str] | Tensor:
        """The network's outputs (N, outputs) as names of classes, or as numbers (N, T) in the user's units."""
        if self.kind is Kind.CLASSIFICATION:
            return [self.classes[index] for index in outputs.argmax(1).tolist()]
        return outputs * outputs.new_tensor(self.scales) + outputs.new_tensor(self.means)


class Encoder(Protocol):
    """How a file became tensors: plain values, all from the training part, so that a new file can follow."""

    @property
    def labels(self) -> Labels: ...

    def encode(self, path: Path) -> Tensor:
        """The inputs of a file, (N, ...) float32; labels need not be there. Raises DataError."""
        ...

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values, which the class's `from_description` reads back exactly."""
        ...


class Form(StrEnum):
    """What an example is, which decides the family of networks."""

    ROWS = "rows"  # (inputs (N, ...) float32, targets)
    IMAGES = "images"  # (images (N, C, H, W) uint8, classes (N,) int64)
    TEXTS = "texts"  # Padded: (tokens (N, L), classes (N,))
    PAIRS = "pairs"  # Padded: (source (N, S), target behind BEGIN (N, T), target before END (N, T))
    STREAM = "stream"  # one long text: a TokenStream


PADDING, UNKNOWN, BEGIN, END = 0, 1, 2, 3  # the first tokens of every vocabulary but that of a stream


@dataclass(frozen=True)
class Padded:
    """Sequences of different lengths: int64 tensors (N, L), each row padded with PADDING at its end, targets last.

    Targets are sequences too, or classes (N,). Training takes rows of like length together and cuts what is
    padding in all of them; networks and losses must not care. `texts` are N target sentences as they were written.
    """

    tensors: tuple[Tensor, ...]
    texts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tensors[0])


@dataclass(frozen=True)
class TokenStream:
    """One long text as tokens (N,) int64, to be predicted each from those before it.

    Training takes `batch_size` rows that read it side by side, `length` tokens at a step.
    """

    tokens: Tensor
    length: int = 128

    def __len__(self) -> int:
        return len(self.tokens)


Part = tuple[Tensor, ...] | Padded | TokenStream


class Vocabulary(Protocol):
    """The tokens of a language, numbered from 0."""

    def __len__(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Its tokens, without BEGIN and END."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text again; PADDING, BEGIN and END are left out."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Data made ready for a network.

    What each part holds depends on the `form`. Targets come last: classes (N,) int64, or standardised numbers
    (N, T) float32. `notes` say what was inferred and done, a line each, for the user. `fingerprint` is 12
    hexadecimal digits of the data as they were given. `means` and `scales` are those of each channel of the
    training images, in units of a byte. `vocabularies` are that of texts or a stream, or of source and target.
    `vectors` (vocabulary, embedding) are pretrained embeddings.
    """

    name: str
    train: Part
    validation: Part
    test: Part | None
    encoder: Encoder
    notes: tuple[str, ...]
    fingerprint: str
    form: Form = Form.ROWS
    means: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    vocabularies: tuple[Vocabulary, ...] = ()
    vectors: Tensor | None = None

    @property
    def kind(self) -> Kind:
        return self.encoder.labels.kind

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty for a regression."""
        return self.encoder.labels.classes

    @property
    def inputs(self) -> int:
        """Numbers per example of the forms `rows` and `images`."""
        assert isinstance(self.train, tuple)
        return math.prod(self.train[0].shape[1:])

    @property
    def outputs(self) -> int:
        """Classes, or targets per example."""
        if self.classes:
            return len(self.classes)
        assert isinstance(self.train, tuple)
        return self.train[1].shape[1]

    @property
    def target_scale(self) -> float:
        """What an error in standard units is to be multiplied by to be in the user's units.

        It is 1 for classes, and for several targets, whose units may differ: their errors stay in standard units.
        """
        scales = self.encoder.labels.scales
        return scales[0] if len(scales) == 1 else 1.0
