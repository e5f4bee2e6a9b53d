"""The training loop's speed: examples per second beside a typical and a tight loop in plain torch.

    python -m benchmarks.loop [--epochs 40] [--threads 1]

Digits, MLP 64-128-128-10, batch 32, Adam. *typical* is PyTorch's own quickstart: a DataLoader for training and one
for validation, Adam as it comes, `loss.item()` for the running loss. *tight* is what an expert writes by hand: index
a permutation, fused Adam, no `.item()`, validation in one batch. *rheostat* is the loop that trains every trial, with
its guard against NaN, its random state and its reports; *saved* adds the checkpoint that a study writes after each
epoch. The loops take turns, epoch by epoch. Figures are medians over the epochs, and ratios medians of the ratios of
the same turn: for the training alone, and for training with validation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from rheostat.targets import load_target
from rheostat.train.loop import Training
from rheostat.train.task import Task
from rheostat.types import Config, Job

BATCH, LR = 32, 1e-3


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


Epoch = Callable[[], float]  # trains and validates; gives the seconds of the training alone


def typical(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> Epoch:
    model = network()
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    train_loader = DataLoader(TensorDataset(*train), batch_size=BATCH, shuffle=True)
    validation_loader = DataLoader(TensorDataset(*validation), batch_size=BATCH)

    def epoch() -> float:
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
        return seconds

    return epoch


def tight(
    train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], model: nn.Module | None = None, batch: int = BATCH
) -> Epoch:
    model = model or network()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    x, y = train

    def epoch() -> float:
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
            (output.argmax(1) != validation[1]).float().mean().item()
        return seconds

    return epoch


def ours(task: Task, save_to: Path | None = None) -> Epoch:
    config = Config(lr=LR, optimizer="adam", batch_size=BATCH)
    training = Training(task, Job(0, config, seed=0, until_epoch=10**6, max_epochs=10**6))

    def epoch() -> float:
        report = training.train_epoch()[-1]
        if save_to is not None:
            training.reports = training.reports[-20:]  # as many as a trial has, however long the benchmark
            training.save(save_to)
        return training.batches.examples / report.metrics["examples_per_second"]

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits = load_target("digits", device="cpu").task
    assert isinstance(digits.train, tuple) and isinstance(digits.validation, tuple)
    train, validation = (digits.train[0], digits.train[1]), (digits.validation[0], digits.validation[1])
    task = Task(lambda config: network(), train, validation, metrics=("error",), device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        loops = {
            "typical": typical(train, validation),
            "tight": tight(train, validation),
            "rheostat": ours(task),
            "rheostat, saved": ours(task, Path(folder)),
        }
        alone: dict[str, list[float]] = {name: [] for name in loops}
        whole: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(options.epochs + 3):
            for name, run in loops.items():
                start = time.perf_counter()
                seconds = run()
                if turn >= 3:  # warm
                    alone[name].append(seconds)
                    whole[name].append(time.perf_counter() - start)
    for title, measured in (("training alone", alone), ("with validation", whole)):
        print(f"{title:<18}{'examples/s':>12}{'against typical':>17}{'against tight':>15}")
        for name in loops:
            rate = len(train[0]) / statistics.median(measured[name])
            ratios = [
                statistics.median(other / own for other, own in zip(measured[base], measured[name], strict=True))
                for base in ("typical", "tight")
            ]
            print(f"{name:<18}{rate:>12,.0f}{ratios[0]:>17.2f}{ratios[1]:>15.2f}")


if __name__ == "__main__":
    main()
