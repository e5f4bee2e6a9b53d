"""A Gaussian process with a Matérn-5/2 kernel, and the logarithm of the expected improvement.

Rasmussen and Williams 2006, *Gaussian processes for machine learning*, equations 2.25, 2.26, 2.30, 4.17 and 5.9;
Hvarfner, Hellsten and Nardi 2024, *Vanilla Bayesian optimization performs great in high dimensions*, ICML;
Ament et al. 2023, *Unexpected improvements to expected improvement for Bayesian optimization*, NeurIPS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

JITTER = 1e-8  # added to the noise, for the Cholesky factor
LEAST_VARIANCE = 1e-10
MOST_STEPS, TOLERANCE = 40, 1e-6  # of the optimiser; the tolerance is relative to the loss
NOISE = (-6.0, 1.5)  # mean and standard deviation of the logarithm of the noise's variance
SIGNAL = (0.0, 1.0)  # and of the signal's: targets have variance 1
SQRT5 = math.sqrt(5)


@dataclass(frozen=True)
class Kernel:
    """`signal` * Matérn-5/2 of the distance, each feature divided by the length of its group; `noise` are variances.

    `groups`: (features,), the number of the group of each feature, such as the columns that stand for one category.
    """

    lengths: Array  # (groups,)
    signal: float
    noise: float
    groups: NDArray[np.intp]

    def scaled(self, features: Array) -> Array:
        return features / self.lengths[self.groups]

    def between(self, features: Array, others: Array) -> tuple[Array, Array]:
        """Covariances, and their derivatives by half the squared scaled distance: (n, m) each."""
        return _matern(_squares(self.scaled(features), self.scaled(others)), self.signal)

    def by_length(self, features: Array, pairs: Array) -> Array:
        """The slope of a function by the logarithms of the lengths: (groups,).

        `pairs`: (n, n), its derivatives by half the squared scaled distances of `features` (n, features).
        """
        scaled = self.scaled(features)
        by_feature = 2 * (np.einsum("ij,ij->j", scaled, pairs @ scaled) - pairs.sum(axis=1) @ scaled**2)
        return np.bincount(self.groups, by_feature, minlength=len(self.lengths)).astype(np.float64)


@dataclass(frozen=True)
class Posterior:
    """The process given targets at `features` (n, features), each with noise. Several targets share their features.

    `weights`: (n, s), the inverse covariance times the targets. `precision`: (n, n), that inverse.
    """

    kernel: Kernel
    features: Array
    weights: Array
    precision: Array

    @classmethod
    def of(cls, kernel: Kernel, features: Array, targets: Array) -> Posterior:
        """`targets`: (n,) or (n, s). Mean zero is assumed."""
        covariance = kernel.between(features, features)[0]
        covariance[np.diag_indices_from(covariance)] += kernel.noise + JITTER
        precision, _ = inverse(covariance)
        return cls(kernel, features, precision @ targets.reshape(len(targets), -1), precision)

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Means (m, s) and variance (m,) of the process, without the noise."""
        covariance = self.kernel.between(features, self.features)[0]
        explained = np.einsum("ij,ij->i", covariance @ self.precision, covariance)
        return covariance @ self.weights, np.maximum(self.kernel.signal - explained, LEAST_VARIANCE)

    def joint(self, features: Array) -> tuple[Array, Array]:
        """Means (m, s) and covariance (m, m) of the process, without the noise."""
        covariance = self.kernel.between(features, self.features)[0]
        prior = self.kernel.between(features, features)[0]
        return covariance @ self.weights, prior - covariance @ self.precision @ covariance.T


def fit(features: Array, targets: Array, groups: NDArray[np.intp]) -> Kernel:
    """The most probable kernel: marginal likelihood times the priors of its logarithms.

    Lengths have a log-normal prior of median exp(sqrt(2)) * sqrt(groups) and shape sqrt(3) (Hvarfner et al. 2024,
    section 5.1). `features`: (n, features); `targets`: (n,), of mean 0 and variance 1.
    """
    from scipy.optimize import minimize

    count = int(groups.max(initial=-1)) + 1
    mean = np.array([*[math.sqrt(2) + 0.5 * math.log(max(count, 1))] * count, SIGNAL[0], NOISE[0]])
    deviation = np.array([*[math.sqrt(3)] * count, SIGNAL[1], NOISE[1]])

    def loss(logs: Array) -> tuple[float, Array]:
        value, slope = log_likelihood(kernel_of(logs, groups), features, targets)
        z = (logs - mean) / deviation
        return 0.5 * float(z @ z) - value, z / deviation - slope

    start = mean.copy()
    start[:count] = np.log(0.5 * math.sqrt(max(count, 1)))
    bounds = [*[(math.log(0.01), math.log(1000.0))] * count, (math.log(1e-2), math.log(1e2)), (math.log(1e-6), 0.0)]
    options = {"maxiter": MOST_STEPS, "ftol": TOLERANCE}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return kernel_of(found.x, groups)


