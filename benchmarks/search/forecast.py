"""The distribution of what trials will have reached at the end: a process over curves, set right by measured curves.

The process alone is too hopeful, and its normal errors have the wrong shape: the lowest value never rises, and often
does not fall either (docs/calibration.md). So the forecast has two parts, as the hurdle model of Cragg 1971, *Some
statistical models for limited dependent variables*, Econometrica 39: by a logistic regression the probability that the
lowest value does not fall any more, and Student's t of the logarithm of the fall where it does. Both go by what the
process says and by the curve itself. The coefficients are those of open tables, found by
`python -m benchmarks.search.fit_forecast`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.schedule.curve_process import CurveProcess, log_time
from rheostat.schedule.curve_reader import WORST

LEAST = 0.005  # a fall of less, in the process's values, counts as none

# What the coefficients multiply; logarithms of values have a little added, so that 0 has one too.
INPUTS = (
    "one",  # 1 for all
    "first",  # whether there is one value only, which has no slope yet
    "worst",  # whether the lowest value is that at which all bad ones are cut off
    "current",  # log of the lowest value until now
    "said",  # log of the fall that the process expects
    "deviation",  # log of the deviation of the process
    "left",  # log of the end's epoch by this one's
    "slope",  # log of the fall to come, if it goes on by log time as since half as many epochs
    "flat",  # log of this epoch by the last from which on the lowest value fell by LEAST
)

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Coefficients:
    """By the names of inputs; the others count nothing. `still` is of the log odds that there is no fall."""

    still: Mapping[str, float]
    centre: Mapping[str, float]
    spread: Mapping[str, float]  # of the log of the scale
    freedom: float

    @staticmethod
    def times(inputs: Array, coefficients: Mapping[str, float]) -> Array:
        """(m, inputs) -> (m,)."""
        found: Array = inputs @ np.array([coefficients.get(name, 0.0) for name in INPUTS])
        return found


FITTED = Coefficients(
    still={
        "one": -5.47,
        "first": 1.26,
        "worst": -0.0626,
        "current": 0.79,
        "said": -0.0957,
        "deviation": -1.11,
        "left": 0.0938,
        "slope": -0.498,
        "flat": 0.906,
    },
    centre={
        "one": 0.419,
        "first": 0.149,
        "current": 0.746,
        "said": 0.0878,
        "deviation": 0.431,
        "left": -0.0412,
        "slope": 0.282,
    },
    spread={"one": -0.453, "left": -0.0302},
    freedom=2.14,
)


@dataclass(frozen=True)
class Forecast:
    """Of each trial, the lowest value at the end. `current`: the lowest until now. All fields but freedom: (m,).

    It stays at `current` with probability `still`. Else the logarithm of the fall from there has Student's t
    distribution with this `centre`, `scale` and `freedom`, as far as it is above the logarithm of LEAST.
    """

    current: Array
    still: Array
    centre: Array
    scale: Array
    freedom: float

    def below(self, values: Array) -> Array:
        """The probability of each value or a lower one: (m,) -> (m,)."""
        fall = self.current - values
        falls = (1 - self.still) * self._beyond(np.maximum(fall, LEAST)) / self._beyond(np.array(LEAST))
        return np.where(fall <= 0, 1.0, falls)

    def quantiles(self, levels: Array) -> Array:
        """(k,) -> (m, k)."""
        from scipy.special import stdtrit

        share = np.asarray(levels) / np.maximum(1 - self.still[:, None], 1e-300)
        beyond = np.minimum(share, 1.0) * self._beyond(np.array(LEAST))[:, None]
        away = -stdtrit(self.freedom, np.maximum(beyond, 1e-300))
        fall = np.exp(np.minimum(self.centre[:, None] + self.scale[:, None] * away, 500.0))
        return self.current[:, None] - np.where(share >= 1, 0.0, fall)

    def _beyond(self, fall: Array) -> Array:
        """The probability of a greater fall by the distribution that is not cut off: (m,)."""
        from scipy.special import stdtr

        beyond: Array = stdtr(self.freedom, -(np.log(fall) - self.centre) / self.scale)
        return np.maximum(beyond, 1e-300)


def forecast(process: CurveProcess, curves: Sequence[Array], trials: Places, ends: Places, max_epochs: int) -> Forecast:
    """What `trials` will have reached after the epochs `ends`: (m,), (m,).

    `curves`: of every trial of the study, by its number, the lowest value until each epoch, in the units of what the
    process observed. Raises ValueError for a trial that was not observed.
    """
    x = inputs(process, curves, trials, ends, max_epochs)
    return distribution(x, np.array([curves[trial][-1] for trial in trials.tolist()], dtype=np.float64), FITTED)


def distribution(x: Array, current: Array, fitted: Coefficients) -> Forecast:
    """Of trials with these inputs, (m, len(INPUTS)), and lowest values, (m,)."""
    odds = np.clip(fitted.times(x, fitted.still), -30, 30)
    return Forecast(
        current,
        np.where(x[:, INPUTS.index("left")] > 0, 1 / (1 + np.exp(-odds)), 1.0),
        fitted.times(x, fitted.centre),
        np.exp(np.clip(fitted.times(x, fitted.spread), -5, 5)),
        fitted.freedom,
    )


def inputs(process: CurveProcess, curves: Sequence[Array], trials: Places, ends: Places, max_epochs: int) -> Array:
    """What is known of each trial, (m, len(INPUTS)); as `forecast`."""
    of = process.observed
    place = {int(trial): i for i, trial in enumerate(of.trials)}
    if unknown := sorted(trial for trial in set(trials.tolist()) if trial not in place):
        raise ValueError(f"Trials {unknown} were not observed; only the ends of observed curves can be forecast.")
    features = of.features[[place[trial] for trial in trials.tolist()]]
    means, deviations = process.predict(features, trials, log_time(ends, max_epochs))
    rows = np.empty((len(trials), len(INPUTS)))
    for row, trial, end, mean, deviation in zip(
        rows, trials.tolist(), ends.tolist(), means.tolist(), deviations.tolist(), strict=True
    ):
        found = _of_curve(curves[trial], end)
        found["said"] = math.log(max(float(curves[trial][-1]) - mean, 0.0) + 0.02)
        found["deviation"] = math.log(deviation + 0.001)
        row[:] = [found[name] for name in INPUTS]
    return rows


def _of_curve(curve: Array, end: int) -> dict[str, float]:
    n, half, current = len(curve), len(curve) // 2, float(curve[-1])
    left = max(math.log(end / n), 0.0)
    higher = np.flatnonzero(curve - current >= LEAST)
    return {
        "one": 1.0,
        "first": float(n == 1),
        "worst": float(current >= WORST),
        "current": math.log(max(current, 0.0) + 0.1),
        "left": left,
        "flat": math.log(n / (higher[-1] + 2 if len(higher) else 1)),
        "slope": math.log((curve[half - 1] - current) / math.log(n / half) * left + LEAST) if half else 0.0,
    }
