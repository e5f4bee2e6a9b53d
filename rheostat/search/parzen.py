"""Mixtures of kernels on the unit cube: one at each point, and a wide one, the prior.

Watanabe 2023, *Tree-structured Parzen estimator: understanding its algorithm components and their roles*,
arXiv:2304.11127, section 3.3: normal kernels cut off at the ends of the range, integrated over its cell for a
discrete value. Aitchison and Aitken 1976, *Multivariate binary discrimination by the kernel method*, for categories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rheostat.space import Choice, Float, Hyperparameter, Int

MOST_CELLS = 64  # of a discrete range; one of more values is taken for continuous
KNOTS = np.linspace(0.0, 1.0, 513)  # priors are interpolated between them

Array = NDArray[np.float64]


class Axis(Protocol):
    """The kernels of one hyperparameter, over codes: unit values, or the numbers of a discrete one's values from 0."""

    def encode(self, units: Array) -> Array:
        """Codes of unit values; NaN stays NaN."""
        ...

    def decode(self, codes: Array) -> Array:
        """Unit values of codes."""
        ...

    def kernel(self, codes: Array, centers: Array, width: float) -> Array:
        """Density (continuous) or probability (discrete) of each code under each center: (codes, centers)."""
        ...

    def prior(self, codes: Array) -> Array:
        """Density or probability of each code under the space's prior."""
        ...

    def draw(self, centers: Array, width: float, rng: np.random.Generator) -> Array:
        """A code from the kernel at each center."""
        ...

    def draw_prior(self, n: int, rng: np.random.Generator) -> Array: ...


def axis_of(part: Hyperparameter) -> Axis:
    """The kernels that suit a hyperparameter."""
    if isinstance(part, Choice):
        return Categories(part)
    step = part.step or (1 if isinstance(part, Int) else math.inf)
    if (part.high - part.low) / step < MOST_CELLS and step < math.inf:
        return Cells(part, step)
    return Line(part)


def encode(axes: Sequence[Axis], points: Array) -> Array:
    """Codes of points (n, axes) of the unit cube."""
    return np.column_stack([np.empty((len(points), 0)), *(a.encode(points[:, d]) for d, a in enumerate(axes))])


class Line:
    """A continuous hyperparameter: normal kernels, cut off at 0 and 1, of standard deviation `width`."""

    def __init__(self, part: Float | Int) -> None:
        self._densities = np.array([part.density(unit) for unit in KNOTS.tolist()]) if part.prior else None
        self._quantiles = np.array([part.quantile(unit) for unit in KNOTS.tolist()]) if part.prior else KNOTS

    def encode(self, units: Array) -> Array:
        return units

    def decode(self, codes: Array) -> Array:
        return codes

    def kernel(self, codes: Array, centers: Array, width: float) -> Array:
        squares = ((codes[:, None] - centers) / width) ** 2
        density: Array = np.exp(-0.5 * squares - self.log_mass(centers, width))
        return density

    @staticmethod
    def log_mass(centers: Array, width: float) -> Array:
        """The logarithm of what divides `exp(-z**2 / 2)`, so that the density integrates to 1 from 0 to 1."""
        left, right = _normal_between(centers, width)
        mass: Array = np.log(width * math.sqrt(2 * math.pi) * (right - left))
        return mass

    def prior(self, codes: Array) -> Array:
        if self._densities is None:
            return np.ones(len(codes))
        found: Array = np.interp(codes, KNOTS, self._densities)
        return found

    def draw(self, centers: Array, width: float, rng: np.random.Generator) -> Array:
        from scipy.special import ndtri

        left, right = _normal_between(centers, width)
        drawn: Array = centers + width * ndtri(left + rng.random(len(centers)) * (right - left))
        return np.clip(drawn, 0.0, 1.0)

    def draw_prior(self, n: int, rng: np.random.Generator) -> Array:
        drawn: Array = np.interp(rng.random(n), KNOTS, self._quantiles)
        return drawn


class Cells:
    """A discrete range of few values: the kernels of `Line`, integrated over the stretch of each value."""

    def __init__(self, part: Float | Int, step: float) -> None:
        values = [part.low + i * step for i in range(int((part.high - part.low) / step + 1e-9) + 1)]
        inner = [part.encode((a + b) / 2) for a, b in pairwise(values)]
        self._edges = np.array([0.0, *inner, 1.0])
        self._centers = np.array([part.encode(value) for value in values])
        mass = np.array([part.density(unit) for unit in self._centers.tolist()]) * np.diff(self._edges)
        self._prior = mass / mass.sum()

    def encode(self, units: Array) -> Array:
        codes = np.searchsorted(self._edges[1:-1], units, side="right")
        return np.where(np.isnan(units), math.nan, codes)

    def decode(self, codes: Array) -> Array:
        return self._centers[codes.astype(np.intp)]

    def kernel(self, codes: Array, centers: Array, width: float) -> Array:
        table = self._table(width)
        return table[codes.astype(np.intp)][:, centers.astype(np.intp)]

    def _table(self, width: float) -> Array:
        """The probability of each value under each center: (values, values); columns sum to 1."""
        from scipy.special import ndtr

        left, right = _normal_between(self._centers, width)
        below = ndtr((self._edges[:, None] - self._centers) / width)
        table: Array = np.diff(below, axis=0) / (right - left)
        return table

    def prior(self, codes: Array) -> Array:
        found: Array = self._prior[codes.astype(np.intp)]
        return found

    def draw(self, centers: Array, width: float, rng: np.random.Generator) -> Array:
        below = np.cumsum(self._table(width), axis=0)[:-1, centers.astype(np.intp)]
        drawn: Array = np.sum(rng.random(len(centers)) > below, axis=0).astype(float)
        return drawn

    def draw_prior(self, n: int, rng: np.random.Generator) -> Array:
        return np.searchsorted(np.cumsum(self._prior)[:-1], rng.random(n), side="right").astype(float)