def kernel_of(logs: Array, groups: NDArray[np.intp]) -> Kernel:
    """The kernel whose lengths, signal and noise have these logarithms: (groups + 2,)."""
    values = np.exp(logs)
    return Kernel(values[:-2], float(values[-2]), float(values[-1]), groups)


def log_likelihood(kernel: Kernel, features: Array, targets: Array) -> tuple[float, Array]:
    """The log marginal likelihood, and its slope by the logarithms of lengths, signal and noise: (groups + 2,)."""
    covariance, slopes = kernel.between(features, features)
    noisy = covariance.copy()
    noisy[np.diag_indices_from(noisy)] += kernel.noise + JITTER
    precision, log_determinant = inverse(noisy)
    weights = precision @ targets
    value = -0.5 * (targets @ weights + log_determinant + len(targets) * math.log(2 * math.pi))
    inner = np.outer(weights, weights) - precision  # equation 5.9
    by_length = kernel.by_length(features, 0.5 * inner * slopes)
    by_signal = 0.5 * np.sum(inner * covariance)
    return float(value), np.array([*by_length, by_signal, 0.5 * kernel.noise * np.trace(inner)])


def inverse(covariance: Array) -> tuple[Array, float]:
    """The inverse and the logarithm of the determinant, with more noise where rounding left too little to have one."""
    from scipy.linalg import lapack

    for more in (0.0, 1e-4, 1e-2, 1.0):
        factor, failed = lapack.dpotrf(covariance + more * np.eye(len(covariance)), lower=1)
        if not failed:
            break
    lower = np.tril(lapack.dpotri(factor, lower=1)[0])
    return lower + np.tril(lower, -1).T, 2 * float(np.log(np.diag(factor)).sum())


def log_improvement(z: Array) -> tuple[Array, Array]:
    """log(phi(z) + z Phi(z)), exact to the far left, and its slope (Ament et al. 2023, equation 9).

    The expected improvement on b of a normal variable, to be minimised, is its deviation times that of
    z = (b - mean) / deviation.
    """
    from scipy.special import erfcx, log_ndtr, ndtr

    value = np.empty_like(z)
    near, far = z > -1, z < -1e6
    middle = ~near & ~far
    value[near] = np.log(np.exp(-0.5 * z[near] ** 2) / math.sqrt(2 * math.pi) + z[near] * ndtr(z[near]))
    left = -z[middle]
    share = np.log(erfcx(left / math.sqrt(2)) * left) + 0.5 * math.log(math.pi / 2)  # of z Phi(z) in phi(z)
    value[middle] = -0.5 * left**2 - 0.5 * math.log(2 * math.pi) + np.log(-np.expm1(np.minimum(share, -1e-16)))
    value[far] = -0.5 * z[far] ** 2 - 0.5 * math.log(2 * math.pi) - 2 * np.log(-z[far])
    return value, np.exp(log_ndtr(z) - value)


def _squares(scaled: Array, others: Array) -> Array:
    """Squared distances: (n, m)."""
    squares = -2 * scaled @ others.T
    squares += np.sum(scaled**2, axis=1)[:, None]
    squares += np.sum(others**2, axis=1)
    return np.maximum(squares, 0.0, out=squares)


def _matern(squares: Array, signal: float) -> tuple[Array, Array]:
    """Equation 4.17 for nu = 5/2, and its derivative by half the square."""
    distance = SQRT5 * np.sqrt(squares)
    decay = signal * np.exp(-distance)
    slopes = decay * (1 + distance)
    covariance = slopes + (5 / 3) * squares * decay
    slopes *= -5 / 3
    return covariance, slopes
