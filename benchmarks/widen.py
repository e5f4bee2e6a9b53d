"""From a space that lacks the best learning rate: does `--widen` find its way out, and what does that cost?

    python -m benchmarks.widen [--tasks digits,breast_cancer,fashion] [--datasets FOLDER] [--seeds 5] [--trials 80]
        [--epochs 20] [--side above,below] [--candidates 150] [--json FILE]

A perceptron is trained by plain gradient descent; its learning rate, batch size, width and weight decay are tuned for
the validation loss. First the oracle: the default tuner searches a generous space for long, and the best few of its
configurations are repeated with other seeds; the lowest mean is the oracle, and its learning rate the optimum. Then
each arm has the same number of trials, and the table says after how many epochs, all trials together, any epoch of any
trial was within 5 % of the oracle:

    grid    the article's five learning rates 1e-1 ... 1e-5, all else at its likeliest value
    plain   the default tuner in a space of three decades, of which the nearest end is a decade from the optimum
    widen   the same with `--widen`
    good    the default tuner in a space of three decades around the optimum

`above`: the optimum lies above the space; `below`: beneath it, where many trials diverge. An arm that does not get
there counts as having taken longer than all its epochs. Wanted: widen within 1.5 times of good, where grid and plain
fail. Fashion-MNIST (a subset of 6,000 images) needs `--datasets`, the folder that holds fashion-mnist.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rheostat.models.mlp import MLP
from rheostat.space import Float, Int, Space
from rheostat.study import Study
from rheostat.targets import load_target
from rheostat.train.task import Task
from rheostat.types import Config, Notice, Snapshot, Status

WITHIN = 1.05  # times the oracle
GRID = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
FINALISTS, REPEATS = 8, 5  # of the oracle
ARMS = ("grid", "plain", "widen", "good")
SIDES = ("above", "below")


@dataclass
class Race:
    """A watcher that notes after how many epochs the target was reached; `best` is the lowest value of all."""

    target: float
    reached: int | None = None
    best: float = math.inf
    epochs: int = 0

    def due(self) -> bool:
        return True

    def update(self, snapshot: Snapshot) -> None:
        self.epochs = snapshot.epochs
        self.best = min(self.best, min((trial.best for trial in snapshot.trials), default=math.inf))
        if self.reached is None and self.best <= self.target:
            self.reached = snapshot.epochs

    def note(self, notice: Notice) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Oracle:
    value: float
    lr: float


@dataclass(frozen=True)
class Run:
    task: str
    side: str
    arm: str
    seed: int
    reached: int | None  # epochs
    epochs: int
    best: float
    space: str


def task_of(name: str, folder: Path | None) -> Task:
    """A task whose network is a perceptron and whose metric is the validation loss."""
    task = _fashion(folder) if name == "fashion" else load_target(name).task
    return replace(task, metric="val_loss", direction="minimize", observe=False)


def _fashion(folder: Path | None) -> Task:
    from benchmarks.live.problems import PROBLEMS

    if folder is None:
        raise SystemExit("fashion needs --datasets, the folder that holds fashion-mnist.")
    arrays = PROBLEMS["fashion"].read(folder)
    x, y, vx, vy = (torch.as_tensor(arrays[name]) for name in ("x", "y", "vx", "vy"))
    x, y, vx, vy = x[:5000].flatten(1), y[:5000], vx[:1000].flatten(1), vy[:1000]
    return Task(
        lambda config: MLP(inputs=x.shape[1], outputs=10, layers=config["layers"], units=config["units"]),
        (x, y),
        (vx, vy),
        name="fashion",
    )


def space(lr: Float | float, **fixed: Any) -> Space:
    return Space(
        {
            "lr": lr,
            "batch_size": Int(16, 128, log=True, prior=32),
            "units": Int(16, 256, log=True, prior=64),
            "weight_decay": Float(1e-6, 1e-2, log=True, prior=1e-4),
            "optimizer": "sgd",
            "layers": 2,
            **fixed,
        }
    )


def find_oracle(task: Task, candidates: int, epochs: int, seed: int = 0) -> Oracle:
    """The lowest mean validation loss of repeats, and the learning rate that gave it."""
    found = _trained(task, space(Float(1e-3, 10.0, log=True)), candidates, epochs, seed)
    best = sorted(found, key=lambda pair: pair[1])[:FINALISTS]
    means = []
    for config, _ in best:
        repeats = [_trained(task, Space(dict(config)), 1, epochs, 100 + i)[0][1] for i in range(REPEATS)]
        means.append((statistics.mean(repeats), config))
    value, config = min(means, key=lambda pair: pair[0])
    return Oracle(value, float(config["lr"]))


def _trained(task: Task, where: Space, trials: int, epochs: int, seed: int) -> list[tuple[Config, float]]:
    with tempfile.TemporaryDirectory() as folder:
        study = Study("oracle", where, metric=task.metric, seed=seed, storage=Path(folder) / "s.db")
        how: dict[str, Any] = {} if len(where) else {"search": "random", "schedule": "fifo"}
        study.train(task, trials=trials, epochs=epochs, progress=Race(0.0), **how, **ALONE)
        bad = (Status.INFEASIBLE, Status.FAILED)
        return [(t.config, math.inf if t.value is None or t.status in bad else t.value) for t in study.trials]


ALONE: Mapping[str, Any] = {"workers": 1, "engine": "loop"}


def run(task: Task, arm: str, side: str, oracle: Oracle, trials: int, epochs: int, seed: int) -> Run:
    up = side == "above"
    bad = Float(oracle.lr * (1e-4 if up else 10.0), oracle.lr * (0.1 if up else 1e4), log=True)
    good = Float(oracle.lr * 10**-1.5, oracle.lr * 10**1.5, log=True)
    race = Race(WITHIN * oracle.value)
    with tempfile.TemporaryDirectory() as folder:
        where = space(good if arm == "good" else bad)
        if arm == "grid":
            where = Space({**space(GRID[0]).likely(), "lr": Float(GRID[-1], GRID[0], log=True)})
        study = Study("race", where, metric=task.metric, seed=seed, storage=Path(folder) / "s.db")
        if arm == "grid":
            for lr in GRID:
                study.enqueue({**where.likely(), "lr": lr})
            study.train(task, trials=len(GRID), epochs=epochs, search="random", schedule="fifo", progress=race, **ALONE)
        else:
            study.train(task, trials=trials, epochs=epochs, widen=arm == "widen", progress=race, **ALONE)
        part = study.space["lr"]
        assert isinstance(part, Float)
        words = f"{part.low:.2g} to {part.high:.2g}"
    return Run(task.name, side, arm, seed, race.reached, race.epochs, race.best, words)


def table(runs: Sequence[Run], oracles: Mapping[str, Oracle]) -> str:
    """Medians over seeds; an arm that does not get there has taken longer than all its epochs."""
    lines = [f"{'task':<14} {'side':<6} {'arm':<6} {'reached':>8} {'epochs':>7} {'of good':>8} {'best/oracle':>12}  lr"]
    for task in oracles:
        for side in SIDES:
            epochs: dict[str, float] = {}
            for arm in reversed(ARMS):
                mine = [r for r in runs if (r.task, r.side, r.arm) == (task, side, arm)]
                if not mine:
                    continue
                taken = statistics.median(math.inf if r.reached is None else r.reached for r in mine)
                epochs[arm] = taken
                ratio = taken / epochs.get("good", math.nan) if math.isfinite(taken) else math.inf
                best = statistics.median(r.best for r in mine) / oracles[task].value
                lines.append(
                    f"{task:<14} {side:<6} {arm:<6} {sum(r.reached is not None for r in mine):>4}/{len(mine):<3} "
                    f"{taken:>7.0f} {ratio:>8.2f} {best:>12.3f}  {mine[0].space}"
                )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="digits,breast_cancer")
    parser.add_argument("--datasets", type=Path)
    parser.add_argument("--candidates", type=int, default=150, help="trials of the oracle")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--side", default="above,below")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs: list[Run] = []
    oracles: dict[str, Oracle] = {}
    for name in options.tasks.split(","):
        task = replace(task_of(name, options.datasets), name=name)
        oracles[name] = oracle = find_oracle(task, options.candidates, options.epochs)
        show(f"{name}: oracle {oracle.value:.4g} at lr {oracle.lr:.3g}")
        for side in options.side.split(","):
            for seed in range(options.seeds):
                for arm in ARMS:
                    runs.append(run(task, arm, side, oracle, options.trials, options.epochs, seed))
                    show(f"  {runs[-1]}")
    show(table(runs, oracles))
    if options.json:
        options.json.write_text(
            json.dumps({"runs": [vars(r) for r in runs], "oracles": {n: vars(o) for n, o in oracles.items()}})
        )


if __name__ == "__main__":
    main()
