"""Bayesian optimisation with a Gaussian process.

Snoek, Larochelle and Adams 2012, *Practical Bayesian optimization of machine learning algorithms*, NeurIPS; Ament et
al. 2023, *Unexpected improvements to expected improvement for Bayesian optimization*, NeurIPS; Eriksson et al. 2019,
*Scalable global optimization via local Bayesian optimization* (TuRBO), NeurIPS; Song et al. 2024, *The Vizier
Gaussian process bandit algorithm*, arXiv:2408.11527, for the targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat.errors import SettingError
from rheostat.search.embedding import Embedding
from rheostat.search.gaussian_process import Kernel, Posterior, fit, log_improvement
from rheostat.search.observations import Observations, Observer
from rheostat.search.random import each_once
from rheostat.search.sobol import Sobol
from rheostat.space import Space
from rheostat.types import Config, History

Array = NDArray[np.float64]

MOST_TRIALS = 500  # that the process is given
MOST_TO_FIT = 200  # of them, from which its kernel is found
FANTASIES = 8  # results imagined for each trial in flight
DRAWN, MUTATED, ROUNDS = 256, 128, 2  # candidates: anywhere, and close to the best, in so many rounds
PARENTS = 5  # the best trials, and then candidates, close to which there are candidates
STARTS, STEPS = 4, 30  # of the optimiser
WIDE = 10  # dimensions, above which the search keeps to a trust region
LONGEST, LENGTH, SHORTEST = 1.6, 0.8, 2**-7  # of a trust region's sides (Eriksson et al. 2019, section 2)
SUCCESSES = 3  # in a row, after which it grows
MARGIN = 1e-3  # of the best value, below which an improvement is none


class GP:
    """Models the results, and suggests where they are expected to improve most on the best.

    The model is a Gaussian process over the features of `Embedding` with the kernel of `fit`; its targets are those of
    `targets`, in which infeasible and failed trials are as bad as the worst. A suggestion maximises the logarithm of
    the expected improvement, first over draws from the priors and over points close to the best, then uphill. Several
    are found one after the other, each with results imagined for those before it and for trials in flight. Trials
    that were stopped early are compared as in `Observations.order`. The first `startup` trials are those of `Sobol`.

    Above 10 hyperparameters the search keeps to a trust region around the best trial. Its size follows from the
    results in the order of their trials (`side`), so that it is a function of the history as all else is. Of more
    than 500 trials the model is given the best 250, and 250 spread evenly over the order of the others.

    No configuration of the history is suggested again while others are found; where a finite space is used up,
    `suggest` returns fewer than asked for. Raises SettingError for a `startup` below 1.
    """

    adaptive = True

    def __init__(self, space: Space, seed: int, startup: int = 10) -> None:
        if startup < 1:
            raise SettingError(f"startup={startup!r} is not allowed: give at least 1.")
        self.space = space
        self.startup = startup
        self._sobol = Sobol(space, seed)
        self._observer = Observer(space)
        self._embedding = Embedding(space)

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        seen = self._observer.observe(history, enough=self.startup)
        if len(seen) < self.startup or not np.isfinite(seen.values).any() or not len(self.space):
            return self._sobol.suggest(history, n, rng)
        order = seen.order()
        kept = spread(len(order), MOST_TRIALS)
        points, y = seen.points[order][kept], targets(seen.values[order], seen.epochs[order])[kept]
        features = self._embedding.features(points)
        few = spread(len(kept), MOST_TO_FIT)
        kernel = fit(features[few], y[few], self._embedding.groups)
        base = Posterior.of(kernel, features, y)
        box = trust_region(seen, points[0], kernel) if len(self.space) > WIDE else None
        luck = rng.standard_normal((len(seen.pending) + n, FANTASIES))

        def choose(found: list[Config], known: set[str]) -> Config | None:
            waiting = self._embedding.features(np.vstack([seen.pending, *map(self.space.encode, found)]))
            acquisition = imagined(base, y, waiting, luck[: len(waiting)])
            return self._best(acquisition, points[:PARENTS], box, known, rng)

        return each_once(self.space, history, n, rng, choose)

    def _best(
        self, acquisition: Acquisition, parents: Array, box: Box | None, known: set[str], rng: np.random.Generator
    ) -> Config | None:
        """The most promising configuration that is not known yet; None where all candidates are."""
        embedding = self._embedding
        found = box.drawn(DRAWN, embedding, rng) if box else embedding.drawn(DRAWN, rng)
        found = embedding.snapped(found)
        scores = acquisition(embedding.features(found))
        for _ in range(ROUNDS):
            close = embedding.snapped(mutated(parents, MUTATED, embedding, box, rng))
            found = np.vstack([found, close])
            scores = np.append(scores, acquisition(embedding.features(close)))
            parents = found[np.argsort(-scores)[:PARENTS]]
        starts = found[np.argsort(-scores)[:STARTS]]
        risen = climbed(acquisition, starts, embedding, box)
        found = np.vstack([found, risen])
        scores = np.append(scores, acquisition(embedding.features(risen)))
        for i in np.argsort(-scores):
            config = self.space.decode(np.nan_to_num(found[i]))
            if config.key() not in known:
                return config
        return None


@dataclass(frozen=True)
class Acquisition:
    """The logarithm of the expected improvement on `best` (s,), the mean over s imagined pasts."""

    posterior: Posterior
    best: Array

    def __call__(self, features: Array) -> Array:
        """Of each row of features (m, features): (m,)."""
        means, variance = self.posterior.predict(features)
        return self._score(means, variance)[0]

    def slope(self, features: Array) -> tuple[Array, Array]:
        """The same, and its derivatives by the features: (m, features)."""
        posterior = self.posterior
        covariance, slopes = posterior.kernel.between(features, posterior.features)
        means, variance = posterior.predict(features)
        score, by_mean, by_variance = self._score(means, variance)
        by_covariance = by_mean @ posterior.weights.T - 2 * by_variance[:, None] * (covariance @ posterior.precision)
        pull = by_covariance * slopes
        scaled, others = posterior.kernel.scaled(features), posterior.kernel.scaled(posterior.features)
        by_scaled = pull.sum(axis=1)[:, None] * scaled - pull @ others
        return score, posterior.kernel.scaled(by_scaled)

    def _score(self, means: Array, variance: Array) -> tuple[Array, Array, Array]:
        """Scores (m,), and their derivatives by means (m, s) and variance (m,)."""
        deviation = np.sqrt(variance)[:, None]
        z = (self.best - means) / deviation
        logs, slopes = log_improvement(z)
        top = logs.max(axis=1, keepdims=True)
        shares = np.exp(logs - top)
        total = shares.sum(axis=1, keepdims=True)
        score = (top + np.log(total / len(self.best)) + np.log(deviation))[:, 0]
        by_z = shares / total * slopes
        by_variance = (1 - np.sum(by_z * z, axis=1)) / (2 * variance)
        return score, -by_z / deviation, by_variance


def imagined(base: Posterior, y: Array, waiting: Array, luck: Array) -> Acquisition:
    """What to expect with trials at `waiting` (p, features) in flight: results are drawn for them with `luck` (p, s).

    Snoek et al. 2012, section 3.2. The first rows of `luck` give the same results whatever comes after them.
    """
    best = float(base.predict(base.features)[0].min())  # of the noiseless mean: one lucky trial shall not hold it up
    if not len(waiting):
        return Acquisition(base, np.array([best]))
    means, covariance = base.joint(waiting)
    covariance[np.diag_indices_from(covariance)] += base.kernel.noise + 1e-6 * base.kernel.signal
    results = means + np.linalg.cholesky(covariance) @ luck
    targets = np.vstack([np.repeat(y[:, None], luck.shape[1], axis=1), results])
    posterior = Posterior.of(base.kernel, np.vstack([base.features, waiting]), targets)
    return Acquisition(posterior, np.minimum(best, results.min(axis=0)))


def targets(values: Array, epochs: NDArray[np.int64]) -> Array:
    """What the process is fitted to, of values in order from the best, infinity where diverged: mean 0, variance 1.

    The better half of the trials, of those that were trained furthest, keep their values. No other is further from
    them than the quantile of its rank under the normal distribution of which they are the better half, since values
    without bounds, as of networks that diverge, would leave no room for the differences that matter; and trials that
    were stopped early lie there. (Song et al. 2024, section 4.1, where all others do.)
    """
    from scipy.special import ndtri

    n = len(values)
    full = int(np.sum((epochs == epochs[0]) & np.isfinite(values)))
    kept = min((n + 1) // 2, full)
    gaps = values[:full] / max(np.abs(values[:full]).max(), 1e-300)  # of any size, so that no square is too large
    gaps -= gaps[kept - 1]
    gaps /= math.sqrt(np.mean(gaps[:kept] ** 2)) or 1.0
    warped = np.append(gaps[:kept], ndtri(0.5 + 0.5 * np.arange(1, n - kept + 1) / (n - kept + 1)))
    warped[kept:full] = np.minimum(warped[kept:full], gaps[kept:])
    bad = np.isinf(values)
    if bad.any():
        warped[bad] = warped[bad].mean()
    result: Array = (warped - warped.mean()) / (warped.std() or 1.0)
    return result


def spread(n: int, most: int) -> NDArray[np.intp]:
    """At most `most` of n places: the first half of them from the start, the others evenly over the rest."""
    if n <= most:
        return np.arange(n)
    half = most // 2
    return np.append(np.arange(half), np.linspace(half, n - 1, most - half).astype(np.intp))


@dataclass(frozen=True)
class Box:
    """A trust region: `low` and `high` (d,) bound the continuous hyperparameters; `length` is its mean side."""

    center: Array
    low: Array
    high: Array
    length: float

    def drawn(self, n: int, embedding: Embedding, rng: np.random.Generator) -> Array:
        """Points (n, d) of the box that differ from its center in about 20 hyperparameters."""
        drawn = embedding.drawn(n, rng)
        uniform = self.low + rng.random(drawn.shape) * (self.high - self.low)
        moved = rng.random(drawn.shape) < min(1.0, 20 / drawn.shape[1])
        redrawn = moved & (rng.random(drawn.shape) < self.length)
        center = np.where(np.isnan(self.center), drawn, self.center)
        points = np.where(redrawn, drawn, center)
        lines = embedding.continuous
        points[:, lines] = np.where(moved, uniform, center)[:, lines]
        return points


def trust_region(seen: Observations, center: Array, kernel: Kernel) -> Box:
    """Around the best trial, longer where the process varies little (Eriksson et al. 2019, section 2)."""
    length = side(np.where(seen.epochs == seen.epoch, seen.values, math.inf), max(4, len(center)))
    shape = kernel.lengths / np.exp(np.mean(np.log(kernel.lengths)))
    middle = np.nan_to_num(center, nan=0.5)
    half = np.where(np.isnan(center), 1.0, 0.5 * length * shape)
    return Box(center, np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0), length)


def side(values: Array, patience: int) -> float:
    """The length of the region after these results, in their order.

    It doubles after 3 successes in a row and halves after `patience` failures. A region that has shrunk away begins
    again, at its first length, around the best trial of all.
    """
    length, best, successes, failures = LENGTH, math.inf, 0, 0
    for value in values.tolist():
        if value < best - MARGIN * abs(best) or (best == math.inf and value < best):
            successes, failures, best = successes + 1, 0, value
        else:
            successes, failures = 0, failures + 1
        if successes == SUCCESSES:
            length, successes = min(2 * length, LONGEST), 0
        elif failures == patience:
            length, failures = length / 2, 0
        if length < SHORTEST:
            length = LENGTH
    return length


def mutated(parents: Array, n: int, embedding: Embedding, box: Box | None, rng: np.random.Generator) -> Array:
    """Points (n, d) close to parents: a continuous hyperparameter moves a little, a discrete one is drawn anew."""
    points = parents[rng.integers(len(parents), size=n)]
    drawn = embedding.drawn(n, rng)
    points = np.where(np.isnan(points), drawn, points)
    d = points.shape[1]
    moved = rng.random((n, d)) < min(1.0, 2 / d)
    moved[np.arange(n), rng.integers(d, size=n)] = True
    steps = 10 ** rng.uniform(-2.5, -0.5, (n, 1)) * rng.standard_normal((n, d))
    lines = np.zeros(d, dtype=np.bool_)
    lines[embedding.continuous] = True
    points = np.where(moved, np.where(lines, points + steps, drawn), points)
    low, high = (box.low, box.high) if box else (0.0, 1.0)
    return np.where(lines, np.clip(points, low, high), points)


def climbed(acquisition: Acquisition, points: Array, embedding: Embedding, box: Box | None) -> Array:
    """The points (m, d) moved uphill together, in their active continuous hyperparameters, by L-BFGS."""
    from scipy.optimize import minimize

    free = np.zeros(points.shape, dtype=np.bool_)
    free[:, embedding.continuous] = ~np.isnan(points[:, embedding.continuous])
    if not free.any():
        return points
    columns = np.zeros(points.shape[1], dtype=np.intp)
    columns[embedding.continuous] = embedding.columns
    rows, places = np.nonzero(free)
    features = embedding.features(points)

    def loss(moved: Array) -> tuple[float, Array]:
        features[rows, columns[places]] = moved
        score, slope = acquisition.slope(features)
        return -float(score.sum()), -slope[rows, columns[places]]

    low, high = (box.low, box.high) if box else (np.zeros(points.shape[1]), np.ones(points.shape[1]))
    start = np.clip(points[free], low[places], high[places])
    bounds = np.column_stack([low[places], high[places]])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    risen = points.copy()
    risen[free] = found.x
    return risen
