"""A Gaussian process over learning curves: configurations x the logarithm of the epoch.

Swersky, Snoek and Adams 2014, *Freeze-thaw Bayesian optimization*, arXiv:1406.3896, for the idea of one process over
whole curves, with a part that is each trial's own. The hyperparameters are learnt as in Rasmussen and Williams 2006,
*Gaussian processes for machine learning*, equations 2.25, 2.26 and 5.9, under priors that say what curves are like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rheostat.search.gaussian_process import Kernel, inverse

Array = NDArray[np.float64]

SLOPE = -1.6  # of the mean, in standard deviations from the first epoch to the last
LENGTH = (-0.5, 1.3)  # mean and standard deviation of log length scales, plus half the log of the dimensions
# The logarithms of variances, in those of the values: of configurations at all epochs alike, of configurations at each
# epoch, of a slope that all curves share, of a trial's level, of its curve, and of noise.
VARIANCES = np.array([[-2.0, 1.0], [0.3, 1.0], [0.3, 0.7], [-5.0, 1.5], [-5.0, 1.5], [-4.5, 1.5]])
BOUND = 5.0  # standard deviations that a logarithm may lie from its mean
STEPS = 6  # of the optimiser: what it gains later is less than what waiting costs
JITTER = 1e-6
LEAST_SPREAD = 0.02  # of the values, below which they count as equal
SQRT3 = math.sqrt(3)


@dataclass(frozen=True)
class Observed:
    """Values at points of curves. `features`: (n, f), `trials`: (n,), their numbers, `times`: (n,), from 0 to 1."""

    features: Array
    trials: NDArray[np.int64]
    times: Array
    values: Array

    def at(self, places: NDArray[np.int64]) -> Observed:
        return Observed(self.features[places], self.trials[places], self.times[places], self.values[places])


def log_time(epochs: NDArray[np.int64], max_epochs: int) -> Array:
    """0 at the first epoch, 1 at the last: curves change by the logarithm of the epoch."""
    if max_epochs == 1:
        return np.ones(len(epochs))
    time: Array = np.log(np.maximum(epochs, 1)) / math.log(max_epochs)
    return time


class CurveProcess:
    """The process given what was observed; its hyperparameters are the likeliest for the observations `fit_on`.

    Covariance of two points x, t and x', t' of curves, with k Matérn-5/2 with a length scale for each hyperparameter:

        k(x, x') (v1 + v2 exp(-|t - t'|)) + v3 (t - 1/2) (t' - 1/2) + [same trial] (v4 + v5 m(t, t')) + 1 + noise

    where m is Matérn-3/2. Curves are as rough in log t as exp(-|t - t'|): some fall all at once.

    `groups`: (f,), the number of the hyperparameter behind each feature.
    """

    def __init__(self, groups: NDArray[np.intp], observed: Observed, fit_on: NDArray[np.int64]) -> None:
        from scipy.optimize import minimize  # takes half a second to import

        self.groups = groups
        self.observed = observed
        self.dimensions = int(groups.max()) + 1 if len(groups) else 0
        self.shift = float(observed.values.mean())
        self.spread = max(float(observed.values.std()), LEAST_SPREAD)
        self.middle = float(observed.times.mean())
        length = LENGTH[0] + 0.5 * math.log(max(self.dimensions, 1)), LENGTH[1]
        self._prior = np.vstack([np.tile(length, (self.dimensions, 1)), VARIANCES])
        targets = (observed.values - self.shift) / self.spread - SLOPE * (observed.times - self.middle)
        some = observed.at(fit_on)
        given = (some.features, _in_time(some.times, some.times), some.trials[:, None] == some.trials, targets[fit_on])
        start = self._prior[:, 0]
        found = minimize(self._loss, start, given, "L-BFGS-B", jac=True, options={"maxiter": STEPS})
        self._set(self._bounded(found.x if math.isfinite(found.fun) else start))
        covariance = self._covariance(observed, observed)
        covariance[np.diag_indices(len(targets))] += self.noise
        self.precision, _ = inverse(covariance)
        self.weights = self.precision @ targets

    def _bounded(self, logs: Array) -> Array:
        mean, deviation = self._prior.T
        return np.clip(logs, mean - BOUND * deviation, mean + BOUND * deviation)

    def _set(self, logs: Array) -> None:
        self.variances = np.exp(logs[self.dimensions :])
        self.kernel = Kernel(np.exp(logs[: self.dimensions]), 1.0, float(self.variances[5]), self.groups)

    @property
    def noise(self) -> float:
        return self.kernel.noise + JITTER

    def _loss(self, logs: Array, features: Array, in_time: tuple[Array, ...], same: Any, targets: Array) -> Any:
        """Minus the log of likelihood times prior, and its gradient."""
        self._set(self._bounded(logs))
        rough, own, slope = in_time
        v = self.variances
        alike, slopes = self.kernel.between(features, features)
        parts = (alike, alike * rough, slope, same, same * own)
        covariance = sum(v[i] * part for i, part in enumerate(parts)) + 1.0
        covariance[np.diag_indices(len(targets))] += self.noise
        precision, log_determinant = inverse(covariance)
        weights = precision @ targets
        away = (logs - self._prior[:, 0]) / self._prior[:, 1]
        loss = 0.5 * (targets @ weights + log_determinant + away @ away)
        blame = np.outer(weights, weights) - precision  # equation 5.9
        gradient = away / self._prior[:, 1]
        gradient[: self.dimensions] -= self.kernel.by_length(features, 0.5 * blame * (v[0] + v[1] * rough) * slopes)
        for i, part in enumerate(parts):
            gradient[self.dimensions + i] -= 0.5 * v[i] * np.vdot(blame, part)
        gradient[-1] -= 0.5 * v[5] * np.trace(blame)
        return loss, gradient

    def _covariance(self, one: Observed, other: Observed) -> Array:
        v = self.variances
        rough, own, slope = _in_time(one.times, other.times)
        alike, _ = self.kernel.between(one.features, other.features)
        same = one.trials[:, None] == other.trials
        covariance: Array = alike * (v[0] + v[1] * rough) + v[2] * slope + same * (v[3] + v[4] * own) + 1.0
        return covariance

    def predict(self, features: Array, trials: NDArray[np.int64], times: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at points of curves, without noise: (m,) each.

        `trials` are the numbers of trials as in what was observed; others, such as -1, for new ones.
        """
        asked = Observed(features, trials, times, np.empty(0))
        cross = self._covariance(asked, self.observed)
        v = self.variances
        prior = v[0] + v[1] + v[2] * (times - 0.5) ** 2 + v[3] + v[4] + 1.0
        mean = cross @ self.weights + SLOPE * (times - self.middle)
        variance = prior - np.einsum("ij,ij->i", cross @ self.precision, cross)
        return mean * self.spread + self.shift, np.sqrt(np.maximum(variance, 1e-9)) * self.spread


def _in_time(times: Array, others: Array) -> tuple[Array, Array, Array]:
    """How alike points of curves are in time: rough, smooth (of a trial's own curve), and by a common slope."""
    apart = np.abs(times[:, None] - others)
    return np.exp(-apart), (1 + SQRT3 * apart) * np.exp(-SQRT3 * apart), np.outer(times - 0.5, others - 0.5)
