"""The training loop's speed: examples per second beside a typical and a tight loop in plain torch.

    python -m benchmarks.loop [--epochs 40] [--threads 1]

Digits, MLP 64-128-128-10, batch 32, AdamW without weight decay. *typical* and *tight* are explained in
`benchmarks.hand_written`. *rheostat* is the loop that trains every trial, with
its guard against NaN, its random state and its reports; *saved* adds the checkpoint that a study writes after each
epoch. The loops take turns, epoch by epoch. Figures are medians over the epochs, and ratios medians of the ratios of
the same turn: for the training alone, and for training with validation.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.hand_written import BATCH, LR, Epoch, network, tight, typical
from rheostat.targets import load_target
from rheostat.train.loop import Training
from rheostat.train.task import Task
from rheostat.types import Config, Job


def ours(task: Task, save_to: Path | None = None) -> Epoch:
    config = Config(lr=LR, optimizer="adamw", weight_decay=0.0, batch_size=BATCH)
    training = Training(task, Job(0, config, seed=0, until_epoch=10**6, max_epochs=10**6))

    def epoch() -> float:
        report = training.train_epoch()[-1]
        if save_to is not None:
            training.reports = training.reports[-20:]  # as many as a trial has, however long the benchmark
            training.save(save_to)
        return training.batches.examples / report.metrics["examples_per_second"], report.metrics["val_error"]

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
                seconds, _ = run()
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
