"""What a study may still gain: by how much its best value will fall if so many more epochs are spent.

The basis is how records fall. Of exchangeable trials, N so far and n more, the best of all is among the n with
probability n / (N + n), whatever their distribution (Glick 1978, *Breaking records and breaking boards*, American
Mathematical Monthly 85, section 2). How far it falls follows from the lower tail of their values: where that is
exponential with scale s (Weissman 1978, *Estimation of parameters and large quantiles based on the k largest
observations*, Journal of the American Statistical Association 73), the tail below the best holds a share of E / N with
E standard exponential, so that the best falls by more than g with probability

    1 - E[exp(-(n / N) E exp(-g / s))] = r / (r + 1),  r = (n / N) exp(-g / s)

Trials differ in how long they trained, searchers learn, and trials that have begun go on; so the formula holds with
three corrections, chosen on half of the open tables (benchmarks/search/outlook.py): the scale is uncertain by a
log-normal factor, which makes the tail as heavy as measured; what has begun counts as more trials, and counts more
while the best itself is not at its end; and the scale is a share of what separates the best from the best quarter.

Makarova et al. 2022, *Automatic termination for hyperparameter optimization*, and Wilson 2024, *Stopping Bayesian
optimization with probabilistic regret bounds*, ask the model of the search instead. What the model of the default
hopes for turned out to say nothing of what a study gained (rank correlation -.03), so it is not asked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.schedule.curve_process import log_time
from rheostat.schedule.fifo import check_at_least
from rheostat.types import UNLIMITED, History, TrialRecord

# Chosen on half of the open tables.
SCALE = 0.25  # of the tail, by the distance from the best value to that of the best quarter
SPREAD = 1.2  # standard deviation of the logarithm of the factor by which that may be wrong
BEGUN = 0.5  # what trials that may go on add to n / N, by the epochs to be spent by those spent
UNFINISHED = 5.5  # and what is added where the best has trained one epoch, less by the logarithm of its epochs
LEVELS = 0.05, 0.95  # of the interval
HARDLY = 0.05  # a chance that is not worth going on for
AHEAD = 8  # full trainings, for which at least it is asked: who doubled a little would end where little was tried

_nodes, _weights = np.polynomial.hermite_e.hermegauss(9)
FACTORS, WEIGHTS = np.exp(SPREAD * _nodes), _weights / _weights.sum()

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outlook:
    """By how much the best value will fall when `epochs` more are spent on top of `spent`, all trials together.

    Gains are in the units of the metric and never negative, also where it is maximised. `scale` is that of the tail;
    `new` and `begun` are the ratios n / N of new trials and of those that have begun.
    """

    spent: int
    epochs: int
    scale: float
    new: float
    begun: float

    def chance(self, gain: float) -> float:
        """The probability to gain more than this: from 0 to 1."""
        beaten = (self.new + self.begun) * np.exp(-max(gain, 0.0) / (FACTORS * self.scale))
        return float(WEIGHTS @ (beaten / (1 + beaten)))

    @property
    def expected(self) -> float:
        """The expected gain: the integral of `chance`."""
        return float(WEIGHTS @ FACTORS) * self.scale * math.log1p(self.new + self.begun)

    @property
    def low(self) -> float:
        """The gain is less than this with a probability of 5 %; 0 where that is the chance of none."""
        return self._quantile(LEVELS[0])

    @property
    def high(self) -> float:
        """The gain is less than this with a probability of 95 %."""
        return self._quantile(LEVELS[1])

    @property
    def share_begun(self) -> float:
        """The part of the gain that trials bring that have begun, from 0 to 1; new ones bring the rest."""
        return self.begun / (self.new + self.begun)

    def _quantile(self, level: float) -> float:
        if 1 - self.chance(0.0) >= level:
            return 0.0
        low, high = 0.0, self.scale
        while 1 - self.chance(high) < level:
            high *= 2
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if 1 - self.chance(middle) < level else (low, middle)
        return high


def outlook(history: History, max_epochs: int, epochs: int | None = None) -> Outlook | None:
    """What `epochs` more, spent by the default method, will gain; by default as many as were spent.

    None where too little is known: fewer than two trials with different values. Values that are not finite are left
    out. Raises SettingError for less than one epoch.
    """
    if epochs is not None:
        check_at_least("epochs", epochs, 1)
    lows = [_lowest(trial) for trial in history.trials]
    values = np.unique(np.array(lows)[np.isfinite(lows)])
    if len(values) < 2:
        return None
    spent = _spent(history)
    epochs = spent if epochs is None else epochs
    full = _full_training(history, max_epochs)
    quarter = float(np.quantile(values, 0.25)) - float(values[0])  # of different values: many may not have learnt
    begun = 0.0
    if any(_goes_on(trial, full) for trial, low in zip(history.trials, lows, strict=True) if low < math.inf):
        best = history.trials[int(np.argmin(lows))]
        left = 1 - log_time(np.array([best.epochs]), full).item() if _goes_on(best, full) else 0.0
        begun = (BEGUN + UNFINISHED * left) * epochs / spent
    return Outlook(spent, epochs, SCALE * quarter, epochs / spent, begun)


def enough(history: History, max_epochs: int, min_gain: float) -> Outlook | None:
    """The outlook, where going on is not worth it; None where it is, or may be.

    It is not where as many epochs again as were spent, and at least `AHEAD` full trainings, gain more than `min_gain`
    with a chance of less than 5 %. Before a full training was spent nobody can tell: all that is known are beginnings.
    """
    full = _full_training(history, max_epochs)
    spent = _spent(history)
    said = outlook(history, max_epochs, max(spent, AHEAD * full, 1)) if spent >= full else None
    return said if said is not None and said.chance(min_gain) < HARDLY else None


def _lowest(trial: TrialRecord) -> float:
    """The lowest finite value of a trial; infinity where there is none."""
    return min((value for value in trial.values if math.isfinite(value)), default=math.inf)


def _spent(history: History) -> int:
    return sum(trial.epochs - trial.born for trial in history.trials)


def _full_training(history: History, max_epochs: int) -> int:
    """The epochs of a full training: where their number is left to the objective, the longest so far."""
    return max_epochs if max_epochs < UNLIMITED else max((trial.epochs for trial in history.trials), default=0)


def _goes_on(trial: TrialRecord, full: int) -> bool:
    return not trial.status.ended and trial.epochs < full
