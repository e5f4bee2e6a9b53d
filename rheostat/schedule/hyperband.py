"""Hyperband, asynchronously: Li et al. 2018, *Hyperband: a novel bandit-based approach to hyperparameter
optimization*, JMLR 18; its brackets run side by side by the rule of ASHA (Li et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rheostat.schedule.asha import promotions
from rheostat.schedule.fifo import check_at_least, check_limits, new_configs
from rheostat.search.base import Searcher
from rheostat.types import Assignment, History, Start, TrialRecord


@dataclass(frozen=True, slots=True)
class Bracket:
    """Trials of one bracket pause at `rungs`; in one turn of the pattern it gets `trials` of them."""

    trials: int
    rungs: tuple[int, ...]


class Hyperband:
    """Hedges how soon to judge a trial: several brackets, each successive halving with another grace period.

    The brackets get trials in the proportions of the paper, mixed as evenly as they go; which bracket a trial
    is in depends on its number alone. At most `trials` are started (None: no limit); one turn through all
    brackets takes the sum of their `trials`.

    Raises SettingError for a `reduction_factor` below 2, or less than one trial or epoch.
    """

    adaptive = True

    def __init__(self, searcher: Searcher, trials: int | None, max_epochs: int, reduction_factor: int = 3) -> None:
        check_limits(trials, max_epochs)
        check_at_least("reduction_factor", reduction_factor, 2)
        self.searcher = searcher
        self.trials = trials
        self.max_epochs = max_epochs
        self.reduction_factor = reduction_factor
        self.brackets = brackets(max_epochs, reduction_factor)
        turn = [((j + 0.5) / b.trials, i) for i, b in enumerate(self.brackets) for j in range(b.trials)]
        self._pattern = [i for _, i in sorted(turn)]

    def bracket(self, number: int) -> Bracket:
        """The bracket of the trial with this number."""
        return self.brackets[self._bracket(number)]

    def _bracket(self, number: int) -> int:
        return self._pattern[number % len(self._pattern)]

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        members: list[list[TrialRecord]] = [[] for _ in self.brackets]
        for trial in history.trials:
            members[self._bracket(trial.number)].append(trial)
        promoted = [
            job
            for bracket, trials in zip(self.brackets, members, strict=True)
            for job in promotions(trials, bracket.rungs, self.reduction_factor)
        ]
        promoted = sorted(promoted, key=lambda job: -job.until_epoch)[:free]
        configs = new_configs(self.searcher, history, self.trials, free - len(promoted), rng)
        numbered = enumerate(configs, start=len(history.trials))
        return [*promoted, *(Start(config, self.bracket(number).rungs[0]) for number, config in numbered)]


def brackets(max_epochs: int, factor: int) -> tuple[Bracket, ...]:
    """Hyperband's Algorithm 1, from the bracket that judges soonest to the one that trains every trial fully.

    >>> [(bracket.trials, bracket.rungs[0]) for bracket in brackets(81, 3)]
    [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]
    """
    rungs = [max_epochs]
    while rungs[0] >= factor:
        rungs.insert(0, max_epochs // factor ** len(rungs))
    s_max = len(rungs) - 1
    return tuple(
        Bracket(trials=-(-(s_max + 1) * factor**s // (s + 1)), rungs=tuple(rungs[s_max - s :]))
        for s in range(s_max, -1, -1)
    )
