from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import qmc

from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, History
from tests.search.test_contract import grown, keys
from tests.search.test_random import KS_AT_ONE_PERCENT, ks_statistic

RNG = np.random.default_rng(0)
CUBE = Space({f"x{i}": Float(0.0, 1.0) for i in range(4)})


def points(configs: list[Config]) -> np.ndarray:
    return np.array([list(config.values()) for config in configs])  # (n, 4)


@pytest.mark.parametrize("seed", range(5))
def test_the_space_is_covered_more_evenly_than_at_random(seed: int) -> None:
    sobol = points(Sobol(CUBE, seed).suggest(History(), 128, RNG))
    random = points(Random(CUBE).suggest(History(), 128, np.random.default_rng(seed)))
    assert qmc.discrepancy(sobol) < qmc.discrepancy(random) / 3


@pytest.mark.parametrize("start", [0, 1024, 2048])
def test_each_aligned_stretch_of_the_sequence_is_a_net(start: int) -> None:
    """Sobol: of 2**m aligned points, each of the 2**m slices of every axis holds exactly one."""
    history = grown(History(), [Config(dict.fromkeys(CUBE, 0.5))] * start)
    cube = points(Sobol(CUBE, 3).suggest(history, 64, RNG))
    for axis in cube.T:
        assert sorted((axis * 64).astype(int)) == list(range(64))


def test_the_points_are_those_of_scipy() -> None:
    cube = qmc.Sobol(4, rng=np.random.default_rng(3)).random(4096)
    expected = [CUBE.decode(point) for point in cube]
    assert keys(Sobol(CUBE, 3).suggest(History(), 4096, RNG)) == keys(expected)


def test_the_seed_decides_the_sequence() -> None:
    first, second = (Sobol(CUBE, seed).suggest(History(), 8, RNG) for seed in (1, 2))
    assert keys(first) != keys(second)


def test_trial_n_gets_point_n_whatever_was_tried_before() -> None:
    sequence = Sobol(CUBE, 1).suggest(History(), 20, RNG)
    own = Config(dict.fromkeys(CUBE, 0.25))
    history = grown(History(), [own] * 12)
    assert keys(Sobol(CUBE, 1).suggest(history, 8, RNG)) == keys(sequence[12:])


def test_numbers_follow_the_prior() -> None:
    part = Float(1e-5, 1e-1, log=True, prior=1e-3)
    configs = Sobol(Space(x=part, y=Float(0.0, 1.0)), 0).suggest(History(), 1000, RNG)
    statistic = ks_statistic([part.encode(c.x) for c in configs], part)
    assert statistic < KS_AT_ONE_PERCENT / math.sqrt(1000) / 5  # evenly, so far below what chance allows


def test_choices_follow_the_prior() -> None:
    space = Space(optimizer=Choice(["adam", "sgd"], prior=Prior("sgd", 0.75)), lr=Float(0.0, 1.0))
    configs = Sobol(space, 0).suggest(History(), 512, RNG)
    assert abs(sum(c.optimizer == "sgd" for c in configs) / 512 - 0.75) < 0.01


def test_a_finite_space_is_walked_through_once_in_the_order_of_the_points() -> None:
    space = Space(a=Int(1, 7), b=Choice(["x", "y", "z"]))
    searcher = Sobol(space, 2)
    configs = searcher.suggest(History(), 100, RNG)
    assert sorted(keys(configs)) == sorted(Config(a=a, b=b).key() for a in range(1, 8) for b in "xyz")
    cube = qmc.Sobol(2, rng=np.random.default_rng(2)).random(1024)
    met = dict.fromkeys(space.decode(point).key() for point in cube)
    assert keys(configs) == list(met)
    assert searcher.suggest(grown(History(), configs), 1, RNG) == []


def test_unlikely_configurations_come_last_but_come() -> None:
    space = Space(a=Choice([1, 2, 3, 4], prior=Prior(4, 0.99999)))
    assert [c.a for c in Sobol(space, 0).suggest(History(), 9, RNG)] == [4, 1, 2, 3]


def test_a_configuration_of_the_users_own_is_left_out_of_a_finite_space() -> None:
    space = Space(a=Int(1, 6))
    order = [c.a for c in Sobol(space, 2).suggest(History(), 6, RNG)]
    first = grown(History(), [Config(a=a) for a in order[:3]])
    assert [c.a for c in Sobol(space, 2).suggest(first, 2, RNG)] == order[3:5]
    own = grown(History(), [Config(a=order[3]), Config(a=order[0])])
    assert [c.a for c in Sobol(space, 2).suggest(own, 6, RNG)] == [order[1], order[2], order[4], order[5]]


def test_a_space_with_nothing_to_tune_has_one_configuration() -> None:
    assert Sobol(Space(lr=0.1), 0).suggest(History(), 3, RNG) == [Config(lr=0.1)]


def test_scipy_is_imported_only_when_points_are_needed() -> None:
    code = "import sys, rheostat.search.sobol; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
