from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from rheostat.errors import SettingError
from rheostat.search.gaussian_process import Kernel, Posterior
from rheostat.search.gp import GP, Acquisition, imagined, side, spread, targets
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, History, Status, TrialRecord
from tests.search.test_contract import keys, measured
from tests.search.test_tpe import HARTMANN, PLANE, branin, hartmann, lowest

RNG = np.random.default_rng(0)
SQUARE = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))


def tried(space: Space, objective: Callable[[Config], float], trials: int, seed: int = 0) -> History:
    configs = space.sample(np.random.default_rng(seed), trials)
    return History(tuple(TrialRecord(i, c, Status.DONE, (objective(c),), 1) for i, c in enumerate(configs)))


def bowl(config: Config) -> float:
    return (config.x - 0.3) ** 2 + (config.y - 0.6) ** 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "objective", "optimum"),
    [(PLANE, branin, 0.397887), (HARTMANN, hartmann, -3.32237)],
    ids=["branin", "hartmann"],
)
def test_a_fifth_of_the_regret_of_random_search_is_left(
    space: Space, objective: Callable[[Config], float], optimum: float
) -> None:
    found = np.median([lowest(GP(space, seed), objective, 40, seed) for seed in range(3)])
    random = np.median([lowest(Random(space), objective, 40, seed) for seed in range(15)])
    assert found - optimum < (random - optimum) / 5


def test_the_first_trials_are_those_of_sobol() -> None:
    history = measured(PLANE, 9, float)
    assert keys(GP(PLANE, 3).suggest(history, 4, RNG)) == keys(Sobol(PLANE, 3).suggest(history, 4, RNG))
    history = measured(PLANE, 10, float)
    assert keys(GP(PLANE, 3).suggest(history, 4, RNG)) != keys(Sobol(PLANE, 3).suggest(history, 4, RNG))


@pytest.mark.parametrize("outlier", [10.0, 1e6, math.inf])
def test_it_finds_the_bottom_of_a_bowl_though_some_trials_diverge(outlier: float) -> None:
    history = tried(SQUARE, lambda c: outlier if c.x > 0.7 else bowl(c), 25)
    found = GP(SQUARE, 0).suggest(history, 1, RNG)[0]
    assert bowl(found) < min(trial.best for trial in history.trials)
    assert bowl(found) < 0.01


def test_categories_and_conditions() -> None:
    space = Space(
        optimizer=Choice(["adam", "sgd", "lamb"]),
        lr=Float(1e-5, 1e-1, log=True),
        momentum=Float(0.0, 1.0, when={"optimizer": "sgd"}),
        layers=Int(1, 5),
    )

    def value(c: Config) -> float:
        of_optimizer = abs(c.momentum - 0.8) if c.optimizer == "sgd" else 0.5
        return (math.log10(c.lr) + 3) ** 2 + of_optimizer + 0.2 * abs(c.layers - 4)

    found = GP(space, 0).suggest(tried(space, value, 60), 1, RNG)[0]
    assert found.optimizer == "sgd" and abs(found.momentum - 0.8) < 0.25
    assert abs(math.log10(found.lr) + 3) < 0.5 and found.layers in (3, 4, 5)


def test_a_batch_is_spread_and_keeps_away_from_trials_in_flight() -> None:
    history = tried(SQUARE, bowl, 12)
    batch = GP(SQUARE, 0).suggest(history, 6, np.random.default_rng(0))
    waiting = [TrialRecord(12 + i, c, Status.TRAINING) for i, c in enumerate(batch)]
    later = GP(SQUARE, 0).suggest(History((*history.trials, *waiting)), 1, np.random.default_rng(1))
    points = np.array([(c.x, c.y) for c in (*batch, *later)])
    distances = np.linalg.norm(points[:, None] - points, axis=2)[np.triu_indices(7, 1)]
    assert distances.min() > 1e-3 and np.median(distances) > 0.03


def test_the_slope_of_the_acquisition() -> None:
    rng = np.random.default_rng(0)
    features, y = rng.random((20, 3)), rng.standard_normal(20)
    kernel = Kernel(np.array([0.5, 1.5]), 1.2, 0.05, np.array([0, 0, 1]))
    acquisition = imagined(Posterior.of(kernel, features, y), y, rng.random((3, 3)), rng.standard_normal((3, 4)))
    points = rng.random((6, 3))
    scores, slopes = acquisition.slope(points)
    assert scores == pytest.approx(acquisition(points))
    for point, slope in zip(points, slopes, strict=True):
        assert slope == pytest.approx(approx_fprime(point, lambda x: acquisition(x[None])[0], 1e-7), rel=1e-3, abs=1e-4)


