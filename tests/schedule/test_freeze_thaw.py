"""What the default does: fixed shares for the stages, and a model that says whom."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.schedule.asha import ASHA
from rheostat.schedule.base import Scheduler
from rheostat.schedule.freeze_thaw import FreezeThaw
from rheostat.search.sobol import Sobol
from rheostat.space import Choice, Float, Int, Prior, Space
from rheostat.types import Config, Continue, History, Start, Status, TrialRecord

CUBE = Space(x=Float(0.0, 1.0), y=Float(0.0, 1.0), z=Float(0.0, 1.0))
BEST = {"x": 0.3, "y": 0.7, "z": 0.2}

Value = Callable[[Config, int], float]


def bowl(config: Config, epoch: int) -> float:
    """A curve that falls as 1/epoch to a floor, which is 0 at `BEST`. NaN: it diverges."""
    return sum((config[name] - BEST[name]) ** 2 for name in config if name in BEST) + 1 / (1 + epoch)


def study(
    scheduler: Scheduler, value: Value, max_epochs: int, places: int = 1, budget: float = math.inf, target: float = -1.0
) -> tuple[list[TrialRecord], int]:
    """The trials, and the epochs paid for, when there is nothing more to do, or `budget` epochs, or `target` is met."""
    trials: list[TrialRecord] = []
    paid = 0
    for decision in count():
        work = scheduler.next(History(tuple(trials)), places, np.random.default_rng(decision))
        if not work:
            break
        for assignment in work:
            if isinstance(assignment, Start):
                trials.append(TrialRecord(len(trials), assignment.config, Status.PAUSED))
            number = len(trials) - 1 if isinstance(assignment, Start) else assignment.trial
            until = assignment.until_epoch if isinstance(assignment, Start | Continue) else 0
            old = trials[number]
            fresh = [value(old.config, epoch) for epoch in range(old.epochs + 1, until + 1)]
            status = Status.DONE if until == max_epochs else Status.PAUSED
            status = Status.INFEASIBLE if math.isnan(fresh[-1]) else status
            trials[number] = TrialRecord(number, old.config, status, (*old.values, *fresh), until)
            paid += len(fresh)
            if min(fresh) <= target:
                return trials, paid
        if paid >= budget:
            break
    return trials, paid


def told(space: Space, trials: int, value: Value = bowl, seed: int = 3) -> History:
    """Trials of one epoch."""
    configs = space.sample(np.random.default_rng(seed), trials)
    records = [TrialRecord(i, config, Status.PAUSED, (value(config, 1),), 1) for i, config in enumerate(configs)]
    return History(tuple(records))


@settings(max_examples=3, deadline=None)
@given(max_epochs=st.sampled_from([3, 9]), places=st.integers(4, 8), seed=st.integers(0, 99))
def test_every_stage_gets_its_share_of_the_epochs(max_epochs: int, places: int, seed: int) -> None:
    method = FreezeThaw(CUBE, None, max_epochs, seed)
    trials, paid = study(method, bowl, max_epochs, places, budget=40 * max_epochs)
    ends = [0, *method.rungs.tolist()]
    got = [sum(min(max(t.epochs - a, 0), b - a) for t in trials) for a, b in pairwise(ends)]
    wanted = 1.2 ** np.arange(len(got))
    # A decision may end in the middle of a stage, and the first ones had nothing to thaw.
    assert np.abs(np.array(got) / paid - wanted / wanted.sum()).max() < 0.05


@settings(max_examples=12, deadline=None)
@given(trials=st.integers(1, 10), max_epochs=st.integers(1, 30), places=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_study_that_ends_has_trained_a_trial_to_the_last_epoch(
    trials: int, max_epochs: int, places: int, seed: int
) -> None:
    records, _ = study(FreezeThaw(CUBE, trials, max_epochs, seed), bowl, max_epochs, places)
    assert len(records) == trials
    assert max(record.epochs for record in records) == max_epochs


def test_the_best_of_trials_too_few_for_a_model_is_trained_to_the_end() -> None:
    records, _ = study(FreezeThaw(CUBE, 3, 9), bowl, 9)
    best = min(records, key=lambda record: record.values[0])
    assert [record.number for record in records if record.epochs == 9] == [best.number]


def test_a_finite_space_too_small_for_a_model_is_trained_to_the_end() -> None:
    records, _ = study(FreezeThaw(Space(x=Choice([0.1, 0.3])), 50, 9), bowl, 9)
    assert [record.config["x"] for record in records if record.epochs == 9] == [0.3]


def test_a_trial_that_was_interrupted_before_its_first_epoch_goes_on_first() -> None:
    for known in (1, 12):
        trials = list(told(CUBE, known).trials)
        trials.append(TrialRecord(known, CUBE.likely(), Status.PAUSED, (), 0))
        work = FreezeThaw(CUBE, None, 9).next(History(tuple(trials)), 3, np.random.default_rng(0))
        assert work[0] == Continue(known, 1)
        assert len(work) == 3


def test_starts_keep_out_of_where_training_diverges() -> None:
    def half(config: Config, epoch: int) -> float:
        return math.nan if config["y"] < 0.5 else bowl(config, epoch)

    for seed in range(2):
        trials, _ = study(FreezeThaw(CUBE, None, 9, seed), half, 9, places=4, budget=150)
        later = [trial.config["y"] >= 0.5 for trial in trials[20:]]
        assert len(later) > 15
        assert np.mean(later) > 0.65  # a quarter explores evenly, so at most 7/8 on average; blindly a half


def test_finds_a_good_trial_in_half_the_epochs_of_successive_halving() -> None:
    ours, halving = [], []
    for seed in range(5):
        target = 1 / 28 + 0.01
        ours.append(study(FreezeThaw(CUBE, None, 27, seed), bowl, 27, 4, 1500, target)[1])
        halving.append(study(ASHA(Sobol(CUBE, seed), None, 27), bowl, 27, 4, 1500, target)[1])
    assert np.median(ours) < np.median(halving) / 2, (ours, halving)


def many() -> Space:
    """20 dimensions."""
    parts = {f"x{i}": Float(1e-4, 1.0, log=i % 2 == 0) for i in range(8)}
    return Space(
        parts,
        kind=Choice(["a", "b", "c"]),
        layers=Int(1, 4),
        **{f"width{i}": Int(8, 256, log=True, when={"layers": range(i + 1, 5)}) for i in range(4)},
        **{f"only_{kind}": Float(0.0, 1.0, when={"kind": kind}) for kind in "abc"},
        flag=Choice([True, False]),
        rate=Float(0.0, 0.9, step=0.1, when={"flag": True}),
        size=Choice([16, 32, 64]),
    )


def test_many_dimensions_with_conditions_and_categories() -> None:
    space = many()
    assert len(space) == 20

    def value(config: Config, epoch: int) -> float:
        return abs(math.log10(config["x0"]) + 2) + config["layers"] / 4 + (config["kind"] != "b") + 1 / epoch

    trials, _ = study(FreezeThaw(space, 60, 9), value, 9, places=4)
    assert all(space.complete(trial.config) == trial.config for trial in trials)
    ends = [value(trial.config, 9) for trial in trials]
    assert np.mean(ends[40:]) < np.mean(ends[:20]) - 0.3  # it learns
    assert np.mean([trial.config["kind"] == "b" for trial in trials[30:]]) > 0.5


@pytest.mark.parametrize("space", [CUBE, many()], ids=["cube", "many"])
def test_a_batch_of_64_holds_no_configuration_twice(space: Space) -> None:
    history = told(space, 30, lambda config, epoch: float(len(config)) + sum(v for v in config.values() if v is True))
    found = FreezeThaw(space, None, 9).suggest(history, 64, np.random.default_rng(0))
    keys = {config.key() for config in found} | {trial.config.key() for trial in history.trials}
    assert len(found) == 64
    assert len(keys) == 94


def test_a_study_begins_with_the_likely_configuration() -> None:
    space = Space(x=Float(0.0, 1.0, prior=0.9), y=Float(0.0, 1.0), kind=Choice(["a", "b"], prior="b"))
    work = FreezeThaw(space, None, 9).next(History(), 4, np.random.default_rng(0))
    assert work[0] == Start(Config(x=0.9, y=0.5, kind="b"), 1)
    assert len({assignment.config for assignment in work if isinstance(assignment, Start)}) == 4


def believing(at: dict[str, float], sure: float = 0.7) -> Space:
    return Space({name: Float(0.0, 1.0, prior=Prior(value, sure)) for name, value in at.items()})


def near(configs: list[Config], at: dict[str, float]) -> float:
    """The share of hyperparameters that lie near a place, of a configuration on average."""
    return float(np.mean([[abs(config[name] - at[name]) < 0.125 for name in at] for config in configs]))


def test_priors_are_followed_at_first_and_left_where_they_are_wrong() -> None:
    wrong = {"x": 0.85, "y": 0.15, "z": 0.8}
    trials, _ = study(FreezeThaw(believing(wrong), None, 9), bowl, 9, places=4, budget=300)
    configs = [trial.config for trial in trials]
    assert near(configs[:8], wrong) > 0.5
    assert near(configs[-20:], wrong) < 0.25
    assert min(bowl(config, 9) for config in configs) < 0.1 + 0.02


def test_a_right_prior_helps_at_once() -> None:
    right = {"x": 0.35, "y": 0.65, "z": 0.25}
    with_, without = (
        study(FreezeThaw(space, None, 9), bowl, 9, places=4, budget=30)[0] for space in (believing(right), CUBE)
    )
    assert min(bowl(t.config, 9) for t in with_) < min(bowl(t.config, 9) for t in without)


def test_what_was_read_before_changes_no_decision() -> None:
    method = FreezeThaw(CUBE, None, 9)
    for trials, seed in [(80, 1), (30, 2), (31, 3), (0, 4), (30, 3)]:
        history = told(CUBE, trials, seed=seed)
        fresh = FreezeThaw(CUBE, None, 9).next(history, 8, np.random.default_rng(5))
        assert method.next(history, 8, np.random.default_rng(5)) == fresh
