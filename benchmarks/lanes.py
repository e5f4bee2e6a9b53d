"""What lanes cost per trial: seconds of a lane's epoch beside a tight loop and the plain loop, in the same run.

    python -m benchmarks.lanes [--epochs 10] [--lanes 4 16 64]

Digits, AdamW, one thread, an own learning rate and weight decay for each lane: MLP 64-128-128-10 without dropout and
with 0.2, at batches of 32 and 128, a small CNN on the 8x8 images, and a GRU and an LSTM that read their rows. *tight*
is what an expert writes by hand (`benchmarks.hand_written`), *plain* is `--engine loop`. Each takes its turn, epoch by
epoch; an epoch of K lanes counts as K, once its steps are recorded.
Ratios are medians of the ratios of the same turn: above 1, lanes are faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.hand_written import tight
from rheostat.targets import load_target
from rheostat.train.lanes import Lanes
from rheostat.train.loop import Training
from rheostat.train.program import Program
from rheostat.train.task import Task
from rheostat.types import Config, Job


class CNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(x.view(-1, 1, 8, 8)).relu(), 2)  # (B, 16, 4, 4)
        x = F.max_pool2d(self.second(x).relu(), 2)  # (B, 32, 2, 2)
        return self.head(x.flatten(1))


class Recurrent(nn.Module):
    """Reads an image row by row."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body, self.head = kind(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.view(-1, 8, 8))[0][:, -1])


def mlp(dropout: float) -> nn.Module:
    parts: list[nn.Module] = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*parts, *([nn.Dropout(dropout)] if dropout else []), nn.Linear(128, 10))


WARM = 2  # epochs; the second records the steps of lanes, which is not counted

CASES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp, batch 32": (lambda: mlp(0.0), 32),
    "mlp, batch 128": (lambda: mlp(0.0), 128),
    "mlp with dropout, batch 32": (lambda: mlp(0.2), 32),
    "cnn 8x8, batch 32": (CNN, 32),
    "gru 64, batch 32": (lambda: Recurrent(nn.GRU), 32),
    "lstm 64, batch 32": (lambda: Recurrent(nn.LSTM), 32),
}


def seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def trainings(task: Task, batch: int, lanes: int) -> list[Training]:
    configs = [
        Config(lr=1e-3 * (1 + k / lanes), weight_decay=1e-4 * k, optimizer="adamw", batch_size=batch)
        for k in range(lanes)
    ]
    return [Training(task, Job(k, config, k, 10**6, 10**6)) for k, config in enumerate(configs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lanes", type=int, nargs="+", default=[4, 16, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_target("digits").task
    assert isinstance(data.train, tuple) and isinstance(data.validation, tuple)
    train, validation = (data.train[0], data.train[1]), (data.validation[0], data.validation[1])
    for name, (build, batch) in CASES.items():
        task = Task(lambda config, build=build: build(), train, validation, device="cpu")
        for lanes in options.lanes:
            group, (alone,) = trainings(task, batch, lanes), trainings(task, batch, 1)
            together = Lanes(group, Program(group[0].model, group[0].loss_function, record_after=0.0))
            hand_written = tight(train, validation, build(), batch)
            turns = []
            for _ in range(options.epochs + WARM):
                one = seconds(hand_written)
                plain = seconds(alone.train_epoch)
                turns.append((one, plain, seconds(together.train_epoch) / lanes))
            over_tight = statistics.median(one / lane for one, _, lane in turns[WARM:])
            over_plain = statistics.median(plain / lane for _, plain, lane in turns[WARM:])
            milliseconds = 1000 * statistics.median(lane for *_, lane in turns[WARM:])
            print(
                f"{name:28} K={lanes:3}   {milliseconds:6.2f} ms a lane's epoch   "
                f"{over_tight:5.2f} x tight   {over_plain:5.2f} x plain loop",
                flush=True,
            )


if __name__ == "__main__":
    main()
