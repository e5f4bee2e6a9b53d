"""The bench of calibration: its studies and its scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.search.calibration import LEVELS, Normal, halved, lines_of, make_case, rows_of, scores
from benchmarks.search.tables import Table
from rheostat.space import Float, Space


def table(rows: int = 40, epochs: int = 20) -> Table:
    rng = np.random.default_rng(0)
    points = rng.random((rows, 1))
    curves = [x + 0.7 * np.arange(1, epochs + 1) ** -0.6 + 0.01 * rng.random(epochs) for x in points[:, 0]]
    return Table("made", "up", Space(x=Float(0, 1)), points, tuple(curves))


def test_the_better_third_goes_on() -> None:
    curves = [np.full(9, float(i)) for i in range(9)]
    assert halved(curves, (1, 3, 9)) == [9, 3, 3, 1, 1, 1, 1, 1, 1]
    curves[0] = np.array([0.0, math.nan])
    assert halved(curves, (1, 3, 9)) == [2, 9, 3, 1, 1, 1, 1, 1, 1]


def test_of_asked_trials_only_the_first_share_is_known() -> None:
    case = make_case(table(), 0, 0.2)
    assert case is not None
    assert [len(case.curves[trial]) for trial in case.asked] == [4] * len(case.asked)
    assert (case.truth <= case.current).all()


def test_true_distributions_cover_at_their_levels_and_false_ones_do_not() -> None:
    rng = np.random.default_rng(1)
    truth = np.minimum(rng.standard_normal(4000), 0.5)  # a third of them are at the ceiling
    ceiling = np.full(4000, 0.5)
    covered, likely, _ = scores(Normal(np.zeros(4000), np.ones(4000), ceiling), truth)
    assert covered.mean(axis=0) == pytest.approx(LEVELS, abs=0.03)
    narrow, unlikely, _ = scores(Normal(np.zeros(4000), np.full(4000, 0.3), ceiling), truth)
    assert narrow[:, 0].mean() > 0.15
    assert unlikely.mean() < likely.mean()


def test_every_method_has_a_row_for_each_share() -> None:
    rows = list(rows_of([table()], 1, ["forecast", "process", "last value", "power law"]))
    assert len(rows) == 12
    assert all(np.isfinite(row["log_likelihood"]) for row in rows)
    lines = list(lines_of(rows))
    assert len(lines) == 2 + 12 + 1 + 2 + 12
    # One benchmark is all: its distance from the levels is that of all, and that of the first line of means.
    means = [float(cell) for cell in lines[2].split("|")[3:10]]
    mean, largest = lines[17].split("|")[3].split()
    assert lines[17].split("|")[3] == lines[17].split("|")[4]
    assert float(mean) == pytest.approx(np.abs(means - 100 * LEVELS).mean(), abs=1)
    assert float(largest.strip("()")) == pytest.approx(np.abs(means - 100 * LEVELS).max(), abs=1)
