from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.errors import SettingError
from rheostat.search.grid import Grid, all_values, combinations, count
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Config, History, Status, TrialRecord
from tests.search.test_contract import finite_spaces, grown, keys

RNG = np.random.default_rng(0)


def distinct(space: Space, points: int, name: str) -> list[object]:
    return sorted({config[name] for config in Grid(space, points)})


def test_the_learning_rates_of_the_article() -> None:
    space = Space(lr=Float(1e-5, 1e-1, log=True))
    assert distinct(space, 5, "lr") == [0.00001, 0.0001, 0.001, 0.01, 0.1]


@pytest.mark.parametrize(
    ("part", "points", "expected"),
    [
        (Float(0.0, 0.8), 5, [0.0, 0.2, 0.4, 0.6, 0.8]),
        (Float(0.1, 0.3, step=0.1), 3, [0.1, 0.2, 0.3]),
        (Float(0.0, 1.0, step=0.1), 3, [0.0, 0.5, 1.0]),
        (Float(0.1, 0.35, step=0.1), 2, [0.1, 0.3]),
        (Int(1, 5), 5, [1, 2, 3, 4, 5]),
        (Int(1, 5), 3, [1, 3, 5]),
        (Int(16, 128, step=16), 8, [16, 32, 48, 64, 80, 96, 112, 128]),
        (Int(1, 512, log=True), 10, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]),
        (Int(1, 10, log=True), 8, [1, 2, 3, 4, 5, 7, 10]),
        (Choice([3, 1, 2, 7, 9, 8]), 2, [1, 2, 3, 7, 8, 9]),
    ],
)
def test_the_values_of_one_hyperparameter(part: object, points: int, expected: list[object]) -> None:
    assert distinct(Space(x=part), points, "x") == expected


def test_conditions_leave_no_duplicates() -> None:
    space = Space(
        optimizer=Choice(["adam", "sgd"]),
        momentum=Choice([0.0, 0.9], when={"optimizer": "sgd"}),
        nesterov=Choice([True, False], when={"momentum": 0.9}),
        width=Int(1, 3),
        batch_size=32,
    )
    optimizers = [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
    ]
    expected = [Config(o, width=w, batch_size=32) for o, w in product(optimizers, (1, 2, 3))]
    grid = Grid(space)
    assert grid.size == 12
    assert Counter(keys(list(grid))) == Counter(keys(expected))


@settings(max_examples=60)
@given(finite_spaces, st.integers(2, 4))
def test_size_is_the_number_of_distinct_configurations(space: Space, points: int) -> None:
    grid = Grid(space, points)
    assert grid.size == len(set(keys(list(grid))))


@settings(max_examples=60)
@given(finite_spaces)
def test_a_finite_space_holds_what_its_points_decode_to(space: Space) -> None:
    every = all_values(space)
    assert every is not None
    if count(space, every) <= 2000:
        held = set(keys(list(combinations(space, every))))
        assert len(held) == count(space, every)
        assert set(keys(space.sample(np.random.default_rng(0), 200))) <= held


def test_a_condition_on_a_number() -> None:
    space = Space(layers=Int(1, 3), skip=Choice([True, False], when={"layers": [2, 3]}))
    expected = [Config(layers=1)] + [Config(layers=n, skip=s) for n in (2, 3) for s in (True, False)]
    assert sorted(keys(list(Grid(space)))) == sorted(keys(expected))


def test_an_enqueued_configuration_costs_no_point_of_the_grid() -> None:
    space = Space(lr=Float(1e-3, 1e-1, log=True), layers=Int(1, 2))
    off_grid, on_grid = Config(lr=0.02, layers=1), Config(lr=0.01, layers=2)
    configs = Grid(space, points=3).suggest(grown(History(), [off_grid, on_grid]), 100, RNG)
    everything = {Config(lr=lr, layers=n).key() for lr in (0.001, 0.01, 0.1) for n in (1, 2)}
    assert set(keys(configs)) == everything - {on_grid.key()}


def test_a_grid_that_is_used_up_suggests_nothing() -> None:
    grid = Grid(Space(layers=Int(1, 3)))
    history = grown(History(), grid.suggest(History(), 2, RNG))
    assert len(last := grid.suggest(history, 5, RNG)) == 1
    assert grid.suggest(grown(history, last), 5, RNG) == []


def test_a_grid_that_is_cut_short_is_a_sample_of_the_whole() -> None:
    """In lexicographic order the first fifth would hold one value of `a`; a fair sample holds them all."""
    space = Space(a=Int(1, 5), b=Int(1, 20))
    first = [Grid(space, 20, seed).suggest(History(), 20, RNG) for seed in range(100)]
    assert keys(first[0]) != keys(first[1])
    mean_a = np.mean([config.a for configs in first for config in configs])
    assert abs(mean_a - 3) < 4 * np.sqrt(2 / 2000)  # four standard errors; a uniform 1..5 has variance 2


def test_an_infeasible_trial_is_not_tried_again() -> None:
    grid = Grid(Space(layers=Int(1, 3)))
    lost = TrialRecord(0, Config(layers=2), Status.INFEASIBLE)
    assert {c.layers for c in grid.suggest(History((lost,)), 9, RNG)} == {1, 3}


def test_settings_that_are_not_allowed() -> None:
    with pytest.raises(SettingError, match="at least 2"):
        Grid(Space(lr=Float(0.0, 1.0)), points=1)
    with pytest.raises(SettingError, match=r"1,000,000 configurations.*fewer points"):
        Grid(Space({f"x{i}": Float(0.0, 1.0) for i in range(6)}), points=10)
