"""Five small data sets for controlled runs, as tensors: inputs, targets, and how many classes there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from rheostat.data.read import read

CONTEXT = 10  # characters before the one to be predicted


@dataclass(frozen=True)
class Data:
    """Inputs are (N, F) numbers, (N, T, F) pictures read in rows, or (N, T) tokens below `tokens`."""

    name: str
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    classes: int
    tokens: int = 0

    @property
    def form(self) -> str:
        return "tokens" if self.tokens else "rows" if self.train[0].dim() == 3 else "vector"


def _split(name: str, x: Tensor, y: Tensor, train: int, validation: int, tokens: int = 0) -> Data:
    """Shuffled; numbers standardised by the mean and deviation of the training part."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    if not tokens and name != "adult":  # of which the reader has standardised all
        mean, sd = x[:train].mean(0), x[:train].std(0)
        if x.dim() == 3:  # pixels at the rim hardly vary
            mean, sd = x[:train].mean(), x[:train].std()
        x = (x - mean) / sd.clamp_min(1e-6)
    held_out = slice(train, train + validation)
    return Data(name, (x[:train], y[:train]), (x[held_out], y[held_out]), int(y.max()) + 1, tokens)


@cache
def load(name: str, folder: Path) -> Data:
    """One of `NAMES`; `folder` holds the files of those that are not scikit-learn's."""
    if name in ("digits", "cancer"):
        from sklearn import datasets

        bunch = datasets.load_digits() if name == "digits" else datasets.load_breast_cancer()
        x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
        return _split(name, x.view(-1, 8, 8), y, 500, 700) if name == "digits" else _split(name, x, y, 300, 260)
    return {"adult": _adult, "fashion": _fashion, "shakespeare": _shakespeare}[name](folder)


NAMES = ("digits", "cancer", "adult", "fashion", "shakespeare")


def _adult(folder: Path) -> Data:
    data = read(folder / "adult" / "adult-train.csv.gz", label="last", validation_fraction=0.2, seed=0)
    x, y = data.train
    return _split("adult", x[:3000], y[:3000], 500, 800)


def _fashion(folder: Path) -> Data:
    """Pictures of 14 by 14, each pixel the mean of four."""
    data = read(folder / "fashion-mnist", validation_fraction=0.1, seed=0)
    x, y = data.train
    return _split("fashion", F.avg_pool2d(x[:3000].float(), 2)[:, 0], y[:3000], 500, 800)


def _shakespeare(folder: Path) -> Data:
    text = next((folder / "tinyshakespeare").glob("*.txt")).read_text()[:200_000]
    known = {character: token for token, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([known[character] for character in text])
    starts = torch.randperm(len(text) - CONTEXT, generator=torch.Generator().manual_seed(1))[:4000]
    x = torch.stack([tokens[s : s + CONTEXT] for s in starts.tolist()])
    data = _split("shakespeare", x, tokens[starts + CONTEXT], 1200, 800, tokens=len(known))
    return Data("shakespeare", data.train, data.validation, len(known), len(known))
