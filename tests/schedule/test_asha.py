from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.schedule.asha import ASHA, best_until, promotions
from rheostat.search.random import Random
from rheostat.types import Config, Continue, History, Start, Status, TrialRecord
from tests.schedule.test_contract import SPACE, Simulation, curve

CONFIG = Config(lr=0.1, momentum=0.0, optimizer="sgd")
RUNGS = (1, 3, 9)


class Algorithm2:
    """Li et al. 2020, Algorithm 2, with state: `get_job` for a free worker, `report` when a job is done."""

    def __init__(self, rungs: tuple[int, ...], eta: int) -> None:
        self.rungs, self.eta, self.next_trial = rungs, eta, 0
        self.losses: list[dict[int, float]] = [{} for _ in rungs]
        self.promoted: list[set[int]] = [set() for _ in rungs]

    def promotable(self) -> list[tuple[int, int]]:
        jobs = []
        for k in reversed(range(len(self.rungs) - 1)):
            ranked = sorted(self.losses[k], key=self.losses[k].__getitem__)
            candidates = ranked[: math.floor(len(ranked) / self.eta)]
            jobs += [(trial, self.rungs[k + 1]) for trial in candidates if trial not in self.promoted[k]]
        return jobs

    def get_job(self) -> tuple[int, int]:
        for trial, until_epoch in self.promotable():
            self.promoted[self.rungs.index(until_epoch) - 1].add(trial)
            return trial, until_epoch
        self.next_trial += 1
        return self.next_trial - 1, self.rungs[0]

    def report(self, trial: int, epochs: int) -> None:
        self.losses[self.rungs.index(epochs)][trial] = min(curve(trial, epochs))


@settings(max_examples=40)
@given(
    eta=st.integers(2, 4),
    max_epochs=st.integers(1, 81),
    workers=st.integers(1, 10),
    seed=st.integers(0, 10**6),
)
def test_assigns_what_algorithm_2_assigns_in_any_order_of_arrival(
    eta: int, max_epochs: int, workers: int, seed: int
) -> None:
    scheduler = ASHA(Random(SPACE), None, max_epochs, reduction_factor=eta)
    paper = Algorithm2(scheduler.rungs, eta)
    sim = Simulation(scheduler, max_epochs, workers, seed)
    for _ in range(80):
        assignments = sim.decide()
        new = itertools.count(len(sim.trials))
        jobs = [(next(new) if isinstance(a, Start) else a.trial, a.until_epoch) for a in assignments]
        assert jobs == [paper.get_job() for _ in jobs]
        sim.apply(assignments)
        for trial in sim.some_training():
            sim.settle(trial)
            paper.report(trial.number, trial.until_epoch)


@pytest.mark.parametrize(("eta", "rungs"), [(3, (1, 3, 9, 27)), (2, (1, 2, 4, 8)), (4, (2, 8, 32))])
def test_in_step_it_is_successive_halving(eta: int, rungs: tuple[int, ...]) -> None:
    """With eta**k trials, each rung settled before the next decision, the best 1/eta go on each time."""
    n = eta ** (len(rungs) - 1)
    scheduler = ASHA(Random(SPACE), n, rungs[-1], rungs[0], eta)
    assert scheduler.rungs == rungs
    sim = Simulation(scheduler, rungs[-1], places=n, seed=0)
    alive = np.arange(n)
    for rung in rungs:
        sim.apply(sim.decide())
        assert [trial.number for trial in sim.training] == sorted(alive)
        assert {trial.until_epoch for trial in sim.training} == {rung}
        for trial in sim.training:
            sim.settle(trial)
        losses = np.array([min(curve(number, rung)) for number in alive])
        alive = alive[np.argsort(losses)[: len(alive) // eta]]
    assert sim.decide() == []
    assert [trial.status for trial in sim.trials].count(Status.DONE) == 1


@pytest.mark.parametrize(
    ("grace_epochs", "max_epochs", "factor", "rungs"),
    [
        (1, 81, 3, (1, 3, 9, 27, 81)),
        (1, 30, 3, (1, 3, 9, 30)),  # 27 is left out: nearly 30
        (1, 60, 3, (1, 3, 9, 27, 60)),
        (2, 20, 2, (2, 4, 8, 20)),  # 16 is left out
        (8, 10, 3, (8, 10)),  # but never the user's own
        (5, 5, 3, (5,)),
        (1, 1, 3, (1,)),
    ],
)
def test_the_rungs(grace_epochs: int, max_epochs: int, factor: int, rungs: tuple[int, ...]) -> None:
    assert ASHA(Random(SPACE), None, max_epochs, grace_epochs, factor).rungs == rungs


def trial(
    number: int, value: float, epochs: int = 1, status: Status = Status.PAUSED, until_epoch: int | None = None
) -> TrialRecord:
    return TrialRecord(number, CONFIG, status, (value,) * epochs, until_epoch or epochs)


def promoted(*trials: TrialRecord) -> list[tuple[int, int]]:
    return [(job.trial, job.until_epoch) for job in promotions(trials, RUNGS, 3)]


def test_the_highest_rung_comes_first_and_in_it_the_best() -> None:
    low = [trial(i, value) for i, value in enumerate([0.5, 0.2, 0.3, 0.9, 0.9, 0.9])]
    high = [trial(6 + i, value, 3) for i, value in enumerate([0.01, 0.04, 0.04])]
    assert promoted(*low, *high) == [(6, 9)]  # 9 trials completed rung 1, and its best three are in rung 3
    low += [trial(9 + i, 0.9) for i in range(6)]
    assert promoted(*low, *high) == [(6, 9), (1, 3), (2, 3)]


def test_of_equal_trials_the_oldest_is_promoted_and_no_more_than_a_third() -> None:
    assert promoted(*(trial(i, 0.5) for i in range(7))) == [(0, 3), (1, 3)]
    assert promoted(*(trial(i, 0.5) for i in range(2))) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_diverged_trial_fills_the_rung_and_is_never_promoted(bad: float) -> None:
    assert promoted(trial(0, bad), trial(1, 0.7), trial(2, bad)) == [(1, 3)]
    assert promoted(trial(0, bad), trial(1, bad), trial(2, bad)) == []


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.FAILED])
def test_a_trial_that_broke_down_on_its_way_counts_as_the_worst_in_that_rung_alone(status: Status) -> None:
    fresh = (trial(0, 0.0, 0, status, until_epoch=1), trial(1, 0.0, 0, status, until_epoch=1))
    assert promoted(*fresh, trial(2, 0.9)) == [(2, 3)]
    assert promoted(*fresh, trial(2, 0.9, 3)) == []
    # two were promoted from rung 1 and broke down at epoch 2: their places there stay taken
    later = (trial(0, 0.1, 2, status, until_epoch=3), trial(1, 0.1, 2, status, until_epoch=3))
    rest = [trial(i, 0.5) for i in range(2, 8)]
    assert promoted(*later, *rest) == []
    assert promoted(*later, *rest, trial(8, 0.2, 3)) == [(8, 9)]


