"""The median stopping rule.

Golovin et al. 2017, *Google Vizier: a service for black-box optimization*, KDD, section 3.2.1.
"""

from __future__ import annotations

import math
from statistics import median

import numpy as np

from rheostat.schedule.fifo import check_at_least, check_grace, check_limits, new_configs
from rheostat.search.base import Searcher
from rheostat.types import Assignment, Continue, History, Start, Status, Stop, TrialRecord


class Median:
    """Stops a trial whose best value is worse than the median of the others' averages until the same epoch.

    A trial trains `grace_epochs`, then `interval` epochs at a time up to `max_epochs`. Each time it pauses,
    at epoch e, its lowest value so far is compared with the running averages over epochs 1 to e of all other
    trials that trained e epochs; it is stopped if it is strictly worse than their median, and if they are at
    least `min_trials`. (The paper compares with completed trials only, and so stops none before some are
    complete.) Trials that the user cancelled are not compared with; a trial with a value that is not a
    number has an infinite average.

    Raises SettingError for settings below 1, or `grace_epochs` above `max_epochs`.
    """

    adaptive = True

    def __init__(
        self,
        searcher: Searcher,
        trials: int | None,
        max_epochs: int,
        grace_epochs: int = 1,
        min_trials: int = 3,
        interval: int = 1,
    ) -> None:
        check_limits(trials, max_epochs)
        check_grace(grace_epochs, max_epochs)
        check_at_least("min_trials", min_trials, 1)
        check_at_least("interval", interval, 1)
        self.searcher = searcher
        self.trials = trials
        self.max_epochs = max_epochs
        self.grace_epochs = grace_epochs
        self.min_trials = min_trials
        self.interval = interval

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        assignments: list[Assignment] = []
        averages: dict[int, dict[int, float]] = {}  # epoch -> trial -> running average
        for trial in history.trials:
            if trial.status is not Status.PAUSED or trial.epochs >= self.max_epochs:
                continue
            if free == 0:  # judge the rest when there is room for them, from more that is known
                return assignments
            if trial.epochs not in averages:
                averages[trial.epochs] = running_averages(history.trials, trial.epochs)
            others = [mean for number, mean in averages[trial.epochs].items() if number != trial.number]
            if self._is_worse(trial, others):
                epochs = f"{trial.epochs} epoch{'s' if trial.epochs > 1 else ''}"
                reason = f"worse after {epochs} than the median of {len(others)} other trials"
                assignments.append(Stop(trial.number, reason))
            else:
                until_epoch = max(trial.epochs + self.interval, self.grace_epochs)
                assignments.append(Continue(trial.number, min(until_epoch, self.max_epochs)))
                free -= 1
        configs = new_configs(self.searcher, history, self.trials, free, rng)
        return [*assignments, *(Start(config, self.grace_epochs) for config in configs)]

    def _is_worse(self, trial: TrialRecord, others: list[float]) -> bool:
        if trial.epochs < self.grace_epochs or len(others) < self.min_trials:
            return False
        return trial.best > median(others)


def running_averages(trials: tuple[TrialRecord, ...], epoch: int) -> dict[int, float]:
    """By trial number, the mean value over epochs 1 to `epoch` of each trial that trained so long."""
    averages = {}
    for trial in trials:
        if trial.epochs >= epoch > 0 and trial.status is not Status.CANCELLED:
            mean = sum(trial.values[:epoch]) / epoch
            averages[trial.number] = math.inf if math.isnan(mean) else mean
    return averages
