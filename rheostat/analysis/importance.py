"""How much each hyperparameter matters over its whole space, with an interval.

A functional analysis of variance, as Hutter, Hoos and Leyton-Brown 2014 (*An efficient approach for assessing
hyperparameter importance*, ICML) define importance: the share of the variance of the results, over configurations drawn
evenly from the space, that a hyperparameter explains. They fit a random forest. Here it is a polynomial in the units in
which the searchers see the space (a chaos expansion: Sudret 2008, *Global sensitivity analysis using polynomial chaos
expansions*, Reliability Engineering and System Safety 93), for three reasons. Its coefficients have known errors, so
the share that noise alone would explain is taken off (epsilon squared: Kelley 1935), where a forest spreads it over
what does nothing; intervals come from the noncentral F distribution, without resampling (Steiger 2004, *Beyond the F
test*, Psychological Methods 9); and where trials crowd together because a search chose them, the fit says how little
is known of the rest, while averages over trials would call important what the search happened to like.

Results enter as the share of trials that each beats, so that a diverged trial is just the worst.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from rheostat.analysis.ranking import share_beaten
from rheostat.errors import SpaceError
from rheostat.search.embedding import Embedding
from rheostat.space import Choice, Space
from rheostat.types import Status, TrialRecord

METHOD = "functional ANOVA on polynomials, ranks"
DEGREE = 4
PER_TERM = 3  # trials for each coefficient
REFERENCE = 1024  # points, evenly in the space, over which variances are taken
LEVEL = 0.9  # of intervals
CROWDED = 1e-3  # p-value of an even spread, below which it is said that there is none

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Importance:
    """Shares of the variance of the results over the space, from 0 to 1.

    `share` is what the hyperparameter explains alone, from `low` to `high` with 90 % confidence; `total` adds what it
    explains together with others, as far as there were trials enough to tell, and is hardly more than `most` (95 %).
    `p_value` is that of no effect alone.
    """

    hyperparameter: str
    share: float
    low: float
    high: float
    total: float
    most: float
    p_value: float

    def __str__(self) -> str:
        """
        >>> str(Importance("lr", 0.42, 0.3, 0.55, 0.5, 0.6, 0.001))
        '42 % (30 to 55)'
        """
        return f"{100 * self.share:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"


@dataclass(frozen=True)
class Importances:
    """Of every hyperparameter, the most important first. `unexplained` is noise, and what no polynomial follows."""

    each: tuple[Importance, ...]
    trials: int
    unexplained: float
    pairs: bool  # whether there were trials enough to look at pairs
    warning: str = ""  # where trials are not spread evenly, as a search leaves them
    method: str = METHOD

    def __str__(self) -> str:
        """What its shares are of, in a line."""
        words = f"of the differences between {self.trials} trials, alone; {self.unexplained:.0%} is noise"
        return words + (f"; {self.warning}" if self.warning else "") + f" ({self.method})"

    def __getitem__(self, name: str) -> Importance:
        return next(one for one in self.each if one.hyperparameter == name)


def importance(space: Space, trials: Sequence[TrialRecord], among: float = 1.0) -> Importances | None:
    """The importance of every hyperparameter of the space; None with too few trials to fit even straight lines.

    With `among` below 1, it is that for telling the best share of the trials apart: all others count as equally bad
    (Hutter et al. 2014, section 5, cap values likewise). Trials outside the space are left out. Takes 0.1 s for 1,000
    trials of ten hyperparameters.
    """
    usable, points = _inside(space, trials)
    groups = _groups(space, len(usable))
    if groups is None:
        return None
    scores = share_beaten(usable)
    scores = np.maximum(scores, np.quantile(scores, 1 - among))
    if np.ptp(scores) == 0:
        return None
    even = _evenly(space)
    features, reference = _features(space, groups, points), _features(space, groups, even)
    found = _fit(features - reference.mean(0), scores)
    covariance = np.cov(reference, rowvar=False).reshape(features.shape[1], -1)
    columns = _columns(groups)
    raw = {names: found.variance(columns[names], covariance) for names in columns}
    total = sum(max(v, 0.0) for v in raw.values()) + found.noise
    each = []
    for name in space.tuned:
        low, high, p = found.interval(columns[(name,)], covariance)
        everywhere = np.concatenate([places for names, places in columns.items() if name in names])
        most = max(found.interval(everywhere, covariance)[1], high)
        alone = max(raw[(name,)], 0.0)
        together = sum(max(v, 0.0) for names, v in raw.items() if name in names)
        variances = np.array([alone, min(low, alone), max(high, alone), together, max(most, together)])
        share, low, high, together, most = np.minimum(variances / total, 1.0).tolist()
        each.append(Importance(name, share, low, high, together, most, p))
    each.sort(key=lambda one: (-one.share, one.p_value))
    pairs = any(len(names) > 1 for names in columns)
    return Importances(tuple(each), len(usable), found.noise / total, pairs, _crowding(space, points, even))


def _inside(space: Space, trials: Sequence[TrialRecord]) -> tuple[list[TrialRecord], Array]:
    """The trials that say how good a configuration of this space is, and their points: (n, len(space))."""
    usable, points = [], []
    for trial in trials:
        if trial.status is Status.FAILED or not (trial.epochs or trial.status is Status.INFEASIBLE):
            continue
        try:
            points.append(space.encode(dict(space.complete(dict(trial.config)))))
        except SpaceError:  # the space was another when the trial began
            continue
        usable.append(trial)
    return usable, np.array(points, dtype=np.float64).reshape(len(usable), len(space))


# -- terms -----------------------------------------------------------------------------------------------------

Terms = dict[tuple[str, ...], list[tuple[int, ...]]]  # each a degree for every hyperparameter it is of, by those


def _groups(space: Space, trials: int) -> Terms | None:
    """The terms of the polynomial, each a degree for every hyperparameter in it: as many as the trials can bear."""
    room = trials // PER_TERM - 1
    for degree in range(DEGREE, 0, -1):
        alone: Terms = {(name,): [(d,) for d in range(1, _most(space, name, degree) + 1)] for name in space.tuned}
        used = sum(map(len, alone.values()))
        if 0 < used <= room:
            pairs: Terms = {
                (a, b): [
                    (i, j)
                    for i in range(1, _most(space, a, 2) + 1)
                    for j in range(1, _most(space, b, 2) + 1)
                    if isinstance(space[a], Choice) or isinstance(space[b], Choice) or i + j <= 3
                ]
                for a, b in combinations(space.tuned, 2)
                if a not in space[b].when and b not in space[a].when  # together they are no more than the child
            }
            fits = used + sum(map(len, pairs.values())) <= room
            return {**alone, **(pairs if fits else {})}
    return None


def _most(space: Space, name: str, degree: int) -> int:
    """The highest degree of a number; of a category, its values but one, whatever the degree."""
    part = space[name]
    if isinstance(part, Choice):
        return len(part.values) - 1
    values = len({part.decode(float(u)) for u in np.linspace(0, 1, 3 * DEGREE)})
    return min(degree, values - 1)


def _features(space: Space, groups: Terms, points: Array) -> Array:
    """The terms at points (n, len(space)), NaN where not active: (n, terms). Not active counts as the middle, 0."""
    basis = {
        name: _basis(space, name, points[:, place], max((d[0] for d in groups[(name,)]), default=0))
        for place, name in enumerate(space.tuned)
    }
    columns: list[Array] = [
        math.prod((basis[name][:, degree - 1] for name, degree in zip(names, degrees, strict=True)), start=np.ones(1))
        for names, terms in groups.items()
        for degrees in terms
    ]
    return np.column_stack([np.empty((len(points), 0)), *columns]).astype(np.float64)


def _basis(space: Space, name: str, units: Array, most: int) -> Array:
    """Functions of one hyperparameter: Legendre polynomials of degrees 1 to `most`, or the values of a category."""
    part = space[name]
    active = ~np.isnan(units)
    if isinstance(part, Choice):
        values = np.minimum(np.nan_to_num(units) * len(part.values), len(part.values) - 1).astype(np.int64)
        held: NDArray[np.bool_] = (values[:, None] == np.arange(1, len(part.values))) & active[:, None]
        return held.astype(np.float64)
    x = 2 * np.where(active, units, 0.5) - 1
    polynomials = np.polynomial.legendre.legvander(x, most)[:, 1:] * np.sqrt(2 * np.arange(1, most + 1) + 1)
    return np.where(active[:, None], polynomials, 0.0).astype(np.float64)


def _columns(groups: Terms) -> dict[tuple[str, ...], NDArray[np.int64]]:
    """Where the terms of each group stand."""
    ends = np.cumsum([len(terms) for terms in groups.values()])
    return {n: np.arange(end - len(groups[n]), end) for n, end in zip(groups, ends.tolist(), strict=True)}


def _evenly(space: Space) -> Array:
    """Points all over the space: (REFERENCE, len(space)), NaN where not active."""
    from scipy.stats import qmc

    cube = qmc.Sobol(max(len(space), 1), scramble=True, rng=np.random.default_rng(0)).random(REFERENCE)
    points: Array = Embedding(space).snapped(cube[:, : len(space)])
    return points


# -- the fit ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    """Coefficients (terms,) with their covariance over `noise`, which has `freedom` degrees of freedom."""

    coefficients: Array
    spread: Array  # (terms, terms)
    noise: float  # variance
    freedom: int

    def variance(self, columns: NDArray[np.int64], covariance: Array) -> float:
        """What these terms explain over the space, less what noise alone would seem to."""
        b, inside = self.coefficients[columns], np.ix_(columns, columns)
        return float(b @ covariance[inside] @ b - self.noise * np.sum(covariance[inside] * self.spread[inside]))

    def interval(self, columns: NDArray[np.int64], covariance: Array) -> tuple[float, float, float]:
        """The ends of the interval of that variance, and the p-value of none (Steiger 2004, section 3)."""
        from scipy import special

        b, inside, q = self.coefficients[columns], np.ix_(columns, columns), len(columns)
        if not q or self.noise <= 0:
            exact = float(b @ covariance[inside] @ b)
            return exact, exact, float(exact == 0)
        statistic = float(b @ np.linalg.pinv(self.spread[inside]) @ b) / self.noise
        p = float(special.fdtrc(q, self.freedom, statistic / q))
        low = _noncentrality(q, self.freedom, statistic / q, (1 + LEVEL) / 2)
        # As if there were at least what noise gives on average: a lucky fit does not make the interval narrower.
        high = _noncentrality(q, self.freedom, max(statistic / q, 1.0), (1 - LEVEL) / 2)
        # In units of variance: along the direction that was found; where none was, along all alike.
        alike = self.noise * float(np.sum(covariance[inside] * self.spread[inside])) / q
        unit = float(b @ covariance[inside] @ b) / statistic if statistic > q else alike
        return low * unit, high * unit, p


def _fit(features: Array, scores: Array) -> _Fit:
    """Least squares with a constant; a touch of ridge, since some values may not have been tried."""
    n, terms = features.shape
    x = np.column_stack([np.ones(n), features])
    inverse = np.linalg.inv(x.T @ x + 1e-3 * np.eye(terms + 1)).astype(np.float64)
    coefficients = inverse @ x.T @ scores
    freedom = n - terms - 1
    noise = float(np.sum((scores - x @ coefficients) ** 2)) / freedom
    return _Fit(coefficients[1:], inverse[1:, 1:], noise, freedom)


def _noncentrality(q: int, freedom: int, statistic: float, below: float) -> float:
    """The noncentrality with which F would be at most this with the probability `below`; 0 where there is none."""
    from scipy import special

    if statistic <= 0 or special.ncfdtr(q, freedom, 0.0, statistic) <= below:
        return 0.0
    low, high = 0.0, 1.0
    while special.ncfdtr(q, freedom, high, statistic) > below and high < 1e9:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if special.ncfdtr(q, freedom, middle, statistic) > below else (low, middle)
    return high


# -- whether trials are spread evenly ----------------------------------------------------------------------------


def _crowding(space: Space, points: Array, even: Array) -> str:
    """A warning where trials crowd in a part of the space; empty where they are spread evenly."""
    from scipy import stats

    worst = (CROWDED / max(len(space), 1), "")
    for place, (name, part) in enumerate(space.tuned.items()):
        units = points[~np.isnan(points[:, place]), place]
        if len(units) < 5:
            continue
        if isinstance(part, Choice):
            counts = np.bincount((units * len(part.values)).astype(int), minlength=len(part.values))
            p = float(stats.chisquare(counts).pvalue) if len(part.values) > 1 else 1.0
            words = f"{counts.max() / len(units):.0%} of them have {name}={part.values[int(counts.argmax())]}"
        else:
            p = float(stats.ks_2samp(units, even[~np.isnan(even[:, place]), place], method="asymp").pvalue)
            ordered, half = np.sort(units), math.ceil(len(units) / 2)
            width = float((ordered[half - 1 :] - ordered[: len(units) - half + 1]).min())
            words = f"half of them lie in {max(width, 0.01):.0%} of the range of {name}"
        if p < worst[0]:
            worst = (p, words)
    if not worst[1]:
        return ""
    return f"the search did not spread trials evenly ({worst[1]}): what it avoided is judged by few of them"
