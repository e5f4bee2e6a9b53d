from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from rheostat.schedule.hyperband import Hyperband
from rheostat.search.bohb import BOHB, rule_of_thumb
from rheostat.search.parzen import axis_of
from rheostat.search.random import Random
from rheostat.space import Choice, Float, Space
from rheostat.types import Config, Continue, History, Status, TrialRecord
from tests.schedule.test_contract import Simulation
from tests.search.test_contract import keys, measured

SPACE = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))


def test_it_draws_from_the_priors_until_a_model_can_be_fitted() -> None:
    """Two hyperparameters: N_min is 3, and good and bad trials together must be more."""
    few = measured(SPACE, 3, float)
    assert keys(BOHB(SPACE).suggest(few, 3, np.random.default_rng(0))) == keys(
        Random(SPACE).suggest(few, 3, np.random.default_rng(0))
    )
    enough = measured(SPACE, 4, float)
    assert keys(BOHB(SPACE).suggest(enough, 3, np.random.default_rng(0))) != keys(
        Random(SPACE).suggest(enough, 3, np.random.default_rng(0))
    )


def test_a_third_is_drawn_from_the_priors() -> None:
    """Those from the model lie close to the good trials, which are all at one place."""
    configs = [*[Config(x=0.25, y=0.25)] * 12, *SPACE.sample(np.random.default_rng(0), 60)]
    trials = [TrialRecord(i, c, Status.DONE, (0.0 if i < 12 else 1.0,), 1) for i, c in enumerate(configs)]
    found = BOHB(SPACE).suggest(History(tuple(trials)), 600, np.random.default_rng(0))
    close = np.mean([math.dist((c.x, c.y), (0.25, 0.25)) < 0.02 for c in found])
    assert abs(close - 2 / 3) < 0.06


def test_the_model_is_that_of_the_largest_epoch_that_enough_trials_reached() -> None:
    """What is good after one epoch is bad after nine, which ten trials reached."""
    rng = np.random.default_rng(3)
    left = [Config(x=0.2 + 0.02 * rng.random(), y=rng.random()) for _ in range(30)]
    right = [Config(x=0.8 + 0.02 * rng.random(), y=rng.random()) for _ in range(30)]
    rows = [(c, (0.1,)) for c in left] + [(c, (0.9,)) for c in right]
    early = [TrialRecord(i, c, Status.PAUSED, v, 1) for i, (c, v) in enumerate(rows)]
    late = [
        TrialRecord(t.number, t.config, t.status, (*t.values * 8, 1.0 - t.values[0]), 9) if t.number % 30 < 5 else t
        for t in early
    ]

    def share_on_the_right(trials: list[TrialRecord]) -> float:
        found = BOHB(SPACE).suggest(History(tuple(trials)), 60, np.random.default_rng(0))
        return float(np.mean([c.x > 0.5 for c in found]))

    assert share_on_the_right(early) < 0.35
    assert share_on_the_right(late) > 0.6


def test_the_widths_are_those_of_the_normal_reference_rule() -> None:
    """statsmodels' `normal_reference`, which the paper's program takes: 1.06 s n^(-1/(4 + d))."""
    axes = [axis_of(part) for part in (Float(0.0, 1.0), Float(0.0, 1.0), Choice(["a", "b"]))]
    rows = np.column_stack([np.linspace(0.2, 0.6, 9), np.full(9, 0.5), [0.0] * 8 + [1.0]])
    expected = 1.06 * rows.std(axis=0) * 9 ** (-1 / 7)
    assert rule_of_thumb(axes, rows) == pytest.approx([expected[0], 1e-3, expected[2]])
    assert rule_of_thumb(axes, rows[:0]).tolist() == [1e-3] * 3
    mixed = np.column_stack([rows[:, :2], [0.0, 1.0] * 4 + [0.0]])
    assert rule_of_thumb(axes, mixed)[2] <= 0.5


def test_the_ratio_is_that_of_two_kernel_densities() -> None:
    """Far from the ends of the range, where cutting the kernels off changes nothing."""
    rng = np.random.default_rng(0)
    configs = [Config(x=float(x), y=float(y)) for x, y in 0.5 + 0.05 * rng.standard_normal((40, 2))]
    trials = tuple(TrialRecord(i, c, Status.DONE, (float(i),), 1) for i, c in enumerate(configs))
    searcher = BOHB(SPACE)
    ratio = searcher._ratios(searcher._observer.observe(History(trials), 4))[0]
    points = np.array([[c.x, c.y] for c in configs])
    where = 0.5 + 0.05 * rng.standard_normal((20, 2))
    for mixture, rows in ((ratio.good, points[:6]), (ratio.bad, points[6:])):
        widths = 1.06 * rows.std(axis=0) * len(rows) ** (-1 / 6)
        expected = [np.mean(np.prod(norm.pdf(at, rows, widths), axis=1)) for at in where]
        assert mixture.density(where) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("troubles", [0.0, 0.4])
def test_with_hyperband_it_is_a_study_that_ends(troubles: float) -> None:
    sim = Simulation(Hyperband(BOHB(SPACE), 60, 27), 27, places=4, seed=0, troubles=troubles)
    continued = sum(isinstance(a, Continue) for assignments in sim.run() for a in assignments)
    assert len(sim.trials) == 60 and continued > 5
