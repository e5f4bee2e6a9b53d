"""Which trials are better than others, also where they trained for different numbers of epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rheostat.types import Status, TrialRecord


def share_beaten(trials: Sequence[TrialRecord]) -> NDArray[np.float64]:
    """Of each trial, the share of all trials that it beats, shape (len(trials),); a tie counts half.

    Two trials are compared by their best values within the epochs that both have trained, so that one stopped
    early can be ranked among the rest. A diverged trial loses to every other.

    >>> from rheostat.types import Config, Status
    >>> done, cut = (3.0, 1.0), (2.0,)  # the first epoch is what both have trained
    >>> share_beaten([TrialRecord(0, Config(), Status.DONE, done), TrialRecord(1, Config(), Status.CUT, cut)])
    array([0.25, 0.75])
    """
    longest = max((t.epochs for t in trials), default=0) or 1
    lengths = np.array([longest if t.status is Status.INFEASIBLE else t.epochs for t in trials])
    curves = np.full((len(trials), longest), np.inf)  # (trials, epochs)
    for curve, trial in zip(curves, trials, strict=True):
        if trial.status is not Status.INFEASIBLE:
            curve[: trial.epochs] = trial.values
    best = np.minimum.accumulate(np.where(np.isnan(curves), np.inf, curves), axis=1)
    beaten = np.zeros(len(trials))
    for length in np.unique(lengths):  # of the shorter trial in each pair
        now, exact, longer = best[:, length - 1], lengths == length, lengths > length
        beaten[exact] += _beaten(now[exact], now[exact | longer])
        beaten[longer] += _beaten(now[longer], now[exact])
    return beaten / max(len(trials), 1)


def _beaten(values: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of the others each value undercuts."""
    others = np.sort(others)
    return len(others) - (np.searchsorted(others, values, "left") + np.searchsorted(others, values, "right")) / 2
