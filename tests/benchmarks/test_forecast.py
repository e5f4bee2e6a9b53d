"""Forecasts of the ends of curves: their distribution, and what they go by."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import t as student

from benchmarks.search.forecast import INPUTS, LEAST, Coefficients, Forecast, distribution, forecast, inputs
from rheostat.schedule.curve_process import CurveProcess, Observed, log_time

LEVELS = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
EPOCHS = 32


def study(trials: int, seed: int, lengths: tuple[int, ...] = (2, 4, 8, 32)) -> tuple[CurveProcess, list[np.ndarray]]:
    """Curves of powers of the epoch, over one hyperparameter; each is known to one of these lengths."""
    rng = np.random.default_rng(seed)
    rows, curves = [], []
    for trial in range(trials):
        x, length = rng.random(), lengths[trial % len(lengths)]
        curve = x + 0.7 * np.arange(1, length + 1) ** -0.7
        curves.append(curve)
        rows += [(x, trial, e, curve[e - 1]) for e in sorted({max(length >> k, 1) for k in range(4)})]
    table = np.array(rows)
    times = log_time(table[:, 2].astype(np.int64), EPOCHS)
    observed = Observed(table[:, :1], table[:, 1].astype(np.int64), times, table[:, 3])
    return CurveProcess(np.array([0]), observed, np.arange(len(rows))), curves


def one(still: float, centre: float = -2.0, scale: float = 0.5, freedom: float = 4.0, current: float = 1.0) -> Forecast:
    return Forecast(np.array([current]), np.array([still]), np.array([centre]), np.array([scale]), freedom)


def test_below_is_the_integral_of_a_students_t_that_is_cut_off() -> None:
    found = one(0.3)
    density = student(4.0, -2.0, 0.5)
    whole = quad(density.pdf, math.log(LEAST), math.inf)[0]
    for fall in (0.01, 0.1, 0.4):
        beyond = quad(density.pdf, math.log(fall), math.inf)[0]
        assert found.below(np.array([1 - fall]))[0] == pytest.approx(0.7 * beyond / whole)
    # All that is left, 0.3, is where it does not fall.
    assert found.below(np.array([1 - LEAST / 2]))[0] == pytest.approx(0.7)
    assert found.below(np.array([1.0]))[0] == 1.0


@given(
    still=st.floats(0, 1),
    centre=st.floats(-12, 1),
    scale=st.floats(0.05, 3),
    freedom=st.floats(2.01, 50),
    level=st.floats(0.001, 0.999),
)
def test_quantiles_are_the_lowest_values_with_at_least_that_probability(
    still: float, centre: float, scale: float, freedom: float, level: float
) -> None:
    found = one(still, centre, scale, freedom)
    value = found.quantiles(np.array([level]))[0, 0]
    assert value <= 1.0
    assert found.below(np.array([value]))[0] >= level - 1e-6
    if value < 1.0:
        assert found.below(np.array([value]))[0] == pytest.approx(level, abs=1e-6)


def test_quantiles_rise_and_never_lie_above_the_lowest_value_until_now() -> None:
    process, curves = study(20, 0)
    found = forecast(process, curves, np.arange(20), np.full(20, EPOCHS), EPOCHS)
    quantiles = found.quantiles(LEVELS)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert (quantiles <= found.current[:, None]).all()


def test_a_trial_at_its_end_stays() -> None:
    process, curves = study(8, 1)
    found = forecast(process, curves, np.array([3, 2]), np.full(2, EPOCHS), EPOCHS)
    assert found.quantiles(LEVELS)[0] == pytest.approx(np.full(len(LEVELS), curves[3][-1]))
    assert found.still[1] < 1


def test_inputs_are_what_they_say() -> None:
    process, curves = study(8, 2)
    curves[2] = np.array([0.9, 0.8, 0.7, 0.7, 0.7, 0.699, 0.699, 0.699])  # 0.001 counts as no fall
    trials, ends = np.array([2]), np.array([EPOCHS])
    found = dict(zip(INPUTS, inputs(process, curves, trials, ends, EPOCHS)[0], strict=True))
    mean, deviation = process.predict(process.observed.features[process.observed.trials == 2][:1], trials, np.ones(1))
    assert found["said"] == pytest.approx(math.log(max(0.699 - mean[0], 0) + 0.02))
    assert found["deviation"] == pytest.approx(math.log(deviation[0] + 0.001))
    assert found["left"] == pytest.approx(math.log(4))
    assert found["flat"] == pytest.approx(math.log(8 / 3))
    assert found["slope"] == pytest.approx(math.log(0.001 / math.log(2) * math.log(4) + LEAST))
    assert (found["one"], found["first"], found["worst"]) == (1, 0, 0)


def test_the_longer_a_curve_is_flat_the_likelier_it_stays() -> None:
    process, curves = study(8, 3)
    chances = []
    for flat in (0, 3, 6):
        curves[2] = np.concatenate([np.linspace(0.9, 0.5, 8 - flat), np.full(flat, 0.5)])
        chances.append(forecast(process, curves, np.array([2]), np.array([EPOCHS]), EPOCHS).still[0])
    assert chances == sorted(chances)
    assert chances[-1] > chances[0] + 0.1


def test_coefficients_that_are_not_named_count_nothing() -> None:
    x = np.ones((3, len(INPUTS)))
    found = distribution(x, np.ones(3), Coefficients({"left": 1.0}, {"said": -2.0}, {"one": 0.5}, 5.0))
    assert found.still == pytest.approx(np.full(3, 1 / (1 + math.exp(-1))))
    assert found.centre == pytest.approx(np.full(3, -2.0))
    assert found.scale == pytest.approx(np.full(3, math.exp(0.5)))


def test_a_history_of_single_points_can_be_forecast() -> None:
    process, curves = study(6, 3, lengths=(1,))
    found = forecast(process, curves, np.array([0, 5]), np.full(2, EPOCHS), EPOCHS)
    assert np.isfinite(found.quantiles(LEVELS)).all()


def test_trials_that_were_not_observed_are_named() -> None:
    process, curves = study(6, 0)
    with pytest.raises(ValueError, match=r"\[77\]"):
        forecast(process, curves, np.array([1, 77]), np.full(2, EPOCHS), EPOCHS)
