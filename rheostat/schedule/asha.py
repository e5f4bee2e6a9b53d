"""Asynchronous successive halving.

Li et al. 2020, *A system for massively parallel hyperparameter tuning*, MLSys 2.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

import numpy as np

from rheostat.schedule.fifo import check_at_least, check_grace, check_limits, new_configs
from rheostat.search.base import Searcher
from rheostat.types import Assignment, Continue, History, Start, Status, TrialRecord


class ASHA:
    """Trains many trials a little and promotes the best 1/`reduction_factor` of each rung to the next.

    Algorithm 2 of the paper: a free place goes to the best trial that can be promoted, from the highest rung
    downwards; where there is none, to a new trial while fewer than `trials` were started (None: no limit).
    Trials really pause, at `rungs`, and stay paused if they are never promoted.

    The rungs are `grace_epochs` times the powers of `reduction_factor`, and `max_epochs` as the last. As in
    the paper only whole parts are promoted: fewer than `reduction_factor` trials in a rung promote none, and
    it takes `reduction_factor ** (len(rungs) - 1)` trials to be sure that one trains to `max_epochs`.

    Raises SettingError for a `reduction_factor` below 2, other settings below 1, or `grace_epochs` above
    `max_epochs`.

    >>> from rheostat.search.random import Random
    >>> from rheostat.space import Float, Space
    >>> ASHA(Random(Space(lr=Float(0.001, 0.1))), trials=81, max_epochs=81).rungs
    (1, 3, 9, 27, 81)
    """

    adaptive = True

    def __init__(
        self,
        searcher: Searcher,
        trials: int | None,
        max_epochs: int,
        grace_epochs: int = 1,
        reduction_factor: int = 3,
    ) -> None:
        check_limits(trials, max_epochs)
        check_grace(grace_epochs, max_epochs)
        check_at_least("reduction_factor", reduction_factor, 2)
        self.searcher = searcher
        self.trials = trials
        self.max_epochs = max_epochs
        self.reduction_factor = reduction_factor
        self.rungs = rungs(grace_epochs, max_epochs, reduction_factor)

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        return self.within(self.rungs, history, free, rng)

    def within(self, rungs: tuple[int, ...], history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        """What to do where trials are promoted within these rungs alone, the first of `rungs`."""
        promoted = promotions(history.trials, rungs, self.reduction_factor)[:free]
        configs = new_configs(self.searcher, history, self.trials, free - len(promoted), rng)
        return [*promoted, *(Start(config, self.rungs[0]) for config in configs)]


def rungs(grace_epochs: int, max_epochs: int, factor: int) -> tuple[int, ...]:
    """The epochs at which trials pause.

    A rung above the first that lies within a square root of the factor below `max_epochs` is left out:
    pausing at 27 of 30 epochs would save next to nothing, yet cut two thirds of the best.
    """
    rungs = [grace_epochs]
    while rungs[-1] * factor * math.sqrt(factor) <= max_epochs:
        rungs.append(rungs[-1] * factor)
    return (*rungs, max_epochs) if grace_epochs < max_epochs else (max_epochs,)


def promotions(trials: Iterable[TrialRecord], rungs: tuple[int, ...], factor: int) -> list[Continue]:
    """All trials that may continue now, from the highest rung downwards, in each rung the best first.

    A trial is compared in every rung that it has completed, by its best value until there. Of n trials in a
    rung the best n // factor are promoted; of equal ones the older. Beyond what is in the paper:

    - A trial paused on its way to a rung goes on to it, unconditionally and first.
    - An infeasible or failed trial counts as the worst in the rung to which it was on its way.
    - A converged trial would have kept its value: it counts in every rung that it would have reached with it.
    - Trials that the user cancelled do not count.
    """
    entries: list[list[tuple[float, int]]] = [[] for _ in rungs]  # of each rung: values and trials
    paused: dict[int, int] = {}  # trial -> the last rung that it completed
    converged: dict[int, int] = {}  # trial -> the last rung that it was to complete
    unfinished: list[Continue] = []
    for trial in trials:
        status, number, values = trial.status, trial.number, trial.values
        if status is Status.CANCELLED:
            continue
        done = bisect_right(rungs, len(values))
        for rung in range(done):
            entries[rung].append((best_until(values, rungs[rung]), number))
        assigned = bisect_right(rungs, trial.until_epoch) or 1
        if status is Status.PAUSED:
            if done < assigned:
                unfinished.append(Continue(number, rungs[assigned - 1]))
            else:
                paused[number] = done - 1
        elif status is Status.INFEASIBLE or status is Status.FAILED:
            for rung in range(done, assigned):
                entries[rung].append((math.inf, number))
        elif status is Status.CONVERGED or status is Status.DONE:  # a user's loop may be done early
            for rung in range(done, assigned):
                entries[rung].append((best_until(values, len(values)), number))
            converged[number] = max(done, assigned) - 1
    promoted: list[Continue] = []
    for rung, until_epoch in enumerate(rungs[1:]):
        top = sorted(entries[rung])[: len(entries[rung]) // factor]
        rising = []
        for value, number in top:
            if value == math.inf:
                break
            if paused.get(number) == rung:
                rising.append(Continue(number, until_epoch))
            elif number in converged and converged[number] <= rung:
                entries[rung + 1].append((value, number))
        promoted = rising + promoted
    return unfinished + promoted


def best_until(values: tuple[float, ...], epoch: int) -> float:
    """The lowest of the values until this epoch; infinity where the trial has diverged by then.

    The best rather than the last: validation is noisy, and a network is used as it was at its best epoch.
    """
    if epoch == 0 or not math.isfinite(values[epoch - 1]):
        return math.inf
    best = min(values[:epoch])
    return best if math.isfinite(best) else min(filter(math.isfinite, values[:epoch]))
