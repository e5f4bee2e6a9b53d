"""What every scheduler promises, whatever trials do and in whichever order they end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.errors import SettingError
from rheostat.schedule.asha import ASHA
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.schedule.hyperband import Hyperband
from rheostat.schedule.median import Median
from rheostat.schedule.pasha import PASHA
from rheostat.schedule.pb2 import Bandit
from rheostat.schedule.pbt import PBT
from rheostat.search.grid import Grid
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Float, Int, Space
from rheostat.types import Assignment, Config, Continue, History, Start, Status, Stop, TrialRecord

SPACE = Space(lr=Float(1e-5, 1e-1, log=True), momentum=Float(0.0, 0.99), optimizer=Choice(["adam", "sgd"]))

Make = Callable[[Space, int | None, int], Scheduler]
SCHEDULERS: dict[str, Make] = {
    "fifo": lambda space, trials, epochs: FIFO(Sobol(space, 1), trials, epochs),
    "fifo-random": lambda space, trials, epochs: FIFO(Random(space), trials, epochs),
    "median": lambda space, trials, epochs: Median(Sobol(space, 1), trials, epochs),
    "median-interval": lambda space, trials, epochs: Median(
        Random(space), trials, epochs, grace_epochs=min(2, epochs), min_trials=1, interval=3
    ),
    "asha": lambda space, trials, epochs: ASHA(Sobol(space, 1), trials, epochs),
    "asha-halving": lambda space, trials, epochs: ASHA(
        Random(space), trials, epochs, grace_epochs=min(2, epochs), reduction_factor=2
    ),
    "freeze-thaw": FreezeThaw,
    "pasha": lambda space, trials, epochs: PASHA(ASHA(Sobol(space, 1), trials, epochs)),
    "hyperband": lambda space, trials, epochs: Hyperband(Sobol(space, 1), trials, epochs),
    "pbt": lambda space, trials, epochs: PBT(space, Sobol(space, 1), trials, epochs, population=5, interval=2),
    "pbt-one-by-one": lambda space, trials, epochs: PBT(space, Random(space), trials, epochs, population=2, interval=1),
    "pb2": lambda space, trials, epochs: PBT(
        space, Sobol(space, 1), trials, epochs, population=4, interval=2, explore=Bandit(space)
    ),
}
COPYING = ("pbt", "pbt-one-by-one", "pb2")  # their trials wait for each other, and begin as copies of each other

every_scheduler = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS.keys())
every_other_scheduler = pytest.mark.parametrize(
    "make",
    [make for name, make in SCHEDULERS.items() if name not in COPYING],
    ids=[name for name in SCHEDULERS if name not in COPYING],
)
contract = settings(max_examples=20)


def curve(trial: int, epochs: int) -> tuple[float, ...]:
    """A noisy learning curve that depends on the trial alone; a longer one begins with the shorter."""
    rng = np.random.default_rng(trial)
    floor, rate = rng.random(), rng.uniform(0.1, 1.0)
    return tuple((floor + np.exp(-rate * e) + 0.05 * rng.random()) for e in range(1, epochs + 1))


@dataclass
class Simulation:
    """A study whose trials take no time: they settle in random order, some of them not as hoped.

    `troubles` is how often an assignment ends early: infeasible, failed, converged, cancelled or interrupted.
    """

    scheduler: Scheduler
    max_epochs: int
    places: int
    seed: int
    troubles: float = 0.0
    trials: list[TrialRecord] = field(default_factory=list)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    @property
    def history(self) -> History:
        return History(tuple(self.trials))

    @property
    def training(self) -> list[TrialRecord]:
        return [trial for trial in self.trials if trial.status is Status.TRAINING]

    def decide(self) -> list[Assignment]:
        """Ask the scheduler for the free places, as the study does."""
        rng = np.random.default_rng([self.seed, len(self.trials)])
        return self.scheduler.next(self.history, self.places - len(self.training), rng)

    def apply(self, assignments: Sequence[Assignment]) -> None:
        for assignment in assignments:
            if isinstance(assignment, Start):
                number, until_epoch, parent = len(self.trials), assignment.until_epoch, assignment.parent
                values = () if parent is None else self.trials[parent].values
                training = TrialRecord(number, assignment.config, Status.TRAINING, values, until_epoch)
                self.trials.append(replace(training, parent=parent, born=len(values)))
            elif isinstance(assignment, Continue):
                self._set(assignment.trial, status=Status.TRAINING, until_epoch=assignment.until_epoch)
            else:
                self._set(assignment.trial, status=Status.CUT, reason=assignment.reason)

    def settle(self, trial: TrialRecord) -> None:
        """Train what was assigned to a trial, or less if something happens to it."""
        status, epochs = Status.PAUSED, trial.until_epoch
        if self.rng.random() < self.troubles:
            bad = (Status.INFEASIBLE, Status.FAILED, Status.CONVERGED, Status.CANCELLED, Status.PAUSED)
            status = bad[self.rng.integers(len(bad))]
            epochs = int(self.rng.integers(trial.epochs, trial.until_epoch + 1))
        values = (*trial.values[: trial.born], *curve(trial.number, epochs)[trial.born :])
        if status is Status.INFEASIBLE and epochs > trial.epochs:
            values = (*values[:-1], math.nan)
        if status is Status.PAUSED and epochs == self.max_epochs:
            status = Status.DONE
        self._set(trial.number, status=status, values=values)

    def some_training(self) -> list[TrialRecord]:
        """One or more of the trials in training, in random order."""
        training = self.training
        many = self.rng.integers(1, len(training) + 1)
        return [training[i] for i in self.rng.permutation(len(training))[:many]]

    def run(self) -> Iterator[list[Assignment]]:
        """Every decision until the study ends; yielded before it is applied."""
        while True:
            assignments = self.decide()
            yield assignments
            self.apply(assignments)
            if not assignments and not self.training:
                return
            for trial in self.some_training() if self.training else ():
                self.settle(trial)

    def _set(self, number: int, **changes: object) -> None:
        self.trials[number] = replace(self.trials[number], **changes)


studies = st.fixed_dictionaries(
    {
        "trials": st.integers(1, 40),
        "max_epochs": st.integers(1, 30),
        "places": st.integers(1, 9),
        "seed": st.integers(0, 10**6),
        "troubles": st.sampled_from([0.0, 0.2, 0.6]),
    }
)


def simulation(make: Make, study: dict[str, int]) -> Simulation:
    scheduler = make(SPACE, study["trials"], study["max_epochs"])
    return Simulation(scheduler, study["max_epochs"], study["places"], study["seed"], study["troubles"])


@every_scheduler
@contract
@given(study=studies)
def test_every_assignment_is_valid_and_the_study_ends(make: Make, study: dict[str, int]) -> None:
    sim = simulation(make, study)
    for decisions, assignments in enumerate(sim.run()):
        assert decisions < 100 * study["trials"] * study["max_epochs"]
        check_valid(sim, assignments)
    assert len(sim.trials) == study["trials"]  # the space is endless, so all of them were started


def check_valid(sim: Simulation, assignments: Sequence[Assignment]) -> None:
    places = [a for a in assignments if not isinstance(a, Stop)]
    assert len(places) <= sim.places - len(sim.training)
    named = [a.trial for a in assignments if not isinstance(a, Start)]
    assert len(set(named)) == len(named)
    for place, assignment in enumerate(assignments):
        if isinstance(assignment, Start):
            assert SPACE.complete(assignment.config) == assignment.config
            assert 1 <= assignment.until_epoch <= sim.max_epochs
            if assignment.parent is not None:
                parent = sim.trials[assignment.parent]
                assert parent.status is Status.PAUSED and 1 <= parent.epochs < assignment.until_epoch
                assert all(isinstance(a, Start) or a.trial != assignment.parent for a in assignments[:place])
            continue
        trial = sim.trials[assignment.trial]
        assert trial.status is Status.PAUSED
        if isinstance(assignment, Continue):
            assert trial.epochs < assignment.until_epoch <= sim.max_epochs
        else:
            assert assignment.reason


@every_scheduler
@contract
@given(study=studies)
def test_decisions_depend_on_the_history_and_the_random_numbers_alone(make: Make, study: dict[str, int]) -> None:
    """A new scheduler decides at every moment as the one that ran from the start, so a restart is exact."""
    sim = simulation(make, study)
    for assignments in sim.run():
        before = repr(sim.history)
        restarted = replace_scheduler(sim, make(SPACE, study["trials"], study["max_epochs"]))
        assert restarted.decide() == assignments == sim.decide()
        assert repr(sim.history) == before


def replace_scheduler(sim: Simulation, scheduler: Scheduler) -> Simulation:
    return Simulation(scheduler, sim.max_epochs, sim.places, sim.seed, sim.troubles, list(sim.trials))


@every_scheduler
@contract
@given(study=studies)
def test_no_free_place_no_training(make: Make, study: dict[str, int]) -> None:
    sim = simulation(make, study)
    for _ in sim.run():
        rng = np.random.default_rng(0)
        assert all(isinstance(a, Stop) for a in sim.scheduler.next(sim.history, 0, rng))


@every_other_scheduler
def test_a_study_ends_with_its_space(make: Make) -> None:
    sim = Simulation(make(Space(n=Int(1, 6)), 50, 9), 9, places=4, seed=0)
    for _ in sim.run():
        pass
    assert sorted(trial.config.n for trial in sim.trials) == [1, 2, 3, 4, 5, 6]


@every_other_scheduler
def test_without_a_limit_there_is_always_a_trial_for_a_free_place(make: Make) -> None:
    scheduler = make(SPACE, None, 9)
    sim = Simulation(scheduler, 9, places=4, seed=0)
    for _, assignments in zip(range(200), sim.run(), strict=False):
        assert sum(not isinstance(a, Stop) for a in assignments) == 4 - len(sim.training)


odd_trials = st.tuples(
    st.sampled_from([s for s in Status if s is not Status.WAITING]),
    st.lists(st.sampled_from([0.1, 0.5, 0.5, 2.0, math.nan, math.inf, -math.inf]), max_size=30).map(tuple),
    st.integers(0, 40),
)


@every_scheduler
@given(odd=st.lists(odd_trials, max_size=20), max_epochs=st.integers(1, 30))
def test_trials_that_the_scheduler_would_not_have_made(
    make: Make, odd: list[tuple[Status, tuple[float, ...], int]], max_epochs: int
) -> None:
    """Enqueued, told by hand, interrupted or assigned by another method: any number of epochs, any value."""
    sim = Simulation(make(SPACE, 25, max_epochs), max_epochs, places=30, seed=0)
    config = Config(lr=0.01, momentum=0.5, optimizer="adam")
    sim.trials = [
        TrialRecord(i, config, status, values, max(until_epoch, len(values)))
        for i, (status, values, until_epoch) in enumerate(odd)
    ]
    sim.places += len(sim.training)
    before = list(sim.trials)
    for assignments in sim.run():
        check_valid(sim, assignments)
    assert len(sim.trials) == 25
    for old, new in zip(before, sim.trials, strict=False):
        assert old.status in (Status.PAUSED, Status.TRAINING) or repr(old) == repr(new)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: FIFO(Random(SPACE), 0, 5), "trials=0"),
        (lambda: FIFO(Random(SPACE), 5, 0), "max_epochs=0"),
        (lambda: FIFO(Random(SPACE), 5, 2.5), "max_epochs=2.5"),  # type: ignore[arg-type]
        (lambda: Median(Random(SPACE), 5, 5, grace_epochs=6), "grace_epochs=6.*max_epochs=5"),
        (lambda: Median(Random(SPACE), 5, 5, min_trials=0), "min_trials=0"),
        (lambda: Median(Random(SPACE), 5, 5, interval=0), "interval=0"),
        (lambda: ASHA(Random(SPACE), -1, 5), "trials=-1"),
        (lambda: ASHA(Random(SPACE), 5, 5, grace_epochs=0), "grace_epochs=0"),
        (lambda: ASHA(Random(SPACE), 5, 5, grace_epochs=6), "grace_epochs=6.*max_epochs=5"),
        (lambda: ASHA(Random(SPACE), 5, 5, reduction_factor=1), "reduction_factor=1"),
        (lambda: Hyperband(Random(SPACE), 5, 5, reduction_factor=1), "reduction_factor=1"),
        (lambda: Hyperband(Random(SPACE), 5, 0), "max_epochs=0"),
    ],
)
def test_settings_that_are_not_allowed(make: Callable[[], Scheduler], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()


def test_only_fifo_may_not_depend_on_results() -> None:
    assert {name: make(SPACE, 5, 5).adaptive for name, make in SCHEDULERS.items()} == {
        name: not name.startswith("fifo") for name in SCHEDULERS
    }
    assert FIFO(Adaptive(), 5, 5).adaptive


class Adaptive(Grid):
    adaptive = True

    def __init__(self) -> None:
        super().__init__(SPACE)
