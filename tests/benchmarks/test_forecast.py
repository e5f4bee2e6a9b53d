"""Forecasts of the ends of curves: their distribution, and that the past of the study sets them right."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.search.forecast import LEAST, Forecast, _without, forecast
from rheostat.schedule.curve_process import CurveProcess, Observed, log_time

LEVELS = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])


def process(trials: int, seed: int, lengths: tuple[int, ...] = (2, 4, 8, 32), fall: float = 0.7) -> CurveProcess:
    """Curves of powers of the epoch, over one hyperparameter; each is known to one of these lengths."""
    rng = np.random.default_rng(seed)
    rows = []
    for trial in range(trials):
        x, length = rng.random(), lengths[trial % len(lengths)]
        rows += [(x, trial, e, x + fall * e**-0.7) for e in sorted({max(length >> k, 1) for k in range(4)})]
    table = np.array(rows)
    times = log_time(table[:, 2].astype(np.int64), 32)
    observed = Observed(table[:, :1], table[:, 1].astype(np.int64), times, table[:, 3])
    return CurveProcess(np.array([0]), observed, np.arange(len(rows)))


def test_quantiles_and_probabilities_are_each_others_inverse() -> None:
    found = Forecast(np.full(2, 1.0), np.log([0.2, 0.05]), np.array([0.5, 1.0]), np.array([4.0, 9.0]))
    for level in LEVELS:
        values = found.quantiles(np.array([level]))[:, 0]
        falls = values < 1.0
        assert found.below(values)[falls] == pytest.approx(level)
        assert (found.below(values) >= level - 1e-9).all()
    assert found.below(np.ones(2)) == pytest.approx(1.0)
    assert found.below(np.full(2, 1 - LEAST / 2)) == pytest.approx(found.below(np.full(2, 1 - LEAST)))


def test_quantiles_rise_and_never_lie_above_the_lowest_value_until_now() -> None:
    p = process(20, 0)
    found = forecast(p, np.arange(20), np.ones(20))
    quantiles = found.quantiles(LEVELS)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (quantiles <= found.current[:, None]).all()


def test_points_left_out_are_predicted_as_by_the_process_without_them() -> None:
    p = process(8, 1)
    out = np.flatnonzero(p.observed.trials == 3)[1:]
    rest = np.setdiff1d(np.arange(len(p.weights)), out)
    observed = p.observed.at(rest)
    other = object.__new__(CurveProcess)
    other.__dict__.update(p.__dict__)
    covariance = p._covariance(observed, observed) + p.noise * np.eye(len(rest))
    targets = np.linalg.solve(p.precision, p.weights)[rest]
    other.observed, other.precision = observed, np.linalg.inv(covariance)
    other.weights = other.precision @ targets
    last = out[-1:]
    mean, deviation = other.predict(p.observed.features[last], np.array([3]), p.observed.times[last])
    assert _without(p, out) == pytest.approx((mean[0], deviation[0]), rel=1e-3, abs=1e-4)


def test_curves_of_the_history_that_went_flat_make_a_small_fall_likelier() -> None:
    falls = []
    for fall in (0.0, 2.0):
        p = process(40, 2, fall=fall)
        found = forecast(p, np.array([2]), np.ones(1))
        falls.append(float(found.current[0] - found.quantiles(np.array([0.5]))[0, 0]))
    assert falls[0] < falls[1]


def test_a_history_of_single_points_leaves_the_prior() -> None:
    found = forecast(process(6, 3, lengths=(1,)), np.array([0, 5]), np.ones(2))
    assert np.isfinite(found.quantiles(LEVELS)).all()


def test_trials_that_were_not_observed_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[77\]"):
        forecast(process(6, 0), np.array([1, 77]), np.ones(2))
