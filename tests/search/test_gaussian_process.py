from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from rheostat.search.gaussian_process import (
    JITTER,
    Kernel,
    Posterior,
    fit,
    inverse,
    kernel_of,
    log_improvement,
    log_likelihood,
)


def problem(seed: int, n: int = 25, d: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.random((n, d))
    targets = np.sin(5 * features[:, 0]) + features[:, 1] ** 2 + 0.05 * rng.standard_normal(n)
    return features, (targets - targets.mean()) / targets.std()


def reference(kernel: Kernel, features: np.ndarray, targets: np.ndarray) -> GaussianProcessRegressor:
    same = ConstantKernel(kernel.signal) * Matern(kernel.lengths[kernel.groups], nu=2.5) + WhiteKernel(kernel.noise)
    return GaussianProcessRegressor(same, alpha=JITTER, optimizer=None).fit(features, targets)


kernels = st.builds(
    lambda lengths, signal, noise: Kernel(np.array(lengths), signal, noise, np.arange(3)),
    st.lists(st.floats(0.1, 5.0), min_size=3, max_size=3),
    st.floats(0.1, 5.0),
    st.floats(1e-4, 1.0),
)


@given(kernel=kernels, seed=st.integers(0, 5))
def test_the_posterior_is_that_of_scikit_learn(kernel: Kernel, seed: int) -> None:
    features, targets = problem(seed)
    points = np.random.default_rng(seed + 100).random((7, 3))
    mean, deviation = reference(kernel, features, targets).predict(points, return_std=True)
    covariance = reference(kernel, features, targets).predict(points, return_cov=True)[1]
    posterior = Posterior.of(kernel, features, targets)
    means, variance = posterior.predict(points)
    assert means[:, 0] == pytest.approx(mean, abs=1e-7)
    assert variance + kernel.noise == pytest.approx(deviation**2, abs=1e-7)
    joint = posterior.joint(points)
    assert joint[0][:, 0] == pytest.approx(mean, abs=1e-7)
    assert joint[1] + kernel.noise * np.eye(7) == pytest.approx(covariance, abs=1e-7)


@given(kernel=kernels, seed=st.integers(0, 5))
def test_the_likelihood_and_its_slope_are_those_of_scikit_learn(kernel: Kernel, seed: int) -> None:
    features, targets = problem(seed)
    process = reference(kernel, features, targets)
    value, slope = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)
    signal, *lengths, noise = slope
    found, slopes = log_likelihood(kernel, features, targets)
    assert found == pytest.approx(value, rel=1e-6)
    assert slopes == pytest.approx([*lengths, signal, noise], rel=1e-4, abs=1e-4)


def test_features_of_a_group_share_their_length() -> None:
    features, targets = problem(1)
    groups = np.array([0, 1, 1])
    logs = np.log([0.7, 1.3, 1.1, 0.02])
    value, slope = log_likelihood(kernel_of(logs, groups), features, targets)
    apart = log_likelihood(kernel_of(np.log([0.7, 1.3, 1.3, 1.1, 0.02]), np.arange(3)), features, targets)
    assert value == pytest.approx(apart[0])
    assert slope == pytest.approx([apart[1][0], apart[1][1] + apart[1][2], *apart[1][3:]])
    numeric = approx_fprime(logs, lambda x: log_likelihood(kernel_of(x, groups), features, targets)[0], 1e-6)
    assert slope == pytest.approx(numeric, rel=1e-3, abs=1e-3)


def test_the_fit_is_the_mode_of_the_posterior() -> None:
    """No step from it is better by the likelihood and the log-normal priors of Hvarfner et al. 2024."""
    features, targets = problem(2, n=40)
    fitted = fit(features, targets, np.arange(3))

    def loss(logs: np.ndarray) -> float:
        kernel = kernel_of(logs, np.arange(3))
        prior = np.sum((logs[:3] - math.sqrt(2) - 0.5 * math.log(3)) ** 2 / 6)
        return -log_likelihood(kernel, features, targets)[0] + prior + logs[3] ** 2 / 2 + (logs[4] + 6) ** 2 / 4.5

    logs = np.log([*fitted.lengths, fitted.signal, fitted.noise])
    rng = np.random.default_rng(0)
    assert all(loss(logs + step) > loss(logs) - 0.02 for step in 0.3 * rng.standard_normal((100, 5)))
    assert fitted.lengths[2] > 3 * fitted.lengths[0]  # the third feature says nothing
    assert 0.001 < fitted.noise < 0.02  # the noise put in has about 0.004 of the variance


@pytest.mark.parametrize("targets", [np.zeros(12), np.array([1.0, -1.0] * 6)])
def test_odd_targets_can_be_fitted(targets: np.ndarray) -> None:
    same = np.full((12, 2), 0.5)
    fitted = fit(same, targets, np.arange(2))
    mean, variance = Posterior.of(fitted, same, targets).predict(same)
    assert np.isfinite(mean).all() and (variance > 0).all()


def test_the_inverse_of_a_covariance_and_of_one_that_has_none() -> None:
    factor = np.random.default_rng(0).standard_normal((6, 9))
    found, log_determinant = inverse(factor @ factor.T)
    assert found == pytest.approx(np.linalg.inv(factor @ factor.T))
    assert log_determinant == pytest.approx(np.linalg.slogdet(factor @ factor.T)[1])
    rounded = np.ones((5, 5)) - 1e-3 * np.eye(5)  # an eigenvalue below 0
    found, log_determinant = inverse(rounded)
    assert found == pytest.approx(np.linalg.inv(rounded + 0.01 * np.eye(5)))


@pytest.mark.parametrize("z", [-30.0, -5.0, -1.01, -0.99, 0.0, 1.3, 8.0])
def test_the_improvement_is_the_integral(z: float) -> None:
    """Of how far a standard normal variable lies below z; scaled by its largest term, to be integrated far out too."""
    shift = -0.5 * min(z, 0.0) ** 2
    integral, _ = integrate.quad(
        lambda t: (z - t) * math.exp(-0.5 * t * t - shift),
        min(z, 0.0) - 12,
        z,
        points=[max(z - 1, -8.0)] if z > 0 else None,
    )
    expected = math.log(integral / math.sqrt(2 * math.pi)) + shift
    assert log_improvement(np.array([z]))[0][0] == pytest.approx(expected, rel=1e-8)


@given(z=st.floats(-1e4, 50.0))
def test_the_slope_of_the_improvement(z: float) -> None:
    step = 1e-5 * max(abs(z), 1.0)
    values, slopes = log_improvement(np.array([z - step, z, z + step]))
    assert slopes[1] == pytest.approx((values[2] - values[0]) / (2 * step), rel=2e-3, abs=1e-6)


@given(z=st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=9))
def test_a_larger_z_is_never_a_smaller_improvement(z: list[float]) -> None:
    values, slopes = log_improvement(np.sort(z))
    assert np.isfinite(values).all() and (np.diff(values) >= -1e-9 * np.abs(values[1:])).all()
    assert np.isfinite(slopes).all() and (slopes >= 0).all()