@pytest.mark.parametrize("status", [Status.CONVERGED, Status.DONE])  # a user's own loop may be done early
def test_a_converged_trial_keeps_its_value_in_the_rungs_that_it_would_have_reached(status: Status) -> None:
    early = trial(0, 0.1, 2, status, until_epoch=3)
    rest = [trial(i, 0.9) for i in range(3, 9)]
    # rung 3 holds the converged 0.1 beside 0.2 and 0.3: it is the best third, and leaves no place
    assert promoted(early, trial(1, 0.2, 3), trial(2, 0.3, 3), *rest) == []
    worse = trial(0, 0.4, 2, status, until_epoch=3)
    assert promoted(worse, trial(1, 0.2, 3), trial(2, 0.3, 3), *rest) == [(1, 9)]


def test_a_converged_trial_goes_up_only_while_it_is_among_the_best() -> None:
    """Converged at the first rung, it would have reached the second only as one of its best third."""
    others = [trial(1, 0.2, 3), trial(2, 0.3, 3)]
    rest = [trial(i, 0.9) for i in range(3, 9)]
    assert promoted(trial(0, 0.1, 1, Status.CONVERGED), *others, *rest) == []  # third of rung 3, and its best
    assert promoted(trial(0, 0.25, 1, Status.CONVERGED), *others, *rest) == [(1, 9)]
    assert promoted(trial(0, 0.95, 1, Status.CONVERGED), *others, *rest) == [(3, 3)]


def test_a_trial_that_the_user_cancelled_does_not_count() -> None:
    cancelled = trial(0, 0.1, 3, Status.CANCELLED)
    assert promoted(cancelled, trial(1, 0.2), trial(2, 0.3)) == []
    assert promoted(cancelled, trial(1, 0.2), trial(2, 0.3), trial(3, 0.4)) == [(1, 3)]


def test_a_trial_in_training_holds_its_place_in_the_rungs_below() -> None:
    training = trial(0, 0.1, 1, Status.TRAINING, until_epoch=3)
    assert promoted(training, trial(1, 0.2), trial(2, 0.3)) == []
    assert promoted(training, *(trial(i, i / 10) for i in range(1, 6))) == [(1, 3)]


def test_an_interrupted_trial_goes_on_to_its_rung_first() -> None:
    halfway = trial(0, 0.9, 2, until_epoch=3)
    not_begun = trial(1, 0.9, 0, until_epoch=1)
    leap = trial(2, 0.9, 1, until_epoch=9)
    rest = [trial(i, 0.1) for i in (3, 4, 5)]
    assert promoted(halfway, not_begun, leap, *rest) == [(0, 3), (1, 1), (2, 9), (3, 3)]


def test_fewer_epochs_than_the_first_rung_are_made_up() -> None:
    assert promotions([trial(0, 0.9, 1), trial(1, 0.9, 0, until_epoch=2)], (3, 9), 3) == [
        Continue(0, 3),
        Continue(1, 3),
    ]


def test_epochs_between_the_rungs_count_for_the_rung_below() -> None:
    odd = trial(0, 0.1, 2)
    assert promoted(odd, trial(1, 0.2), trial(2, 0.3)) == [(0, 3)]
    assert promoted(trial(0, 0.1, 40), trial(1, 0.2), trial(2, 0.3)) == []


@settings(max_examples=100)
@given(st.lists(st.sampled_from([0.1, 0.2, -1.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=9))
def test_the_value_of_a_rung_is_the_best_so_far_unless_diverged(values: list[float]) -> None:
    finite = [v for v in values if np.isfinite(v)]
    expected = min(finite) if np.isfinite(values[-1]) else math.inf
    assert best_until((*values, -7.0), len(values)) == expected


def test_promotions_come_before_new_trials_and_places_are_not_exceeded() -> None:
    history = History(tuple(trial(i, i / 10) for i in range(6)))
    scheduler = ASHA(Random(SPACE), 7, 9)
    rng = np.random.default_rng(0)
    assert scheduler.next(history, 1, rng) == [Continue(0, 3)]
    first, second, third = scheduler.next(history, 9, rng)  # the seventh trial is the last
    assert (first, second) == (Continue(0, 3), Continue(1, 3))
    assert isinstance(third, Start)
    assert third.until_epoch == 1