def test_the_acquisition_is_the_expected_improvement() -> None:
    """Counted over draws; with trials in flight it is the mean over their imagined results."""
    rng = np.random.default_rng(0)
    features, y = rng.random((8, 1)), rng.standard_normal(8)
    posterior = Posterior.of(Kernel(np.array([0.4]), 1.0, 0.01, np.array([0])), features, y)
    points = rng.random((5, 1))
    means, variance = posterior.predict(points)
    best = np.array([-0.5, 0.1])
    several = Posterior(posterior.kernel, features, np.repeat(posterior.weights, 2, axis=1), posterior.precision)
    draws = means + np.sqrt(variance)[:, None] * rng.standard_normal((5, 200_000))
    counted = np.mean([np.maximum(b - draws, 0).mean(axis=1) for b in best], axis=0)
    assert np.exp(Acquisition(several, best)(points)) == pytest.approx(counted, rel=0.05)


def test_imagined_results_do_not_depend_on_what_comes_after_them() -> None:
    rng = np.random.default_rng(0)
    features, y = rng.random((8, 2)), rng.standard_normal(8)
    base = Posterior.of(Kernel(np.array([0.4, 1.0]), 1.0, 0.01, np.arange(2)), features, y)
    waiting, luck = rng.random((3, 2)), rng.standard_normal((3, 4))
    one, more = (imagined(base, y, waiting[:k], luck[:k]).posterior for k in (2, 3))
    results = [
        p.kernel.between(p.features, p.features)[0] @ p.weights + p.kernel.noise * p.weights for p in (one, more)
    ]
    assert results[0][8:] == pytest.approx(results[1][8:10], abs=1e-5)


def test_targets_keep_the_better_half_and_tame_the_others() -> None:
    ones = np.ones(8, dtype=np.int64)
    y = targets(np.array([1.0, 2.0, 3.0, 4.0, 100.0, 1e9, math.inf, math.inf]), ones)
    assert y.mean() == pytest.approx(0) and y.std() == pytest.approx(1)
    assert np.diff(y[:4]) == pytest.approx([y[1] - y[0]] * 3)
    assert (np.diff(y[:7]) > 0).all() and y[6] == y[7]
    assert y[7] - y[0] < 4 * (y[3] - y[0])
    assert targets(np.full(5, 3.0), ones[:5]).tolist()[:3] == pytest.approx([targets(np.full(5, 3.0), ones[:5])[0]] * 3)
    extreme = targets(np.array([-1e300, 1e300, math.inf]), ones[:3])
    assert np.isfinite(extreme).all()


def test_trials_stopped_early_are_worse_than_those_that_were_not() -> None:
    y = targets(np.array([0.5, 0.6, 0.7, 0.1, 0.2]), np.array([9, 9, 9, 1, 1]))
    assert (np.diff(y) > 0).all()


def test_the_side_of_the_trust_region() -> None:
    """Eriksson et al. 2019: 3 successes double it, `patience` failures halve it."""
    assert side(np.array([5.0]), 4) == 0.8
    assert side(np.array([5.0, 4.0, 3.0]), 4) == 1.6
    assert side(np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.5]), 4) == 1.6
    assert side(np.array([5.0, 6.0, 6.0, math.inf, 6.0]), 4) == 0.4
    assert side(np.array([5.0, *[6.0] * 8]), 4) == 0.2
    assert side(np.array([5.0, *[6.0] * 3, 4.9999, 6.0]), 4) == 0.4  # no success worth the name
    assert side(np.array([5.0, *[6.0] * 28]), 4) == 0.8  # too small: it begins again


def test_of_many_trials_the_best_are_kept_and_some_of_the_others() -> None:
    assert spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    kept = spread(1000, 10).tolist()
    assert kept[:5] == [0, 1, 2, 3, 4] and kept[-1] == 999 and len(set(kept)) == 10


def test_settings_that_are_not_allowed() -> None:
    with pytest.raises(SettingError, match="startup=0"):
        GP(PLANE, 0, startup=0)
