"""Where trials diverge or run out of memory: the boundary, learnt, and whether it is what limits the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rheostat import hyperparameters
from rheostat.analysis.ranking import share_beaten
from rheostat.analysis.rules.base import SIGNIFICANCE, Advice, Evidence
from rheostat.errors import SpaceError
from rheostat.space import Float, Int
from rheostat.types import Status, TrialRecord

LIKELY_CAUSES = ("lr", "momentum", "batch_size", "units", "hidden", "channels", "layers", "embedding")
FEWEST = 5  # infeasible trials, and feasible ones
WORTH = 0.1  # of all trials, to be spared
SLOPE = 30.0  # standard deviation that a slope is expected to have, in units of the range: from nothing to all in 1/30
NEAR = 0.5  # decades, or a tenth of a range that is not logarithmic

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Boundary:
    """Where half of the trials become infeasible, in units of the range and with its standard error.

    `above` says on which side they are, `p_value` how easily chance would give it.
    """

    name: str
    part: Float | Int
    unit: float
    error: float
    above: bool
    p_value: float

    @property
    def value(self) -> float | int:
        return _plain(self.part, self.unit)

    @property
    def interval(self) -> tuple[float | int, float | int]:
        """Ninety per cent of what is plausible, within the range."""
        low, high = (min(max(self.unit + side * 1.645 * self.error, 0.0), 1.0) for side in (-1, 1))
        return _plain(self.part, low), _plain(self.part, high)


def boundary(seen: Evidence, bad: Sequence[TrialRecord]) -> Boundary | None:
    """The boundary between the bad trials and those that trained, in the hyperparameter that tells them best.

    Logistic regression on learning rate, batch size and width together, in units of their ranges, with a normal prior
    on the slopes, so that perfectly separated trials give no infinite ones (Gelman et al. 2008, *A weakly informative
    default prior for logistic regression*, Annals of Applied Statistics 2). The boundary is that at middling values of
    the others; its error follows by the delta method. None where a likelihood-ratio test (5 %, shared by the
    hyperparameters) finds none, or where it lies outside the range.
    """
    from scipy import stats

    good = [t for t in seen.usable if t.status is not Status.INFEASIBLE]
    trials = [*good, *bad]
    parts = {
        name: part
        for name, part in seen.space.tuned.items()
        if isinstance(part, Float | Int)
        and _known_as(name) in LIKELY_CAUSES
        and not part.when
        and all(name in t.config and part.low <= t.config[name] <= part.high for t in trials)
    }
    if len(bad) < FEWEST or len(good) < FEWEST or not parts:
        return None
    x = np.array([[part.encode(t.config[name]) for name, part in parts.items()] for t in trials])
    y = np.arange(len(trials)) >= len(good)
    weights, covariance, likelihood = _logistic(x, y)
    found = []
    for place, (name, part) in enumerate(parts.items()):
        without = _logistic(np.delete(x, place, axis=1), y)[2]
        p = float(stats.chi2.sf(2 * max(likelihood - without, 0.0), 1))
        unit, error = _crossing(weights, covariance, np.median(x, axis=0), place)
        if p < SIGNIFICANCE / len(parts) and 0 < unit < 1:
            found.append(Boundary(name, part, unit, error, bool(weights[1 + place] > 0), p))
    return min(found, key=lambda b: b.p_value, default=None)


def infeasible_beyond(seen: Evidence) -> list[Advice]:
    """A part of a range in which trials diverge or do not fit into memory: not most trials, but worth sparing."""
    advice = []
    infeasible = [t for t in seen.trials if t.status is Status.INFEASIBLE]
    if not WORTH * len(seen.usable) <= len(infeasible) <= 0.5 * len(seen.usable):
        return []
    for memory, words in ((False, "diverge"), (True, "run out of memory")):
        bad = [t for t in infeasible if ("memory" in t.reason.lower()) == memory]
        found = boundary(seen, bad) if len(bad) >= WORTH * len(seen.usable) else None
        if found is not None:
            low, high = found.interval
            text = (
                f"{len(bad)} of {len(seen.usable)} trials {words}: half of those with {found.name} at "
                f"{found.value:.4g} ({low:.4g} to {high:.4g}) do, and most {'above' if found.above else 'below'}. "
                f"End its range there."
            )
            part, end = found.part, found.value
            ends = {"low": part.low, "high": end} if found.above else {"low": end, "high": part.high}
            if ends["low"] < ends["high"]:
                advice.append(Advice("boundary", text, found.name, {found.name: ends}))
    return advice


def unstable_optimum(seen: Evidence) -> list[Advice]:
    """The best learning rates lie just below those that diverge, and results get better towards them (C4).

    Then instability limits the result, not the learning rate (Deep Learning Tuning Playbook: "How can optimization
    failures be debugged and mitigated?"). The best trial and most of the top must lie within half a decade of the
    boundary, and trials there must beat the rest (Mann-Whitney, 5 %).
    """
    from scipy import stats

    bad = [t for t in seen.trials if t.status is Status.INFEASIBLE and "memory" not in t.reason.lower()]
    found = boundary(seen, bad)
    if found is None or _known_as(found.name) != "lr" or not found.above:
        return []
    good = [t for t in seen.usable if t.status is not Status.INFEASIBLE]
    part = found.part
    reach = NEAR / math.log10(part.high / part.low) if part.log else 0.1
    units = np.array([part.encode(t.config[found.name]) for t in good])
    near = np.abs(units - found.unit) <= reach
    scores = share_beaten(good)
    top = [found.unit - part.encode(t.config[found.name]) <= reach for t in seen.top]
    if near.all() or not near.any() or 2 * sum(top) <= len(top) or not top[0]:
        return []
    if float(stats.mannwhitneyu(scores[near], scores[~near], alternative="greater").pvalue) >= SIGNIFICANCE:
        return []
    best = seen.top[0].config[found.name]
    text = (
        f"The best {found.name}, {best:.4g}, lies just below {found.value:.4g}, from where on trials diverge, and "
        "results get better towards it: instability limits them. Try warm-up, gradient clipping at the 90th percentile "
        "of the norms, or normalisation, before a smaller rate."
    )
    return [Advice("unstable", text, found.name)]


def _logistic(x: Array, y: NDArray[np.bool_]) -> tuple[Array, Array, float]:
    """Weights (1 + d,), the constant first, their covariance, and the logarithm of the posterior: Newton's method."""
    x = np.column_stack([np.ones(len(x)), x])
    prior = np.full(x.shape[1], 1 / SLOPE**2)
    prior[0] = 1e-6

    def posterior(w: Array) -> float:
        z = x @ w
        return float(z[y].sum() - np.logaddexp(0, z).sum() - 0.5 * prior @ w**2)

    w = np.zeros(x.shape[1])
    value = posterior(w)
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        hessian = (x.T * (p * (1 - p))) @ x + np.diag(prior)
        step = np.linalg.solve(hessian, x.T @ (y - p) - prior * w)
        while (new := posterior(w + step)) < value and np.abs(step).max() > 1e-10:
            step = step / 2
        w, gained, value = w + step, new - value, new
        if gained < 1e-9:
            break
    p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
    return w, np.linalg.inv((x.T * (p * (1 - p))) @ x + np.diag(prior)).astype(np.float64), value


def _crossing(weights: Array, covariance: Array, middle: Array, place: int) -> tuple[float, float]:
    """Where the probability is a half, the others at their middle, and the standard error of that."""
    gradient = np.concatenate([[1.0], middle])
    gradient[1 + place] = 0.0
    slope = weights[1 + place]
    unit = -float(gradient @ weights) / slope
    gradient[1 + place] = unit
    return unit, math.sqrt(float(gradient @ covariance @ gradient)) / abs(slope)


def _plain(part: Float | Int, unit: float) -> float | int:
    value = part.decode(unit)
    return value if isinstance(part, Int) else min(max(float(f"{value:.2g}"), part.low), part.high)


def _known_as(name: str) -> str:
    try:
        return hyperparameters.get(name).name
    except SpaceError:
        return name
