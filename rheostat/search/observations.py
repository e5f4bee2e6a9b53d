"""The trials of a history as arrays: where each lies in the unit cube, and what it is worth.

Falkner, Klein and Hutter 2018, *BOHB: robust and efficient hyperparameter optimization at scale*, ICML, section 4:
trials that were stopped early are compared at the largest budget at which enough of them were seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SpaceError
from rheostat.space import Space
from rheostat.types import Config, History, Status, TrialRecord

ENDLESS = 10**9  # the epochs of a trial that would keep its value
PENDING, LEFT_OUT = 0, -1  # instead of epochs

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Observations:
    """Trials that say something of the space, in order of number; cancelled ones and those outside it are left out.

    `trials`: (n,), their places in the history. `points`: (n, len(space)), in the unit cube, NaN where not active.
    `values`: (n,), the lowest value until `epoch`, or until where the trial came; infinity where it diverged or failed.
    `epochs`: (n,), how far that is, at most `epoch`. `pending`: (m, len(space)), the points of trials that have no
    value yet.
    """

    trials: NDArray[np.intp]
    points: Array
    values: Array
    epochs: NDArray[np.int64]
    epoch: int
    pending: Array

    def __len__(self) -> int:
        return len(self.values)

    def order(self) -> NDArray[np.int64]:
        """The indices from the best trial to the worst: those that came furthest first, diverged ones last.

        Of equal ones the older comes first.
        """
        return np.lexsort((self.values, -self.epochs, np.isinf(self.values)))


class Observer:
    """Reads histories of a space. What it keeps only saves the time to read the same trials again."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._trials: tuple[TrialRecord, ...] = ()
        self._epoch = 0  # that of `_values`
        self._points = np.empty((0, len(space)))
        self._inside = np.empty(0, dtype=np.bool_)
        self._levels = np.empty(0, dtype=np.int64)  # the epochs after which a value is known
        self._trained = np.empty(0, dtype=np.int64)  # the epochs of those that came to no bad end
        self._values = np.empty(0)

    def observe(self, history: History, enough: int) -> Observations:
        """Compared at the largest epoch at which at least `enough` trials have a finite value.

        Trials that are done or converged have one at every later epoch. Where fewer than `enough` trials have any,
        the epoch is that of the one that came least far.
        """
        n = len(history.trials)
        changed = self._take(history.trials)
        levels = np.where(self._inside[:n], self._levels[:n], LEFT_OUT)
        good = (levels > PENDING) & (self._trained[:n] > 0)
        furthest = np.sort(levels[good])[::-1][:enough]
        epoch = int(min(furthest[-1], self._trained[:n][good].max())) if len(furthest) else 1
        for i in changed if epoch == self._epoch else range(n):
            self._values[i] = _worth(history.trials[i], epoch)
        self._epoch = epoch
        seen = levels > PENDING
        return Observations(
            trials=np.flatnonzero(seen),
            points=self._points[:n][seen],
            values=self._values[:n][seen],
            epochs=np.minimum(levels[seen], epoch),
            epoch=epoch,
            pending=self._points[:n][levels == PENDING],
        )

    def _take(self, trials: tuple[TrialRecord, ...]) -> list[int]:
        """Take in the trials that are not those of the last history; their indices."""
        old, self._trials = self._trials, trials
        changed = [i for i, (one, other) in enumerate(zip(old, trials, strict=False)) if one is not other]
        changed += range(len(old), len(trials))
        spare = 2 * len(trials) - len(self._levels)
        if len(trials) > len(self._levels):
            self._points = np.pad(self._points, ((0, spare), (0, 0)))
            self._inside, self._levels = np.pad(self._inside, (0, spare)), np.pad(self._levels, (0, spare))
            self._trained, self._values = np.pad(self._trained, (0, spare)), np.pad(self._values, (0, spare))
        for i in changed:
            if i >= len(old) or old[i].config is not trials[i].config:
                point = self._encode(trials[i].config)
                self._inside[i] = point is not None
                self._points[i] = math.nan if point is None else point
            self._levels[i] = _level(trials[i])
            self._trained[i] = 0 if _is_bad(trials[i]) else trials[i].epochs
        return changed

    def _encode(self, config: Config) -> Array | None:
        """None for a configuration that the space does not hold: it was another when the trial began."""
        try:
            return self.space.encode(dict(self.space.complete(dict(config))))
        except SpaceError:
            return None


def _is_bad(trial: TrialRecord) -> bool:
    if trial.status in (Status.INFEASIBLE, Status.FAILED):
        return True
    return not math.isfinite(trial.values[-1]) if trial.values else trial.status.ended


def _level(trial: TrialRecord) -> int:
    if trial.status is Status.CANCELLED:
        return LEFT_OUT
    if _is_bad(trial) or trial.status in (Status.DONE, Status.CONVERGED):
        return ENDLESS
    return trial.epochs or PENDING


def _worth(trial: TrialRecord, epoch: int) -> float:
    """The lowest value until an epoch; infinity where there is none, or where the trial came to a bad end."""
    if _is_bad(trial):
        return math.inf
    return min(filter(math.isfinite, trial.values[:epoch]), default=math.inf)
