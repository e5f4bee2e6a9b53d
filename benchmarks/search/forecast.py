"""The distribution of what trials will have reached at the end: a process over curves, set right by measured curves.

The process alone is too hopeful, and its normal errors have the wrong shape: the lowest value never rises, and often
does not fall either (docs/calibration.md). A Bayesian linear regression says how far curves really fall, from what the
process says and how fast they were falling (Gelman et al. 2013, *Bayesian data analysis*, section 14.8, with a
normal-inverse-chi-squared prior); its predictive distribution is Student's t, of the logarithm of the fall. Its prior
was chosen on open tables. It learns from the study too: each curve of the history is cut short, and its end predicted
by the process without the rest (Rasmussen and Williams 2006, section 5.4.2, equations 5.10 to 5.12, for blocks).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.schedule.curve_process import CurveProcess

# Of the regression, chosen on half of the open tables (docs/calibration.md): its coefficients before any curve was
# seen, their precision in curves, and the spread of the error and how many curves that is worth.
PRIOR = np.array([-1.56, -1.9, -0.534, 1.34, 1.02, -0.571, 0.637])
WORTH = np.array([2.12, 2.12, 1.21, 1.21, 1.21, 1.21, 1.21])
SPREAD, FREEDOM = 0.24, 4.10
WEIGHT = 0.058  # of a curve of the history: the best went on, so they tell less of the others
LEAST = 0.005  # a fall of less, in the process's values, counts as none

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Forecast:
    """Of each trial, the lowest value at the end. `current`: the lowest until now. All fields: (m,).

    The logarithm of the fall from `current` has Student's t distribution with this `centre`, `scale` and `freedom`.
    """

    current: Array
    centre: Array
    scale: Array
    freedom: Array

    def below(self, values: Array) -> Array:
        """The probability of each value or a lower one: (m,) -> (m,)."""
        from scipy.special import stdtr

        fall = self.current - values
        away = (np.log(np.maximum(fall, LEAST)) - self.centre) / self.scale
        return np.where(fall <= 0, 1.0, stdtr(self.freedom, -away))

    def quantiles(self, levels: Array) -> Array:
        """(k,) -> (m, k)."""
        from scipy.special import stdtrit

        away = stdtrit(self.freedom[:, None], 1 - np.asarray(levels))
        fall = np.exp(np.minimum(self.centre[:, None] + self.scale[:, None] * away, 50.0))
        return self.current[:, None] - np.where(fall < LEAST, 0.0, fall)


def forecast(process: CurveProcess, trials: Places, times: Array) -> Forecast:
    """What trials that the process observed will have reached at these times: (m,), (m,).

    Values are in the units of what the process observed. Raises ValueError for a trial that it did not observe.
    """
    curves = {int(trial): _places(process, int(trial)) for trial in np.unique(process.observed.trials)}
    unknown = sorted(set(trials.tolist()) - set(curves))
    if unknown:
        raise ValueError(f"Trials {unknown} were not observed; only the ends of observed curves can be forecast.")
    inverse, centre, spread, freedom = _learnt(process, curves)
    last = np.array([curves[trial][-1] for trial in trials.tolist()], dtype=np.int64)
    mean, deviation = process.predict(process.observed.features[last], trials, times)
    inputs = np.array(
        [
            _inputs(process, curves[trial], *rest)
            for trial, *rest in zip(trials.tolist(), mean.tolist(), deviation.tolist(), times.tolist(), strict=True)
        ]
    ).reshape(-1, len(PRIOR))
    scale = spread * np.sqrt(1 + np.einsum("ni,ij,nj->n", inputs, inverse, inputs))
    return Forecast(process.observed.values[last], inputs @ centre, scale, np.full(len(trials), freedom))


def _places(process: CurveProcess, trial: int) -> Places:
    """Where the points of a trial are, in order of time."""
    places = np.flatnonzero(process.observed.trials == trial)
    return places[np.argsort(process.observed.times[places], kind="stable")]


def _learnt(process: CurveProcess, curves: dict[int, Places]) -> tuple[Array, Array, float, float]:
    """Of the coefficients, the inverse precision by the error's variance, and the mean; the error's spread, freedom."""
    values, times = process.observed.values, process.observed.times
    worst = float(values.max())
    inputs: list[Array] = [np.zeros(len(PRIOR))]
    falls, weights = [0.0], [0.0]  # of weight 0, for histories of single points
    for places in curves.values():
        for begun in range(1, len(places)):
            end, current = places[-1], values[places[begun - 1]]
            if current < worst:  # the worst are cut off at one value, from which nothing is to be learnt
                mean, deviation = _without(process, places[begun:])
                inputs.append(_inputs(process, places[:begun], mean, deviation, times[end]))
                falls.append(math.log(max(current - values[end], LEAST)))
                weights.append(WEIGHT / (len(places) - 1))
    x, weight = np.array(inputs), np.array(weights)
    error = np.array(falls) - x @ PRIOR
    inverse = np.linalg.inv(np.diag(WORTH) + (x * weight[:, None]).T @ x)
    seen = (x * weight[:, None]).T @ error
    change = inverse @ seen
    squares = FREEDOM * SPREAD**2 + max(float(weight @ error**2 - change @ seen), 0.0)
    freedom = FREEDOM + float(weight.sum())
    return inverse, PRIOR + change, math.sqrt(squares / freedom), freedom


def _without(process: CurveProcess, places: Places) -> tuple[float, float]:
    """Mean and deviation (without noise) of the last of these observed points, from all other points but these."""
    block = np.linalg.inv(process.precision[np.ix_(places, places)])
    mean = process.observed.values[places[-1]] - float(block[-1] @ process.weights[places]) * process.spread
    return mean, math.sqrt(max(float(block[-1, -1]) - process.noise, 1e-9)) * process.spread


def _inputs(process: CurveProcess, places: Places, mean: float, deviation: float, time: float) -> list[float]:
    """Of the regression: apart for curves of one point, which have no slope yet, and of several."""
    values, times = process.observed.values[places], process.observed.times[places]
    current = float(values[-1])
    said = math.log(max(current - mean, 0.0) + 0.02)
    shared = [math.log(deviation + 0.001), math.log(max(current, 0.0) + 0.1)]
    if len(places) == 1:
        return [0.0, 1.0, 0.0, said, 0.0, *shared]
    slope = float((values[-2] - values[-1]) / (times[-1] - times[-2]))
    return [1.0, 0.0, said, 0.0, math.log(max(slope * (time - times[-1]), 0.0) + LEAST), *shared]
