"""Several objectives and limits as one value, so that every scheduler and searcher works with them.

Balling 2003, *The maximin fitness function*, EMO, LNCS 2632: a trial is worth how far it lies behind the front, or, on
the front, how far it lies ahead of the others there. Deb 2000, *An efficient constraint handling method for genetic
algorithms*, Computer Methods in Applied Mechanics and Engineering 186, section 3: who keeps all limits comes before who
breaks one, and of those the lesser breach comes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rheostat.front import non_dominated
from rheostat.schedule.base import Scheduler
from rheostat.types import Assignment, History, TrialRecord

FAR = 1e9  # ranks beyond the last that are told apart
ALONE = -1.0  # the value of a trial that is alone on the front: ahead of all in all ranks

Array = NDArray[np.float64]
Places = NDArray[np.int64]


class WithGoals:
    """Lets another scheduler decide by one value instead of several objectives and limits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.adaptive = scheduler.adaptive
        self._reader = GoalReader()

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        return self.scheduler.next(self._reader.read(history), free, rng)


@dataclass(frozen=True, slots=True)
class _Standing:
    """After each epoch, the objectives (epochs, m) and the excess (epochs, l) of the network that is kept."""

    trial: TrialRecord
    objectives: Array
    excess: Array


class GoalReader:
    """Makes one value, to be minimised, of several objectives and limits, for each epoch of each trial.

    After every epoch a trial counts as the network that is kept of it: that of its epoch with the best metric so far.
    Where this keeps all limits the value lies from 0 to 1, by its objectives; else from 1 to 2, by how much it breaks
    them. A metric that was not measured counts as the most broken limit. Epochs that diverged stay as they are.

    What it keeps only saves the time to read the same trials again.
    """

    def __init__(self) -> None:
        self._standings: dict[int, _Standing] = {}  # by number

    def read(self, history: History) -> History:
        """The history with such values."""
        standings = [self._standing(trial) for trial in history.trials if trial.values]
        if not standings:
            return history
        ends = np.cumsum([standing.trial.epochs for standing in standings]) - 1
        objectives = np.concatenate([standing.objectives for standing in standings])
        excess = np.concatenate([standing.excess for standing in standings])
        raw = np.concatenate([standing.trial.values for standing in standings])
        values = np.where(np.isfinite(raw), _one_value(objectives, excess, ends), raw).tolist()
        made = {
            s.trial.number: replace(s.trial, values=tuple(values[end + 1 - s.trial.epochs : end + 1]))
            for s, end in zip(standings, ends.tolist(), strict=True)
        }
        return History(tuple(made.get(trial.number, trial) for trial in history.trials))

    def _standing(self, trial: TrialRecord) -> _Standing:
        found = self._standings.get(trial.number)
        if found is None or found.trial is not trial:
            found = self._standings[trial.number] = _stand(trial)
        return found


def _stand(trial: TrialRecord) -> _Standing:
    values = np.array(trial.values)
    lowest = np.minimum.accumulate(np.where(np.isfinite(values), values, math.inf))
    better = lowest < np.concatenate([[math.inf], lowest[:-1]])
    kept = np.maximum.accumulate(np.where(better, np.arange(len(values)), 0))
    objectives = np.column_stack([values, np.array(trial.also).reshape(len(values), -1)])[kept]
    objectives[~np.isfinite(objectives)] = math.nan
    excess = np.array(trial.excess).reshape(len(values), -1)[kept]
    return _Standing(trial, objectives, excess)


def _one_value(objectives: Array, excess: Array, ends: Places) -> Array:
    """From 0 to 2, (n,), for epochs with these objectives (n, m) and excess (n, l); `ends` are the last of trials."""
    breach = _breach(excess, ends)
    breach[np.isnan(objectives).any(axis=1)] = math.inf
    values = 1 + _squashed(breach)
    keep: NDArray[np.bool_] = np.all(np.concatenate([excess <= 0, np.isfinite(objectives)], axis=1), axis=1)
    if keep.any():
        last = ends[keep[ends]]  # where the trials stand that keep all limits; they may have broken one since
        last = last if len(last) else np.flatnonzero(keep)
        merit = objectives[:, 0] if objectives.shape[1] == 1 else _behind_front(objectives, last, ends)
        low = float(merit[keep].min())
        unit = abs(float(np.median(merit[last])) - low) if objectives.shape[1] == 1 else 1.0
        values[keep] = _squashed(_in_units(merit[keep] - low, unit))
    return values


def _breach(excess: Array, ends: Places) -> Array:
    """By how much limits are broken, all together: (n,); 0 where none is. Each in units of a middling breach."""
    broken = np.where(np.isnan(excess), math.inf, np.maximum(excess, 0.0))
    total = np.zeros(len(excess))
    for column in broken.T:
        found = column[ends][(column[ends] > 0) & np.isfinite(column[ends])]
        total += _in_units(column, float(np.median(found)) if len(found) else 1.0)
    return total


def _behind_front(objectives: Array, last: Places, ends: Places) -> Array:
    """How far each epoch (n, m) lies behind the front of the trials that stand at `last`: (n,).

    That is how much better it must become in all objectives for no trial to dominate it; for a trial on the front less
    than 0, by the others there. NaN where an objective is.
    """
    ranks = _ranks(objectives, last)
    trials = np.searchsorted(ends, np.arange(len(ranks)))  # of each epoch
    behind = np.full(len(ranks), ALONE)
    for place in last[non_dominated(ranks[last])].tolist():
        by_this = (ranks - ranks[place]).min(axis=1)
        by_this[trials == trials[place]] = ALONE  # nobody lies behind himself
        np.maximum(behind, by_this, out=behind)
    return behind


def _ranks(objectives: Array, last: Places) -> Array:
    """The shares of the values at `last` that each value surpasses, (n, m): on what scale one measures is no matter.

    Between two of them it is interpolated; beyond the largest it goes on, by how far they reach.
    """
    ranks = np.empty_like(objectives)
    for place, column in enumerate(objectives.T):
        known = np.unique(column[last])
        ranks[:, place] = np.interp(column, known, np.linspace(0, 1, len(known)))
        beyond = _in_units(np.maximum(column - known[-1], 0.0), float(known[-1] - known[0]))
        ranks[:, place] += np.minimum(beyond, FAR)  # two infinite ones could not be compared
    return ranks


def _in_units(values: Array, unit: float) -> Array:
    """Values by a unit, 1 where that is 0; infinite where it is so small that the ratio is no number."""
    with np.errstate(over="ignore"):
        found: Array = values / (unit or 1.0)
    return found


def _squashed(values: Array) -> Array:
    """From 0 to infinity to from 0 to 1, in the same order."""
    squashed: Array = 1 - 1 / (1 + values)
    return squashed
