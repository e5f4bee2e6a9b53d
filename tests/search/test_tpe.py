from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from rheostat.errors import SettingError
from rheostat.search.base import Searcher
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.search.tpe import TPE, improvements
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, History, Status, TrialRecord
from tests.search.test_contract import grown, keys, measured

RNG = np.random.default_rng(0)
PLANE = Space(x=Float(-5.0, 10.0), y=Float(0.0, 15.0))


def branin(config: Config) -> float:
    """Its three minima are 0.397887."""
    x, y = config.x, config.y
    bent = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return float(bent**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


HARTMANN = Space({f"x{i}": Float(0.0, 1.0) for i in range(6)})


def hartmann(config: Config) -> float:
    """Hartmann 6; its minimum is -3.32237."""
    a = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
    )
    p = np.array(
        [
            [1312, 1696, 5569, 124, 8283, 5886],
            [2329, 4135, 8307, 3736, 1004, 9991],
            [2348, 1451, 3522, 2883, 3047, 6650],
            [4047, 8828, 8732, 5743, 1091, 381],
        ]
    )
    x = np.array([config[f"x{i}"] for i in range(6)])
    return -float(np.array([1, 1.2, 3, 3.2]) @ np.exp(-np.sum(a * (x - p / 10_000) ** 2, axis=1)))


def lowest(searcher: Searcher, objective: Callable[[Config], float], trials: int, seed: int) -> float:
    """What a searcher finds, one trial at a time."""
    history = History()
    for number in range(trials):
        config = searcher.suggest(history, 1, np.random.default_rng([seed, number]))[0]
        history = grown(history, [config], objective(config))
    return min(trial.best for trial in history.trials)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "objective", "optimum"),
    [(PLANE, branin, 0.397887), (HARTMANN, hartmann, -3.32237)],
    ids=["branin", "hartmann"],
)
def test_half_of_the_regret_of_random_search_is_left(
    space: Space, objective: Callable[[Config], float], optimum: float
) -> None:
    found = np.median([lowest(TPE(space, seed), objective, 50, seed) for seed in range(7)])
    random = np.median([lowest(Random(space), objective, 50, seed) for seed in range(7)])
    assert found - optimum < (random - optimum) / 2


def test_the_first_trials_are_those_of_sobol() -> None:
    history = measured(PLANE, 9, float)
    assert keys(TPE(PLANE, 3).suggest(history, 4, RNG)) == keys(Sobol(PLANE, 3).suggest(history, 4, RNG))
    history = measured(PLANE, 10, float)
    assert keys(TPE(PLANE, 3).suggest(history, 4, RNG)) != keys(Sobol(PLANE, 3).suggest(history, 4, RNG))


def test_it_searches_where_good_trials_are() -> None:
    space = Space(lr=Float(1e-5, 1e-1, log=True), layers=Int(1, 9), optimizer=Choice(["adam", "sgd", "lamb"]))
    configs = space.sample(np.random.default_rng(1), 100)
    history = History(
        tuple(
            TrialRecord(
                i, c, Status.DONE, (abs(math.log10(c.lr) + 3) + abs(c.layers - 7) / 8 + (c.optimizer != "sgd"),), 1
            )
            for i, c in enumerate(configs)
        )
    )
    found = [TPE(space, 0).suggest(history, 1, np.random.default_rng(seed))[0] for seed in range(40)]
    assert Counter(c.optimizer for c in found)["sgd"] >= 30
    assert np.median([abs(math.log10(c.lr) + 3) for c in found]) < 0.5
    assert np.median([abs(c.layers - 7) for c in found]) <= 2


