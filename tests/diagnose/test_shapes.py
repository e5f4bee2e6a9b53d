"""Shapes of curves against plain Python and NumPy."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.diagnose import shapes
from rheostat.diagnose.base import Observations
from rheostat.types import Status

VALUES = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=30)


@given(VALUES, st.floats(0.0, 0.5))
def test_rises_counts_the_epochs_that_end_higher(values: list[float], margin: float) -> None:
    up = [later - earlier > margin * earlier for earlier, later in pairwise(values)]
    expected = sum(up) / len(up) if up else math.nan
    assert shapes.rises(np.array(values), margin) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert shapes.first_rise(np.array(values), margin) == (up.index(True) + 2 if any(up) else 0)


@given(VALUES, st.sampled_from([1, 3, 5]))
def test_smooth_is_a_running_median_with_the_ends_standing_in(values: list[float], width: int) -> None:
    half = width // 2
    long = [values[0]] * half + values + [values[-1]] * half
    assert shapes.smooth(np.array(values), width).tolist() == [median(long[i : i + width]) for i in range(len(values))]


@given(VALUES)
def test_the_middle_is_the_median(values: list[float]) -> None:
    assert shapes.middle(np.array(values)) == pytest.approx(median(values))


def test_gaps_are_passed_over() -> None:
    curve = np.array([math.nan, 3.0, math.inf, 2.0, math.nan])
    assert shapes.measured(curve)[0].tolist() == [2.0, 4.0]
    assert (shapes.first(curve), shapes.last(curve), shapes.best_epoch(curve)) == (3.0, 2.0, 4)
    assert shapes.best_epoch(np.array([math.nan])) == 0


def test_the_noise_of_noise_on_a_line_is_its_standard_deviation() -> None:
    rng = np.random.default_rng(0)
    curve = 10 - 1e-3 * np.arange(5000) + rng.normal(0, 0.1, 5000)
    assert shapes.noise(curve) * np.median(curve) == pytest.approx(0.1, rel=0.05)


def test_falls_and_slopes_of_an_exponential() -> None:
    curve = np.exp(-0.1 * np.arange(1.0, 41.0))
    assert shapes.log_slope(curve) == pytest.approx(-0.1)
    assert shapes.last_fall(curve) == pytest.approx(1 - math.exp(-0.1 * 9), abs=0.02)  # from the middles of the ends
    assert shapes.total_fall(curve, 2.0) == pytest.approx(1 - curve[-1] / 2)
    assert shapes.monotone(curve) == pytest.approx(1)
    assert shapes.rise_after_best(np.array([2.0, 1.0, 1.5, 1.5])) == pytest.approx(0.5)


def test_where_a_loss_was_lost() -> None:
    curve = np.array([2.0, 1.0, math.nan, math.nan])
    assert shapes.breakdown(Observations({"train_loss": curve})) is None  # a user's loop may not report it always
    assert shapes.breakdown(Observations({"train_loss": curve}, facts={"examples": 9.0})) == 3
    assert shapes.breakdown(Observations({"train_loss": np.array([2.0, math.inf])})) == 2
    assert shapes.breakdown(Observations({}, first={0: math.nan})) == 0
    assert shapes.breakdown(Observations({}, first={0: 2.0, 4: math.inf})) == 1
    lost = Observations({"train_loss": curve[:2]}, status=Status.INFEASIBLE, reason="training loss nan at step 99")
    assert shapes.breakdown(lost) == 3
    full = Observations({"train_loss": curve[:2]}, status=Status.INFEASIBLE, reason="out of memory at step 9")
    assert shapes.breakdown(full) is None
