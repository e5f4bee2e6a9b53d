"""The process over learning curves: its arithmetic against plain formulas, its predictions against held-out curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import check_grad
from scipy.stats import multivariate_normal

from rheostat.schedule.curve_process import SLOPE, CurveProcess, Observed, _in_time, log_time


def curves(n: int, seed: int, epochs: int = 27) -> Observed:
    """Curves of one hyperparameter that matters and one that does not, some of them short."""
    rng = np.random.default_rng(seed)
    rows = []
    for trial in range(n):
        x = rng.random(2)
        floor = (x[0] - 0.3) ** 2 * 4
        trained = (1, 3, 9, 27)[: rng.integers(1, 5)]
        rows += [(*x, trial, epoch, floor + (1.2 - floor) * epoch**-0.7) for epoch in trained]
    table = np.array(rows)
    times = log_time(table[:, 3].astype(np.int64), epochs)
    return Observed(table[:, :2], table[:, 2].astype(np.int64), times, table[:, 4])


GROUPS = np.array([0, 1])


def process(observed: Observed, groups: np.ndarray = GROUPS) -> CurveProcess:
    return CurveProcess(groups, observed, np.arange(len(observed.values)))


def covariance(p: CurveProcess, one: tuple[np.ndarray, int, float], other: tuple[np.ndarray, int, float]) -> float:
    """The kernel of the docstring, point by point."""
    (x, i, t), (y, j, s) = one, other
    r = math.sqrt(sum(((a - b) / length) ** 2 for a, b, length in zip(x, y, p.kernel.lengths, strict=True)))
    alike = (1 + math.sqrt(5) * r + 5 / 3 * r * r) * math.exp(-math.sqrt(5) * r)
    v, apart = p.variances, abs(t - s)
    own = (1 + math.sqrt(3) * apart) * math.exp(-math.sqrt(3) * apart)
    trial = v[3] + v[4] * own if i == j else 0.0
    return float(alike * (v[0] + v[1] * math.exp(-apart)) + v[2] * (t - 0.5) * (s - 0.5) + trial + 1.0)


def test_predictions_are_those_of_the_conditional_normal_distribution() -> None:
    observed = curves(8, 0)
    p = process(observed)
    points = [(observed.features[k], int(observed.trials[k]), float(observed.times[k])) for k in range(len(p.weights))]
    asked = [(np.array([0.2, 0.9]), -1, 1.0), (observed.features[0], int(observed.trials[0]), 1.0), points[3]]
    prior = np.array([[covariance(p, a, b) for b in points] for a in points]) + p.noise * np.eye(len(points))
    cross = np.array([[covariance(p, a, b) for b in points] for a in asked])
    targets = (observed.values - p.shift) / p.spread - SLOPE * (observed.times - p.middle)
    times = np.array([t for _, _, t in asked])
    mean = cross @ np.linalg.solve(prior, targets) + SLOPE * (times - p.middle)
    left = [covariance(p, a, a) for a in asked] - np.einsum("ij,ji->i", cross, np.linalg.solve(prior, cross.T))
    found, deviation = p.predict(np.array([x for x, _, _ in asked]), np.array([i for _, i, _ in asked]), times)
    np.testing.assert_allclose(found, p.shift + p.spread * mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(deviation, p.spread * np.sqrt(np.maximum(left, 1e-9)), rtol=1e-3, atol=1e-5)


@given(seed=st.integers(0, 10**6), n=st.integers(4, 12))
def test_the_loss_is_that_of_likelihood_and_prior_and_its_gradient_is_right(seed: int, n: int) -> None:
    observed = curves(n, seed)
    p = process(observed)
    targets = (observed.values - p.shift) / p.spread - SLOPE * (observed.times - p.middle)
    same = observed.trials[:, None] == observed.trials
    given_ = (observed.features, _in_time(observed.times, observed.times), same, targets)
    mean, deviation = p._prior.T
    logs = mean + 0.5 * deviation * np.random.default_rng(seed).standard_normal(len(mean))
    loss, gradient = p._loss(logs, *given_)
    points = [(observed.features[k], int(observed.trials[k]), float(observed.times[k])) for k in range(len(targets))]
    full = np.array([[covariance(p, a, b) for b in points] for a in points]) + p.noise * np.eye(len(points))
    likelihood = multivariate_normal.logpdf(targets, np.zeros(len(targets)), full, allow_singular=True)
    constant = 0.5 * len(targets) * math.log(2 * math.pi)
    assert loss == pytest.approx(-likelihood - constant + 0.5 * (((logs - mean) / deviation) ** 2).sum(), rel=1e-5)
    wrong = check_grad(lambda z: p._loss(z, *given_)[0], lambda z: p._loss(z, *given_)[1], logs)
    assert wrong < 1e-3 * max(np.linalg.norm(gradient), 1.0)


def test_it_knows_which_configuration_ends_best_from_short_curves_of_others() -> None:
    p = process(curves(40, 1))
    grid = np.column_stack([np.linspace(0, 1, 101), np.full(101, 0.5)])
    mean, deviation = p.predict(grid, np.full(101, -1), np.ones(101))
    assert abs(grid[mean.argmin(), 0] - 0.3) < 0.06
    truth = (grid[:, 0] - 0.3) ** 2 * 4
    truth = truth + (1.2 - truth) * 27**-0.7
    assert np.abs(mean - truth).max() < 0.25
    assert np.mean(np.abs(mean - truth) < 2 * deviation + 0.02) > 0.9


def test_a_trial_that_was_seen_is_better_known_than_a_new_one_of_the_same_configuration() -> None:
    observed = curves(10, 2)
    p = process(observed)
    x = observed.features[:1]
    _, seen = p.predict(x, observed.trials[:1], observed.times[:1])
    _, new = p.predict(x, np.array([-1]), observed.times[:1])
    assert seen[0] < new[0]


def test_equal_values_and_equal_points_are_no_trouble() -> None:
    features, trials = np.full((6, 2), 0.5), np.arange(6)
    for values in (np.zeros(6), np.full(6, 1e300) * 0 + 3.0):
        mean, deviation = process(Observed(features, trials, np.zeros(6), values)).predict(
            features[:1], np.array([-1]), np.zeros(1)
        )
        assert mean[0] == pytest.approx(values[0], abs=0.05)
        assert 0 < deviation[0] < 1


def test_a_space_without_hyperparameters_has_curves_too() -> None:
    observed = curves(5, 3)
    p = process(
        Observed(np.empty((len(observed.values), 0)), observed.trials, observed.times, observed.values), GROUPS[:0]
    )
    mean, _ = p.predict(np.empty((1, 0)), np.array([-1]), np.ones(1))
    assert np.isfinite(mean).all()