class Categories:
    """Values without an order: the value of the center has probability 1 - `width`, the others share the rest."""

    def __init__(self, part: Choice) -> None:
        self.size = len(part.values)
        self._prior = np.array(part.probabilities)

    def encode(self, units: Array) -> Array:
        return np.minimum(np.floor(units * self.size), self.size - 1)

    def decode(self, codes: Array) -> Array:
        return (codes + 0.5) / self.size

    def kernel(self, codes: Array, centers: Array, width: float) -> Array:
        if self.size == 1:
            return np.ones((len(codes), len(centers)))
        return np.where(codes[:, None] == centers, 1 - width, width / (self.size - 1))

    def prior(self, codes: Array) -> Array:
        found: Array = self._prior[codes.astype(np.intp)]
        return found

    def draw(self, centers: Array, width: float, rng: np.random.Generator) -> Array:
        if self.size == 1:
            return centers
        other = (centers + rng.integers(1, self.size, len(centers))) % self.size
        return np.where(rng.random(len(centers)) < width, other, centers)

    def draw_prior(self, n: int, rng: np.random.Generator) -> Array:
        return np.searchsorted(np.cumsum(self._prior)[:-1], rng.random(n), side="right").astype(float)


class Mixture:
    """The density that is the weighted mean of the product kernels at `centers` and of the prior.

    `centers`: (k, d), codes. `weights`: (k,), and `prior_weight`, need not sum to 1. `widths`: (d,), the same for
    all centers.
    """

    def __init__(
        self, axes: Sequence[Axis], centers: Array, weights: Array, prior_weight: float, widths: Array
    ) -> None:
        self.axes = axes
        self.centers = centers
        self.weights = weights
        self.prior_weight = prior_weight
        self.widths = widths
        self._lines = [d for d, axis in enumerate(axes) if isinstance(axis, Line)]
        self._scaled, self._offsets = self._prepared(centers)

    def add(self, center: Array, weight: float) -> None:
        """One more kernel, of the same widths."""
        scaled, offsets = self._prepared(center[None])
        self.centers = np.vstack([self.centers, center])
        self.weights = np.append(self.weights, weight)
        self._scaled, self._offsets = np.vstack([self._scaled, scaled]), np.vstack([self._offsets, offsets])

    def density(self, codes: Array) -> Array:
        """At each of the codes (m, c): (m,). Where c is less than d, of the first c axes alone."""
        total = self._kernels(codes) @ self.weights + self.prior_weight * self._prior(codes)
        density: Array = total / (self.weights.sum() + self.prior_weight)
        return density

    def draw(self, n: int, rng: np.random.Generator, given: Array) -> Array:
        """`n` draws (n, d) that begin with the codes `given` (c,): from the conditional density of the others."""
        kernels = self._kernels(given[None])[0] * self.weights
        shares = np.cumsum(np.append(kernels, self.prior_weight * self._prior(given[None])))
        picked = np.searchsorted(shares, rng.random(n) * shares[-1], side="right")
        at_prior = picked >= len(self.centers)
        centers = self.centers[picked[~at_prior]]
        drawn = np.empty((n, len(self.axes)))
        drawn[:, : len(given)] = given
        for d in range(len(given), len(self.axes)):
            drawn[~at_prior, d] = self.axes[d].draw(centers[:, d], self.widths[d], rng)
            drawn[at_prior, d] = self.axes[d].draw_prior(n - len(centers), rng)
        return drawn

    def _kernels(self, codes: Array) -> Array:
        """The kernels at each of the codes (m, c): (m, k)."""
        c = codes.shape[1]
        lines = [d for d in self._lines if d < c]
        scaled = codes[:, lines] / self.widths[lines]
        # -|a - b|^2 / 2 by one product of matrices, which is far quicker than the differences
        kernels = scaled @ self._scaled[:, : len(lines)].T
        kernels -= self._offsets[:, len(lines)]
        kernels -= 0.5 * np.sum(scaled**2, axis=1)[:, None]
        np.exp(kernels, out=kernels)
        for d in range(c):
            if d not in lines:
                kernels *= self.axes[d].kernel(codes[:, d], self.centers[:, d], self.widths[d])
        return kernels

    def _prior(self, codes: Array) -> Array:
        """The prior's density at each of the codes (m, c): (m,)."""
        columns = [self.axes[d].prior(codes[:, d]) for d in range(codes.shape[1])]
        density: Array = np.prod(columns, axis=0) if columns else np.ones(len(codes))
        return density

    def _prepared(self, centers: Array) -> tuple[Array, Array]:
        """Centers in widths (k, lines), and what is subtracted in the exponent for the first lines (k, lines + 1)."""
        scaled = centers[:, self._lines] / self.widths[self._lines]
        offsets = np.zeros((len(centers), len(self._lines) + 1))
        for i, d in enumerate(self._lines):
            offsets[:, i + 1] = offsets[:, i] + 0.5 * scaled[:, i] ** 2 + Line.log_mass(centers[:, d], self.widths[d])
        return scaled, offsets


def _normal_between(centers: Array, width: float) -> tuple[Array, Array]:
    """The normal distribution functions of the centers at 0 and at 1."""
    from scipy.special import ndtr

    return ndtr(-centers / width), ndtr((1 - centers) / width)
