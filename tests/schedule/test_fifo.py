from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from rheostat.schedule.fifo import FIFO
from rheostat.search.grid import Grid
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.space import Int, Space
from rheostat.types import Config, Continue, History, Start, Status, TrialRecord
from tests.schedule.test_contract import SCHEDULERS, SPACE, Simulation, simulation, studies

RNG = np.random.default_rng(0)


@settings(max_examples=40)
@given(studies)
def test_every_trial_trains_to_the_end_unless_something_happens_to_it(study: dict[str, int]) -> None:
    sim = simulation(SCHEDULERS["fifo"], study)
    for _ in sim.run():
        pass
    for trial in sim.trials:
        assert trial.status.ended
        assert trial.status is not Status.DONE or trial.epochs == study["max_epochs"]
    if study["troubles"] == 0:
        assert {trial.status for trial in sim.trials} == {Status.DONE}


@pytest.mark.parametrize("places", [1, 3, 8])
def test_the_trials_do_not_depend_on_how_many_train_at_once(places: int) -> None:
    sim = Simulation(FIFO(Sobol(SPACE, 5), 20, 4), 4, places, seed=0)
    for _ in sim.run():
        pass
    assert [trial.config for trial in sim.trials] == Sobol(SPACE, 5).suggest(History(), 20, RNG)


def test_a_paused_trial_is_finished_before_a_new_one_is_started() -> None:
    config = Config(lr=0.1, momentum=0.0, optimizer="sgd")
    trials = (
        TrialRecord(0, config, Status.DONE, (0.3,) * 5, 5),
        TrialRecord(1, config, Status.PAUSED, (0.3, 0.2), 5),
        TrialRecord(2, config, Status.TRAINING, (), 5),
    )
    first, second = FIFO(Random(SPACE), None, 5).next(History(trials), 2, RNG)
    assert first == Continue(1, 5)
    assert isinstance(second, Start)
    assert second.until_epoch == 5


def test_trials_of_the_users_own_are_among_those_allowed() -> None:
    own = tuple(TrialRecord(i, Config(n=i), Status.CANCELLED) for i in range(3))
    scheduler = FIFO(Grid(Space(n=Int(1, 5))), 4, 1)
    assert len(scheduler.next(History(own), 9, RNG)) == 1
    assert scheduler.next(History((*own, *own)), 9, RNG) == []
