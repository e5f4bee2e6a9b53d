"""Seven small data sets for controlled runs, as tensors: inputs, targets, and how many classes there are."""

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
        if name in ("digits", "fashion"):  # pixels at the rim hardly vary
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
        if name == "digits":
            return _split(name, x.view(-1, 8, 8), y, 500, 700)
        return _split(name, x.view(-1, 3, 10), y, 300, 260)  # means, deviations and extremes of ten measurements
    if name in ("waves", "shapes"):
        return _waves() if name == "waves" else _shapes()
    return {"adult": _adult, "fashion": _fashion, "shakespeare": _shakespeare}[name](folder)


NAMES = ("digits", "cancer", "adult", "fashion", "shakespeare", "waves", "shapes")


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


def _waves() -> Data:
    """Six kinds of noisy oscillation, each with a frequency of its own and phases at random: (N, 12, 4)."""
    generator = torch.Generator().manual_seed(2)
    y = torch.randint(6, (1500,), generator=generator)
    phase = 6.28 * torch.rand(1500, 1, 1, generator=generator)
    angle = (0.3 + 0.25 * y[:, None, None]) * torch.arange(12.0)[:, None] + phase + torch.arange(4.0)
    x = angle.sin() + torch.randn(1500, 12, 4, generator=generator)
    return _split("waves", x, y, 500, 800)


def _shapes() -> Data:
    """Ten smooth pictures under noise, shifted by up to a pixel: (N, 8, 8)."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randn(10, 1, 4, 4, generator=generator)
    pictures = F.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)[:, 0]
    y = torch.randint(10, (1500,), generator=generator)
    shifts = torch.randint(-1, 2, (1500, 2), generator=generator).tolist()
    x = torch.stack([torch.roll(pictures[c], s, (0, 1)) for c, s in zip(y.tolist(), shifts, strict=True)])
    return _split("shapes", x + 1.2 * torch.randn(x.shape, generator=generator), y, 500, 800)
