"""Training loops as people write them, without anything of Rheostat: what it is compared with.

*typical* is PyTorch's own quickstart: a DataLoader for training and one for validation, the optimiser as it comes,
`loss.item()` for the running loss. *tight* is what an expert writes by hand: index a permutation, a fused optimiser,
no `.item()`, validation in one batch. Each gives a function that trains and validates an epoch, and tells the seconds
of the training alone and the validation error.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

BATCH, LR = 32, 1e-3

Pair = tuple[Tensor, Tensor]
Epoch = Callable[[], tuple[float, float]]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def typical(train: Pair, validation: Pair, lr: float = LR, weight_decay: float = 0.0) -> Epoch:
    model = network()
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    train_loader = DataLoader(TensorDataset(*train), batch_size=BATCH, shuffle=True)
    validation_loader = DataLoader(TensorDataset(*validation), batch_size=BATCH)

    def epoch() -> tuple[float, float]:
        start = time.perf_counter()
        model.train()
        running = 0.0
        for x, y in train_loader:
            loss = loss_function(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            running += loss.item()
        seconds = time.perf_counter() - start
        model.eval()
        wrong, total = 0.0, 0.0
        with torch.no_grad():
            for x, y in validation_loader:
                output = model(x)
                total += loss_function(output, y).item()
                wrong += (output.argmax(1) != y).float().sum().item()
        return seconds, wrong / len(validation[1])

    return epoch


def tight(
    train: Pair,
    validation: Pair,
    model: nn.Module | None = None,
    batch: int = BATCH,
    lr: float = LR,
    weight_decay: float = 0.0,
) -> Epoch:
    model = model or network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    x, y = train

    def epoch() -> tuple[float, float]:
        start = time.perf_counter()
        model.train()
        total = torch.zeros(())
        order = torch.randperm(len(x))
        for first in range(0, len(x), batch):
            index = order[first : first + batch]
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        total.item()
        seconds = time.perf_counter() - start
        model.eval()
        with torch.no_grad():
            output = model(validation[0])
            F.cross_entropy(output, validation[1]).item()
            error = (output.argmax(1) != validation[1]).float().mean().item()
        return seconds, error

    return epoch
