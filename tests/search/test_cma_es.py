from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from cmaes import CatCMAwM

from rheostat.errors import SettingError
from rheostat.search.cma_es import CMAES, Coordinates, levels
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, History, Status, TrialRecord, derive_seed
from tests.search.test_contract import study

CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(3)})
MIXED = Space(x=Float(0.0, 1.0), n=Int(1, 9), kind=Choice(["a", "b", "c"]))


def ellipsoid(config: Config) -> float:
    """Condition number 10,000, its axes not those of the cube; best at 0.3."""
    x = np.array([config[name] for name in config]) - 0.3
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(len(x), len(x))))[0]
    scales = 10 ** np.linspace(0, 2, len(x))
    return float(np.sum((scales * (rotation @ x)) ** 2))


def mixed(config: Config) -> float:
    return abs(config.x - 0.2) + abs(config.n - 7) / 8 + ("abc".index(config.kind) != 1)


def best(trials: Sequence[TrialRecord]) -> float:
    return min(trial.best for trial in trials)


def by_hand(space: Space, value: Callable[[Config], float], generations: int, population: int) -> list[Config]:
    """The package's own run: `ask` and `tell`, generation after generation."""
    coordinates = Coordinates.of(space)
    package: CatCMAwM = coordinates.distribution(np.full(len(coordinates.numbers), 0.5), population)
    configs = []
    for generation in range(generations):
        package.reseed_rng(derive_seed(1, "cma-es", 0, generation) % 2**32)
        asked = [package.ask() for _ in range(population)]
        found = [space.decode(coordinates.point(solution)) for solution in asked]
        order = sorted(range(population), key=lambda i: value(found[i]))
        package.tell([(asked[i], float(rank)) for rank, i in enumerate(order)])
        configs += found
    return configs


@pytest.mark.parametrize(("space", "value"), [(CUBE, ellipsoid), (MIXED, mixed)], ids=["cube", "mixed"])
@pytest.mark.parametrize("batch", [1, 7])
def test_it_is_the_run_of_the_package(space: Space, value: Callable[[Config], float], batch: int) -> None:
    population = 7
    trials = study(CMAES(space, seed=1, population=population), value, 84, batch)
    expected: list[Config] = []
    for config in by_hand(space, value, 24, population):
        if config not in expected:
            expected.append(config)
    if space is MIXED:  # the package repeats configurations, which are not trained twice: the same until then
        hand = by_hand(space, value, 2, population)
        same = next((i for i, config in enumerate(hand) if config in hand[:i]), len(hand))
        assert same > population
        assert [trial.config for trial in trials[:same]] == hand[:same]
    else:
        assert [trial.config for trial in trials] == expected[:84]


def test_it_beats_random_search_where_directions_matter() -> None:
    cma = np.array([best(study(CMAES(CUBE, seed), ellipsoid, 200)) for seed in range(5)])
    draws = np.random.default_rng(0)
    random = np.array([min(map(ellipsoid, CUBE.sample(draws, 200))) for _ in range(5)])
    assert cma.max() < random.min()
    assert np.median(cma) < np.median(random) / 20


def test_whole_numbers_and_categories_are_found() -> None:
    for seed in range(5):
        assert best(study(CMAES(MIXED, seed), mixed, 150)) < 0.02


def test_many_in_flight_cost_no_more_than_their_share() -> None:
    eight = np.median([best(study(CMAES(CUBE, seed), ellipsoid, 200, batch=8)) for seed in range(5)])
    assert eight < min(map(ellipsoid, CUBE.sample(np.random.default_rng(0), 1000))) / 2


def test_only_the_order_of_values_matters() -> None:
    plain = study(CMAES(CUBE, 3), ellipsoid, 60)
    bent = study(CMAES(CUBE, 3), lambda config: math.log(ellipsoid(config)), 60)
    assert [trial.config for trial in plain] == [trial.config for trial in bent]


def test_a_users_own_trial_does_not_carry_the_distribution_away() -> None:
    far = [Config(x0=1.0, x1=1.0, x2=1.0)] * 3 + [Config(x0=0.3, x1=0.3, x2=0.3)]
    assert best(study(CMAES(CUBE, 0), ellipsoid, 200, first=far)[4:]) < 1.0
    pulled = study(CMAES(CUBE, 0), lambda config: 0.0 if config == far[0] else ellipsoid(config), 200, first=far[:1])
    assert best(pulled[1:]) < 1.0


def test_it_begins_where_the_priors_are() -> None:
    space = Space(
        x=Float(0.0, 1.0, prior=Prior(0.9, 0.9)), y=Float(0.0, 1.0), kind=Choice(["a", "b"], prior=Prior("b", 0.8))
    )
    configs = CMAES(space, 0).suggest(History(), 200, np.random.default_rng(0))
    assert 0.8 < np.median([config.x for config in configs]) < 0.95
    assert 0.4 < np.median([config.y for config in configs]) < 0.6
    assert 0.7 < np.mean([config.kind == "b" for config in configs]) < 0.9


def test_a_generation_that_has_shrunk_begins_anew_with_twice_as_many() -> None:
    """Two valleys: the first run ends in one of them, the next ones see more of the space."""

    def valleys(config: Config) -> float:
        return min(abs(config.x - 0.45) + 0.1, 5 * abs(config.x - 0.93))

    searcher = CMAES(Space(x=Float(0.0, 1.0)), seed=4)
    trials = study(searcher, valleys, 300)
    evolution = searcher._replayed(History(tuple(trials)))
    assert evolution.runs >= 1
    assert evolution.size == searcher.population * 2**evolution.runs
    assert best(trials) < 0.1


def test_bad_trials_rank_last_and_cancelled_ones_do_not_count() -> None:
    searcher = CMAES(CUBE, 0, population=5)
    configs = searcher.suggest(History(), 6, np.random.default_rng(0))
    fates = [
        (Status.DONE, (3.0,)),
        (Status.INFEASIBLE, (0.0,)),
        (Status.CANCELLED, (0.0,)),
        (Status.DONE, (2.0,)),
        (Status.FAILED, ()),
        (Status.PAUSED, (1.0,)),
    ]
    trials = [
        TrialRecord(i, config, status, values, 1)
        for i, (config, (status, values)) in enumerate(zip(configs, fates, strict=True))
    ]
    ((_, told),) = searcher._replayed(History(tuple(trials))).told
    assert told == tuple(configs[i] for i in (5, 3, 0, 1, 4))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Int(1, 4), [0.125, 0.375, 0.625, 0.875]),
        (Int(1, 64), 64),
        (Int(1, 65), []),
        (Float(0.0, 1.0, step=0.25), [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Float(0.0, 1.0), []),
        (Choice([1, 2]), []),
        (Int(1, 8, step=7), [0.25, 0.75]),
    ],
)
def test_which_numbers_are_whole(part: object, expected: list[float] | int) -> None:
    found = levels(part)  # type: ignore[arg-type]
    assert len(found) == expected if isinstance(expected, int) else found == pytest.approx(expected)


@pytest.mark.parametrize("population", [3, 0, 8.5])
def test_populations_that_are_not_allowed(population: int) -> None:
    with pytest.raises(SettingError, match=r"population=.*at least 4"):
        CMAES(CUBE, 0, population=population)
