"""The user's own loop: what it reports, how it pauses and continues, and what happens when it fails."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rheostat.errors import CheckpointError, Infeasible
from rheostat.train.objective import ObjectiveRunner, Trial
from rheostat.types import UNLIMITED, Config, Job, Outcome, Report, Status


def job(until: int, max_epochs: int = 6, **config: Any) -> Job:
    return Job(4, Config({"lr": 0.1, **config}), seed=11, until_epoch=until, max_epochs=max_epochs)


def run(
    objective: Callable[[Trial], Any], root: Path, *jobs: Job, direction: str = "minimize"
) -> tuple[list[Report], Outcome]:
    reports: list[Report] = []
    for each in jobs:  # a fresh runner each time, as in a fresh process
        (outcome,) = ObjectiveRunner(objective, "val_loss", direction, root).run([each], reports.append)
    return reports, outcome


def trains(with_model: bool, calls: list[int]) -> Callable[[Trial], None]:
    def objective(trial: Trial) -> None:
        calls.append(trial.number)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=trial.lr, momentum=0.9)
        decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        kept = {"model": model, "optimizer": optimizer, "others": {"decay": decay}} if with_model else {}
        for _ in trial.epochs(6, **kept):  # type: ignore[arg-type]
            loss = model(torch.randn(8, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            trial.report(train_loss=loss.item())
            trial.report(val_loss=loss.item(), lr=decay.get_last_lr()[0])

    return objective


def values(reports: list[Report]) -> dict[int, dict[str, float]]:
    result: dict[int, dict[str, float]] = {}
    for report in reports:
        assert result.setdefault(report.epoch, report.metrics) == report.metrics  # a repeated report is the same
    return result


@pytest.mark.parametrize("with_model", [True, False])
def test_a_paused_loop_continues_exactly(tmp_path: Path, with_model: bool) -> None:
    calls: list[int] = []
    whole, outcome = run(trains(with_model, calls), tmp_path / "whole", job(6))
    assert outcome == Outcome(4, Status.DONE, 6) and len(calls) == 1
    torch.rand(7)
    parts, outcome = run(trains(with_model, calls), tmp_path / "parts", job(1), job(4), job(6))
    assert outcome.status is Status.DONE and len(calls) == 4
    assert values(parts) == values(whole) and list(values(whole)) == [1, 2, 3, 4, 5, 6]


def test_a_pause_is_reported_as_one(tmp_path: Path) -> None:
    _, outcome = run(trains(True, []), tmp_path, job(2))
    assert outcome == Outcome(4, Status.PAUSED, 2)


def test_other_objects_on_resume_are_refused_in_words(tmp_path: Path) -> None:
    run(trains(True, []), tmp_path, job(2))

    def other(trial: Trial) -> None:
        model = nn.Linear(3, 1)
        for _ in trial.epochs(model=model):
            trial.report(val_loss=1.0)

    with pytest.raises(CheckpointError, match="saved with.*decay.*continued with"):
        run(other, tmp_path, job(4))


def test_a_loop_without_epochs_reports_one_by_one(tmp_path: Path) -> None:
    def objective(trial: Trial) -> None:
        for epoch in range(6):
            trial.report(step=epoch * 10 + 5, batch_loss=0.5)
            trial.report(val_loss=1 / (epoch + 1))

    reports, outcome = run(objective, tmp_path, job(6))
    assert outcome.status is Status.DONE
    assert [(r.epoch, r.step, r.epoch_end) for r in reports[:3]] == [(0, 5, False), (1, 1, True), (1, 15, False)]
    _, outcome = run(objective, tmp_path, job(3))
    assert outcome == Outcome(4, Status.PAUSED, 3)


def test_a_returned_value_is_a_report(tmp_path: Path) -> None:
    reports, outcome = run(lambda trial: trial.lr * 2, tmp_path, job(UNLIMITED, UNLIMITED))
    assert reports == [Report(4, 1, 1, {"val_loss": 0.2})] and outcome.status is Status.DONE


def test_a_loop_that_ends_early_has_converged(tmp_path: Path) -> None:
    def objective(trial: Trial) -> None:
        for epoch in trial.epochs():
            trial.report(val_loss=1.0)
            if epoch == 2:
                break

    reports, outcome = run(objective, tmp_path, job(6))
    assert outcome.status is Status.CONVERGED and outcome.epoch == 3 and len(reports) == 3


def test_the_best_weights_follow_the_direction(tmp_path: Path) -> None:
    def objective(trial: Trial) -> None:
        model = nn.Linear(1, 1, bias=False)
        for epoch in trial.epochs(model=model):
            nn.init.constant_(model.weight, float(epoch))
            trial.report(val_loss=[3.0, 1.0, 2.0, 4.0, 0.0, 2.0][epoch])

    from rheostat.train import checkpoint

    for direction, best in (("minimize", 5), ("maximize", 4)):
        run(objective, tmp_path / direction, job(6), direction=direction)
        epoch, weights = checkpoint.load_best(checkpoint.trial_folder(tmp_path / direction, 4))
        assert epoch == best and weights["weight"].item() == best - 1


def raising(error: BaseException) -> Callable[[Trial], None]:
    def objective(trial: Trial) -> None:
        trial.report(val_loss=1.0)
        raise error

    return objective


@pytest.mark.parametrize(
    ("objective", "status", "words"),
    [
        (raising(ValueError("shapes")), Status.FAILED, "ValueError: shapes"),
        (raising(MemoryError()), Status.INFEASIBLE, "out of memory"),
        (raising(Infeasible("too wide")), Status.INFEASIBLE, "too wide"),
        (lambda trial: trial.report(val_loss=math.nan), Status.INFEASIBLE, "val_loss = nan after epoch 1"),
        (lambda trial: math.inf, Status.INFEASIBLE, "val_loss = inf"),
        (lambda trial: None, Status.FAILED, "without 'val_loss'"),
        (lambda trial: trial.report(val_los=1.0), Status.FAILED, "reported: val_los"),
        (lambda trial: trial.report(val_loss="low"), Status.FAILED, "give a number"),
        (lambda trial: "low", Status.FAILED, "give a number"),
        (lambda trial: trial.learning_rate, Status.FAILED, "Unknown hyperparameter 'learning_rate'"),
        (lambda trial: trial["units"], Status.FAILED, "Unknown hyperparameter 'units'"),
    ],
)
def test_faults_end_the_trial_in_words(tmp_path: Path, objective: Any, status: Status, words: str) -> None:
    _, outcome = run(objective, tmp_path, job(6))
    assert outcome.status is status and words in outcome.reason
    assert (status is Status.FAILED) == ("Traceback" in outcome.detail)


def test_global_random_numbers_are_seeded_inside_and_left_alone_outside(tmp_path: Path) -> None:
    import random

    import numpy as np

    drawn: list[tuple[float, float, float]] = []

    def objective(trial: Trial) -> float:
        drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
        return 1.0

    random.seed(1)
    expected = random.random()
    random.seed(1)
    run(objective, tmp_path, job(6))
    assert random.random() == expected
    run(objective, tmp_path, job(6))
    assert drawn[0] == drawn[1]
