"""What observing costs: python -m benchmarks.vitals [--pairs N]

The same run with and without the looks inside (`Task.observe`), in turn; the median of the ratios of processor time, as
other work on the machine disturbs that least. As single trials and as 16 lanes; 20 epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from rheostat.train.base import Runner
from rheostat.train.lane_runner import LaneRunner
from rheostat.train.loop import TaskRunner
from rheostat.train.task import Task
from rheostat.types import Config, Job, Report

EPOCHS, EXAMPLES, LANES = 20, 1500, 16


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.output = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.recurrent(x)[0][:, -1])  # type: ignore[no-any-return]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


NETWORKS = {"MLP": mlp, "CNN": cnn, "LSTM": LSTM}


def task(name: str) -> Task:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32).view(-1, 8, 8) / 16, torch.tensor(digits.target)
    train, validation = (x[:EXAMPLES], y[:EXAMPLES]), (x[EXAMPLES:], y[EXAMPLES:])
    return Task(lambda config: NETWORKS[name](), train, validation, device="cpu")


def seconds(task: Task, lanes: int) -> float:
    """Processor seconds of training, with checkpoints and validation, as in a study."""
    config = Config(lr=1e-3, batch_size=32, optimizer="adam")
    jobs: Sequence[Job] = [Job(number, config, number, EPOCHS, EPOCHS) for number in range(lanes)]
    reports: list[Report] = []
    with tempfile.TemporaryDirectory() as folder:
        runner: Runner = TaskRunner(task, Path(folder)) if lanes == 1 else LaneRunner(task, Path(folder), lanes)
        began = time.process_time()
        while jobs:
            ended = {event.trial for event in runner.run(jobs, reports.append)}
            jobs = [job for job in jobs if job.trial not in ended]
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, LANES], help="trials at once")
    given = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "trials", "seconds", "observed", "cost, median", "each pair")
    for name in NETWORKS:
        for lanes in given.lanes:
            on = task(name)
            off = replace(on, observe=False)
            seconds(off, lanes)
            pairs = []
            for number in range(given.pairs):
                order = (off, on) if number % 2 else (on, off)
                took = {one.observe: seconds(one, lanes) for one in order}
                pairs.append((took[False], took[True]))
            costs = [watched / plain - 1 for plain, watched in pairs]
            table.add_row(
                name,
                str(lanes),
                f"{statistics.median(p for p, _ in pairs):.2f}",
                f"{statistics.median(w for _, w in pairs):.2f}",
                f"{100 * statistics.median(costs):+.1f} %",
                " ".join(f"{100 * cost:+.1f}" for cost in costs),
            )
    Console().print(table)


if __name__ == "__main__":
    main()
