from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from rheostat.schedule.pb2 import Bandit, Process
from rheostat.space import Float, Int, Space
from rheostat.types import Config, History, Start, Status, TrialRecord

SPACE = Space(lr=Float(1e-4, 1.0, log=True), units=Int(8, 64))


def data(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs, times = rng.random((n, 2)), rng.integers(0, 9, n).astype(float)
    return inputs, times, np.sin(4 * inputs[:, 0]) - inputs[:, 1]


def test_without_forgetting_it_is_the_process_of_scikit_learn() -> None:
    inputs, times, outputs = data(20)
    ours = Process(inputs, times, outputs, 0.4, 0.0, 0.1)
    theirs = GaussianProcessRegressor(RBF(0.4), alpha=0.1, optimizer=None).fit(inputs, outputs)
    at = np.random.default_rng(1).random((7, 2))
    mean, deviation = ours.predict(at, 3.0)
    expected = theirs.predict(at, return_std=True)
    assert mean == pytest.approx(expected[0]) and deviation == pytest.approx(expected[1])
    assert ours.log_likelihood() == pytest.approx(theirs.log_marginal_likelihood_value_)


def test_what_was_long_ago_is_forgotten() -> None:
    """One observation: the mean at the same place t intervals later is (1 - w)^(t / 2) of it."""
    process = Process(np.array([[0.5]]), np.array([2.0]), np.array([1.0]), 0.4, 0.36, 1e-9)
    for later in (0, 1, 2, 6):
        assert process.predict(np.array([[0.5]]), 2.0 + later)[0][0] == pytest.approx(0.8**later)


def test_pretending_takes_the_doubt_away_and_leaves_the_mean() -> None:
    process = Process(*data(12), 0.4, 0.1, 0.1)
    at = np.array([[0.2, 0.9]])
    before, after = process.predict(at, 4.0), process.pretend(at, np.array([4.0])).predict(at, 4.0)
    assert after[0] == pytest.approx(before[0])
    assert after[1] < before[1]


def test_the_fit_finds_what_made_the_data() -> None:
    rng = np.random.default_rng(3)
    inputs, times = rng.random((120, 1)), rng.integers(0, 20, 120).astype(float)
    still = Process.fit(inputs, times, np.sin(6 * inputs[:, 0]) * 1.4)
    assert (still.forgetting, still.noise) == (0.0, 0.01)
    assert Process.fit(inputs, times, rng.normal(size=120)).noise == 0.5


def population(target: float, members: int = 8, intervals: int = 4) -> History:
    """Each gains in every interval of two epochs the more, the nearer its learning rate is to the target (log10)."""
    trials = []
    for number, lr in enumerate(np.logspace(-4, 0, members)):
        gain = math.exp(-((math.log10(lr) - target) ** 2))
        values = tuple(10 - gain * epoch / 2 for epoch in range(1, 2 * intervals + 1))
        trials.append(TrialRecord(number, Config(lr=float(lr), units=16), Status.PAUSED, values, len(values)))
    return History(tuple(trials))


@pytest.mark.parametrize("target", [-3.0, -2.0, -1.0])
def test_copies_go_to_where_most_was_gained(target: float) -> None:
    history = population(target)
    config = Bandit(SPACE).explore(history.trials[0], history, 2, [], np.random.default_rng(0))
    assert abs(math.log10(config.lr) - target) < 0.5 and config.units == 16


def test_copies_of_one_decision_differ() -> None:
    history = population(-2.0, members=3)
    copies: list[Start] = []
    for _ in range(4):
        config = Bandit(SPACE).explore(history.trials[1], history, 2, copies, np.random.default_rng(0))
        copies.append(Start(config, 10, 1))
    assert len({copy.config.lr for copy in copies}) == 4


def test_with_little_known_it_perturbs() -> None:
    history = population(-2.0, members=2, intervals=2)
    bandit, rngs = Bandit(SPACE), [np.random.default_rng(0) for _ in range(2)]
    parent = history.trials[1]
    assert bandit.explore(parent, history, 2, [], rngs[0]) == bandit.perturb.explore(parent, history, 2, [], rngs[1])


def test_intervals_of_a_copy_are_its_own_from_where_it_was_born() -> None:
    copy = TrialRecord(0, Config(lr=0.1, units=16), Status.PAUSED, (9.0, 8.0, 7.0, 6.0, 5.0, 3.0), 6, "", 9, 4)
    inputs, times, gains = Bandit(SPACE)._intervals(History((copy,)), 2, ("lr",))
    assert inputs == pytest.approx(np.array([[0.75, 6.0]])) and times.tolist() == [3.0] and gains.tolist() == [3.0]