def test_a_child_is_searched_where_it_is_active_given_its_parents() -> None:
    """The best momentum falls with the learning rate, and says nothing of trials that have none."""
    space = Space(
        optimizer=Choice(["adam", "sgd"]), lr=Float(0.0, 1.0), momentum=Float(0.0, 1.0, when={"optimizer": "sgd"})
    )

    def value(c: Config) -> float:
        return abs(c.lr + c.momentum - 1) if c.optimizer == "sgd" else 1.0

    configs = space.sample(np.random.default_rng(1), 300)
    history = History(tuple(TrialRecord(i, c, Status.DONE, (value(c),), 1) for i, c in enumerate(configs)))
    found = [TPE(space, 0).suggest(history, 1, np.random.default_rng(seed))[0] for seed in range(60)]
    pairs = np.array([(c.lr, c.momentum) for c in found if c.optimizer == "sgd"])
    assert len(pairs) >= 50
    assert np.corrcoef(pairs.T)[0, 1] < -0.5


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.FAILED])
def test_it_keeps_away_from_where_trials_fail(status: Status) -> None:
    space = Space(x=Float(0.0, 1.0))
    configs = space.sample(np.random.default_rng(0), 40)
    trials = [
        TrialRecord(i, c, status, (-9.0, math.nan)) if c.x > 0.5 else TrialRecord(i, c, Status.DONE, (0.5 - 0.1 * c.x,))
        for i, c in enumerate(configs)
    ]
    found = [TPE(space, 0).suggest(History(tuple(trials)), 1, np.random.default_rng(s))[0].x for s in range(40)]
    assert sum(x <= 0.5 for x in found) >= 36


def test_of_trials_stopped_early_those_trained_furthest_are_good() -> None:
    """The others had the lower values, but not as late."""
    space = Space(x=Float(0.0, 1.0))
    early = [TrialRecord(i, Config(x=0.2 + 0.001 * i), Status.PAUSED, (0.01 * i,), 1) for i in range(30)]
    late = [TrialRecord(30 + i, Config(x=0.8 + 0.01 * i), Status.DONE, (0.9, 0.7), 2) for i in range(3)]
    found = [TPE(space, 0).suggest(History((*early, *late)), 1, np.random.default_rng(s))[0].x for s in range(20)]
    assert np.median(np.abs(np.array(found) - 0.8)) < 0.15


def test_trials_in_flight_keep_others_away() -> None:
    """The constant liar: without it the whole batch would lie at the best trial."""
    space = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0))
    configs = space.sample(np.random.default_rng(0), 30)
    history = History(
        tuple(TrialRecord(i, c, Status.DONE, ((c.x - 0.3) ** 2 + (c.y - 0.3) ** 2,)) for i, c in enumerate(configs))
    )
    batch = TPE(space, 0).suggest(history, 16, np.random.default_rng(0))
    singles = [TPE(space, 0).suggest(history, 1, np.random.default_rng(s))[0] for s in range(16)]
    assert np.std([c.x for c in batch]) > 1.3 * np.std([c.x for c in singles])
    waiting = tuple(TrialRecord(30 + i, c, Status.TRAINING) for i, c in enumerate(singles))
    later = [
        TPE(space, 0).suggest(History((*history.trials, *waiting)), 1, np.random.default_rng(s))[0] for s in range(16)
    ]
    middle = np.mean([(c.x, c.y) for c in singles], axis=0)
    away = [np.mean([math.dist((c.x, c.y), middle) for c in configs]) for configs in (singles, later)]
    assert away[1] > 1.3 * away[0]


def test_the_prior_of_the_space_counts_as_much_as_one_trial() -> None:
    """Where all results are equal only the priors say where to search."""
    sure = Space(x=Float(0.0, 1.0, prior=Prior(0.8, 0.9)))
    history = grown(History(), [Config(x=0.1)] * 12)
    with_prior = [TPE(sure, 0).suggest(history, 1, np.random.default_rng(s))[0].x for s in range(60)]
    without = [TPE(Space(x=Float(0.0, 1.0)), 0).suggest(history, 1, np.random.default_rng(s))[0].x for s in range(60)]
    assert np.mean(np.abs(np.array(with_prior) - 0.8) < 0.2) > np.mean(np.abs(np.array(without) - 0.8) < 0.2) + 0.1


def test_weights_by_improvement() -> None:
    assert improvements(np.array([1.0, 2.0, 5.0, 9.0]), 2) == pytest.approx([8 / 7, 6 / 7])
    assert improvements(np.array([3.0, 3.0, 3.0]), 2).tolist() == [1.0, 1.0]
    assert improvements(np.array([1.0, 3.0, math.inf]), 2).tolist() == [2.0, 0.0]
    assert improvements(np.array([1.0]), 1).tolist() == [1.0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"gamma": 0.0}, "gamma=0.0"), ({"startup": 0}, "startup=0"), ({"candidates": 0}, "candidates=0")],
)
def test_settings_that_are_not_allowed(settings: dict[str, float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        TPE(PLANE, 0, **settings)
