from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.schedule.median import Median
from rheostat.search.random import Random
from rheostat.types import Config, Continue, History, Start, Status, Stop, TrialRecord
from tests.schedule.test_contract import SPACE, Simulation

CONFIG = Config(lr=0.1, momentum=0.0, optimizer="sgd")
RNG = np.random.default_rng(0)


def trial(number: int, values: tuple[float, ...], status: Status = Status.DONE) -> TrialRecord:
    return TrialRecord(number, CONFIG, status, values, len(values))


def stopped_by_vizier(values: np.ndarray, lengths: np.ndarray, own: int, min_trials: int) -> bool:
    """Golovin et al. 2017, 3.2.1: best so far against running averages; `values` (trials, epochs)."""
    e = lengths[own]
    others = [i for i in range(len(values)) if i != own and lengths[i] >= e]
    if len(others) < min_trials:
        return False
    averages = np.cumsum(values[others], axis=1)[:, e - 1] / e
    return bool(np.minimum.accumulate(values[own])[e - 1] > np.median(averages))


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 4), st.integers(1, 4))
def test_stops_whom_the_rule_stops(seed: int, n: int, grace_epochs: int, min_trials: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0.1, 0.2, 0.3, 0.4], (n, 9)) + rng.choice([0.0, 0.01], (n, 9))  # with ties
    lengths = rng.integers(1, 9, n)
    trials = tuple(trial(i, tuple(values[i, :e].tolist()), Status.PAUSED) for i, e in enumerate(lengths))
    scheduler = Median(Random(SPACE), n, 9, grace_epochs, min_trials, interval=2)
    assignments = scheduler.next(History(trials), n, RNG)
    assert len(assignments) == n
    for own, assignment in enumerate(assignments):
        late = lengths[own] >= grace_epochs
        if late and stopped_by_vizier(values, lengths, own, min_trials):
            assert isinstance(assignment, Stop)
        else:
            until_epoch = min(9, max(grace_epochs, lengths[own] + 2))
            assert assignment == Continue(own, until_epoch)


@pytest.mark.parametrize(
    ("best", "stopped"),
    [(0.39, False), (0.4, False), (0.41, True), (math.nan, True)],
)
def test_strictly_worse_than_the_median_of_averages(best: float, stopped: bool) -> None:
    """The others average 0.2, 0.4 and 0.9 over two epochs, though the last value of each is lower."""
    others = (trial(0, (0.3, 0.1)), trial(1, (0.6, 0.2, 0.1)), trial(2, (1.2, 0.6)), trial(3, (0.0,)))
    own = trial(4, (0.9 if best == best else best, best), Status.PAUSED)
    [decision] = Median(Random(SPACE), 5, 9).next(History((*others, own)), 1, RNG)
    assert isinstance(decision, Stop) == stopped


def test_the_reason_is_in_plain_words() -> None:
    trials = (*(trial(i, (0.1, 0.1)) for i in range(3)), trial(3, (0.9, 0.9), Status.PAUSED))
    decisions = Median(Random(SPACE), 4, 9).next(History(trials), 1, RNG)
    assert decisions == [Stop(3, "worse after 2 epochs than the median of 3 other trials")]


@pytest.mark.parametrize(
    ("status", "counts"),
    [(Status.CANCELLED, False), (Status.CUT, True), (Status.INFEASIBLE, True), (Status.TRAINING, True)],
)
def test_every_trial_that_trained_as_long_is_compared_with_but_the_cancelled(status: Status, counts: bool) -> None:
    trials = (*(trial(i, (0.1,), status) for i in range(3)), trial(3, (0.9,), Status.PAUSED))
    [decision] = Median(Random(SPACE), 4, 9).next(History(trials), 1, RNG)
    assert isinstance(decision, Stop) == counts


def test_a_diverged_trial_averages_to_the_worst() -> None:
    others = (trial(0, (math.nan, 0.1)), trial(1, (0.1, 0.1)), trial(2, (0.5, 0.5)))
    own = trial(3, (0.4, 0.4), Status.PAUSED)
    assert Median(Random(SPACE), 4, 9).next(History((*others, own)), 1, RNG) == [Continue(3, 3)]


def test_stopping_frees_the_place() -> None:
    trials = (
        *(trial(i, (0.1, 0.1)) for i in range(3)),
        *(trial(i, (0.9, 0.9), Status.PAUSED) for i in (3, 4)),
    )
    first, second, third = Median(Random(SPACE), None, 9).next(History(trials), 1, RNG)
    assert (type(first), type(second), type(third)) == (Stop, Stop, Start)


def test_fewer_epochs_are_trained_and_the_best_survives() -> None:
    sim = Simulation(Median(Random(SPACE), 40, 20, grace_epochs=2), 20, places=4, seed=3)
    for _ in sim.run():
        pass
    from_scratch = [min(t.values) for t in sim.trials if t.status is Status.DONE]
    assert sum(t.epochs for t in sim.trials) < 0.6 * 40 * 20
    assert min(t.best for t in sim.trials) == min(from_scratch)
