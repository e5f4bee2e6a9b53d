"""The networks in PyTorch, for Rheostat, Optuna and Ray Tune; and the loop around them, which the last two need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.live.problems import PROBLEMS

JUDGED_AT_ONCE = 500


class Sizes:
    """What of the data a network must know."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.inputs = int(np.prod(arrays["x"].shape[1:]))
        self.outputs = int(arrays["y"].max()) + 1


def mlp(sizes: Sizes, config: Mapping[str, Any]) -> nn.Module:
    units, rate = config["units"], config["dropout"]
    return nn.Sequential(
        nn.Linear(sizes.inputs, units),
        nn.ReLU(),
        nn.Dropout(rate),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Dropout(rate),
        nn.Linear(units, sizes.outputs),
    )


def cnn(sizes: Sizes, config: Mapping[str, Any]) -> nn.Module:
    """Three convolutions that each halve the picture: 28, 14, 7 and 4 pixels wide."""
    width = config["channels"]
    blocks: list[nn.Module] = []
    for inputs, outputs in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
        blocks += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    head = nn.Linear(4 * width * 4 * 4, sizes.outputs)
    return nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(config["dropout"]), head)


class GRU(nn.Module):
    """Tokens (B, T) to scores (B, T, tokens)."""

    def __init__(self, tokens: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, 64)
        self.recurrent = nn.GRU(64, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.dropout(self.recurrent(self.embedding(x))[0]))


def gru(sizes: Sizes, config: Mapping[str, Any]) -> nn.Module:
    return GRU(sizes.outputs, config["hidden"], config["dropout"])


NETWORKS: Mapping[str, Callable[[Sizes, Mapping[str, Any]], nn.Module]] = {"mlp": mlp, "cnn": cnn, "gru": gru}


def tensors(file: Path) -> tuple[Sizes, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What a network must know, and the data to train and to validate on."""
    with np.load(file) as arrays:
        x, y, vx, vy = (torch.from_numpy(arrays[name]) for name in ("x", "y", "vx", "vy"))
        return Sizes({"x": x, "y": y}), (x, y), (vx, vy)


class Loop:
    """Trains a network of a problem by hand, epoch by epoch.

    *typical* is PyTorch's quickstart, as the documentation of Optuna and Ray Tune has it: a DataLoader for both parts
    of the data. *tight* is what an expert writes: an index into tensors, and a fused optimiser.
    """

    def __init__(self, problem: str, file: Path, tight: bool) -> None:
        self.problem, self.tight = PROBLEMS[problem], tight
        self.sizes, self.train, self.validation = tensors(file)

    def epochs(self, config: Mapping[str, Any]) -> Iterator[float]:
        """The metric after each epoch."""
        model = NETWORKS[self.problem.network](self.sizes, config)
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=config["lr"],
            betas=(config["beta1"], 0.999),
            weight_decay=config["weight_decay"],
            fused=True if self.tight else None,
        )
        batches = self._rows if self.tight else self._loader(shuffle=True)
        for _ in range(self.problem.epochs):
            model.train()
            for x, y in batches() if self.tight else batches:
                optimizer.zero_grad()
                _loss(model(x), y).backward()
                optimizer.step()
            yield self._judge(model)

    def _loader(self, shuffle: bool) -> DataLoader[Any]:
        data = self.train if shuffle else self.validation
        return DataLoader(TensorDataset(*data), batch_size=self.problem.batch_size, shuffle=shuffle)

    def _rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.train
        for rows in torch.randperm(len(x)).split(self.problem.batch_size):
            yield x[rows], y[rows]

    @torch.no_grad()
    def _judge(self, model: nn.Module) -> float:
        model.eval()
        x, y = self.validation
        pieces = zip(x.split(JUDGED_AT_ONCE), y.split(JUDGED_AT_ONCE), strict=True)
        total = 0.0
        for inputs, targets in pieces if self.tight else self._loader(shuffle=False):
            scores = model(inputs)
            if self.problem.metric == "error":
                total += float((scores.argmax(1) != targets).sum())
            else:
                total += float(_loss(scores, targets)) * targets.numel()
        return total / y.numel()


def _loss(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of classes (B, C), or of tokens (B, T, C)."""
    return F.cross_entropy(scores.flatten(0, -2), targets.flatten())
