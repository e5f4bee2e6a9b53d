"""What the evolutionary searchers share: what trials are worth beside each other, and where they lie.

Falkner, Klein and Hutter 2018, *BOHB: robust and efficient hyperparameter optimization at scale*, ICML:
where some trials were stopped early, they are compared at the largest budget at which enough of them were seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SpaceError
from rheostat.search.random import Random
from rheostat.space import Space
from rheostat.types import Config, History, Status, TrialRecord

ATTEMPTS = 100  # draws before what is left of a space counts as rare

Worth = tuple[int, float]  # less is better
NO_GOOD: Worth = 0, math.inf
ENDED_EARLY = (Status.CONVERGED, Status.DONE)  # these would have kept their value


def common_epoch(trials: Iterable[TrialRecord], enough: int) -> int:
    """The largest epoch that at least `enough` good trials have reached; 1 where there are not so many."""
    reached = sorted((trial.epochs for trial in trials if not _is_bad(trial)), reverse=True)
    return max(reached[enough - 1], 1) if len(reached) >= enough else 1


def worth(trial: TrialRecord, epoch: int) -> Worth | None:
    """How good a trial is at an epoch, from 1; None where nothing can be said (yet).

    A trial that was trained to the epoch is better than one that was not, since a scheduler chose to train it longer;
    among those that were trained equally long the lower value is better. Trials that diverged, soon or late, and those
    that failed come last.
    """
    if _is_bad(trial):
        return NO_GOOD
    if trial.status is Status.CANCELLED or not trial.values:
        return None
    until = epoch if trial.status in ENDED_EARLY else min(trial.epochs, epoch)
    lowest = min(filter(math.isfinite, trial.values[:until]), default=math.inf)
    return (-until, lowest) if lowest < math.inf else NO_GOOD


def _is_bad(trial: TrialRecord) -> bool:
    if trial.status in (Status.INFEASIBLE, Status.FAILED):
        return True
    return bool(trial.values) and not math.isfinite(trial.values[-1])


class Points:
    """Where configurations lie in the unit cube. What it keeps only saves the time to compute it again."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._points: dict[Config, NDArray[np.float64] | None] = {}

    def __getitem__(self, config: Config) -> NDArray[np.float64] | None:
        """Shape (len(space),), NaN where not active; None where the space, which was changed, no longer holds it."""
        if config not in self._points:
            try:
                self._points[config] = self.space.encode(self.space.complete(config))
            except SpaceError:
                self._points[config] = None
        return self._points[config]


def draw_untried(
    space: Space, history: History, configs: list[Config], n: int, rng: np.random.Generator
) -> list[Config]:
    """Up to `n` configurations from the priors, neither in the history nor among `configs`; fewer in a finite space."""
    begun = len(history.trials)
    found: list[Config] = []
    random, known = Random(space), {trial.config.key() for trial in history.trials} | {c.key() for c in configs}
    for _ in range(ATTEMPTS * max(n, 0)):
        if len(found) == n:
            break
        waiting = (TrialRecord(begun + i, c, Status.WAITING) for i, c in enumerate([*configs, *found]))
        drawn = random.suggest(History((*history.trials, *waiting)), 1, rng)
        if not drawn:
            break
        if drawn[0].key() not in known:
            known.add(drawn[0].key())
            found += drawn
    return found
