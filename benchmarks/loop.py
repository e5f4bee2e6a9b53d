"""The training loop's speed: examples per second beside a typical and a tight loop in plain torch.

    python -m benchmarks.loop [--epochs 40] [--threads 1]

Digits, MLP 64-128-128-10, batch 32, Adam. *typical* is a DataLoader over a TensorDataset with shuffling and
`loss.item()` in every step, as tutorials write it. *tight* is what an expert writes by hand: index a permutation,
fused Adam, no `.item()`. Every loop validates after every epoch. The loops take turns, epoch by epoch, and each
figure is the median over the epochs; `saved` is our loop with the checkpoint that a study writes after each epoch.
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


def validate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    model.eval()
    with torch.no_grad():
        output = model(x)
        result = F.cross_entropy(output, y).item(), (output.argmax(1) != y).float().mean().item()
    model.train()
    return result


def typical(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> Callable[[], object]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    loader = DataLoader(TensorDataset(*train), batch_size=BATCH, shuffle=True)

    def epoch() -> object:
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        return total, validate(model, *validation)

    return epoch


def tight(train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor]) -> Callable[[], object]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    x, y = train

    def epoch() -> object:
        total = torch.zeros(())
        order = torch.randperm(len(x))
        for start in range(0, len(x), BATCH):
            index = order[start : start + BATCH]
            loss = F.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(index)
        return total.item(), validate(model, *validation)

    return epoch


def ours(task: Task, save_to: Path | None = None) -> Callable[[], object]:
    config = Config(lr=LR, optimizer="adam", batch_size=BATCH)
    training = Training(task, Job(0, config, seed=0, until_epoch=10**6, max_epochs=10**6))

    def epoch() -> object:
        reports = training.train_epoch()
        if save_to is not None:
            training.reports = training.reports[-20:]  # as many as a trial has, however long the benchmark
            training.save(save_to)
        return reports

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
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        for epoch in range(options.epochs + 3):
            for name, run in loops.items():
                start = time.perf_counter()
                run()
                if epoch >= 3:  # warm
                    seconds[name].append(time.perf_counter() - start)
    print(f"{'loop':<18}{'examples/s':>12}{'against typical':>17}{'against tight':>15}")
    for name in loops:
        rate = len(train[0]) / statistics.median(seconds[name])
        ratios = [
            statistics.median(other / own for other, own in zip(seconds[base], seconds[name], strict=True))
            for base in ("typical", "tight")
        ]
        print(f"{name:<18}{rate:>12,.0f}{ratios[0]:>17.2f}{ratios[1]:>15.2f}")


if __name__ == "__main__":
    main()
