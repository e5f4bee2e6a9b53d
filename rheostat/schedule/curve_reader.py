"""The learning curves of a history as arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SpaceError
from rheostat.space import Space
from rheostat.types import History, Status, TrialRecord

POINTS = 4  # of a curve that are kept: after all its epochs, and after a half, a quarter and an eighth of them
WORST = 1.5  # what is worse counts as this; 0 is the lowest value so far, 1 a middling one

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curves:
    """What is known of every trial, in order of number. Values are the lowest until an epoch, to be minimised.

    `points`: (n, len(space)), in the unit cube, NaN where not active; all NaN for a configuration that the space does
    not hold. `epochs`: (n,) trained. `until`: (n,), trained or being trained to here. `paused`: (n,), may go on.
    `bad`: (n,), diverged or failed. `knots` and `values`: (n, POINTS), epochs, 0 where there is none, and the lowest
    value until then.
    """

    points: Array
    epochs: NDArray[np.int64]
    until: NDArray[np.int64]
    paused: NDArray[np.bool_]
    bad: NDArray[np.bool_]
    known: NDArray[np.bool_]
    knots: NDArray[np.int64]
    values: Array

    @property
    def lowest(self) -> Array:
        """The lowest value of each trial; infinity where there is none. Shape (n,)."""
        return self.values[:, 0]

    def scale(self) -> tuple[float, float]:
        """The lowest value of all, and how far below a middling trial's it lies. Requires a finite value.

        The middling one is the median of the trials' different lowest values: many may be equal, where training
        does not begin.
        """
        found = np.unique(self.lowest[np.isfinite(self.lowest) & self.known & ~self.bad])
        if not len(found):
            found = np.unique(self.lowest[np.isfinite(self.lowest)])
        low, middle = float(found[0]), float(np.median(found))
        return low, max(middle - low, 1e-9 * max(abs(low), 1e-3))


class CurveReader:
    """Reads histories of a space. What it keeps only saves the time to read the same trials again."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._trials: tuple[TrialRecord, ...] = ()
        self._room = 0
        self._grow(64)

    def read(self, history: History) -> Curves:
        trials = history.trials
        n = len(trials)
        if n > self._room:
            self._grow(2 * n)
        old = self._trials
        for i, trial in enumerate(trials):
            if i >= len(old) or old[i] is not trial:
                self._take(i, trial, i < len(old) and old[i].config is trial.config)
        self._trials = trials
        return Curves(
            points=self._points[:n],
            epochs=self._epochs[:n],
            until=self._until[:n],
            paused=self._paused[:n],
            bad=self._bad[:n],
            known=self._known[:n],
            knots=self._knots[:n],
            values=self._values[:n],
        )

    def _grow(self, room: int) -> None:
        self._room, self._trials = room, ()  # and all is read anew
        self._points = np.full((room, len(self.space)), math.nan)
        self._epochs = np.zeros(room, dtype=np.int64)
        self._until = np.zeros(room, dtype=np.int64)
        self._paused, self._bad, self._known = (np.zeros(room, dtype=np.bool_) for _ in range(3))
        self._knots = np.zeros((room, POINTS), dtype=np.int64)
        self._values = np.full((room, POINTS), math.inf)

    def _take(self, i: int, trial: TrialRecord, same_config: bool) -> None:
        if not same_config:
            try:
                self._points[i] = self.space.encode(dict(self.space.complete(dict(trial.config))))
                self._known[i] = True
            except SpaceError:  # the space was another when the trial began
                self._points[i], self._known[i] = math.nan, False
        self._epochs[i] = trial.epochs
        self._until[i] = max(trial.until_epoch if trial.status is Status.TRAINING else 0, trial.epochs)
        self._paused[i] = trial.status is Status.PAUSED
        diverged = trial.epochs > 0 and not math.isfinite(trial.values[-1])
        self._bad[i] = diverged or trial.status in (Status.INFEASIBLE, Status.FAILED)
        self._knots[i], self._values[i] = 0, math.inf
        if trial.status is not Status.CANCELLED and trial.epochs:
            values = np.array(trial.values)
            lowest = np.minimum.accumulate(np.where(np.isfinite(values), values, math.inf))
            knots = np.array(sorted({trial.epochs >> halvings for halvings in range(POINTS)} - {0}, reverse=True))
            self._knots[i, : len(knots)], self._values[i, : len(knots)] = knots, lowest[knots - 1]
