"""Any sampler of Optuna as a searcher, against Optuna itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

optuna = pytest.importorskip("optuna")

from rheostat.errors import SettingError  # noqa: E402
from rheostat.schedule.asha import ASHA  # noqa: E402
from rheostat.search.optuna import (  # noqa: E402
    SAMPLERS,
    OptunaSearcher,
    Sampler,
    distribution,
    from_optuna,
    to_optuna,
)
from rheostat.space import Choice, Float, Int, Space  # noqa: E402
from rheostat.types import Config, History, Start, Status, TrialRecord  # noqa: E402
from tests.search.test_contract import finite_spaces, grown, histories, keys  # noqa: E402
from tests.spaces import spaces  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)

QUICK = [name for name in SAMPLERS if name != "gp"]
LINE = Space(x=Float(-5.0, 5.0), lr=Float(1e-5, 1e-1, log=True))
MIXED = Space(
    optimizer=Choice(["adam", "sgd"]),
    momentum=Float(0.5, 0.95, step=0.05, when={"optimizer": "sgd"}),
    units=Int(16, 512, log=True),
    layers=Int(1, 9, step=2),
)


def bowl(config: Mapping[str, float]) -> float:
    return float((config["x"] - 1) ** 2 + math.log10(config["lr"] / 1e-3) ** 2)


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def seed_of(seed: int = 5) -> int:
    """The seed that a sampler gets for the first suggestion from this generator."""
    return int(rng(seed).integers(2**32))


def records(*trials: tuple[Status, tuple[float, ...]], space: Space = LINE) -> History:
    configs = space.sample(np.random.default_rng(1), len(trials))
    return History(
        tuple(
            TrialRecord(i, config, status, values, len(values))
            for i, (config, (status, values)) in enumerate(zip(configs, trials, strict=True))
        )
    )


def told(searcher: OptunaSearcher, history: History) -> list[optuna.trial.FrozenTrial]:
    return list(searcher._told(history))


# -- against Optuna ----------------------------------------------------------------------------------------------


OWN: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "cmaes": lambda seed: optuna.samplers.CmaEsSampler(seed=seed),
    "nsgaii": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=50),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("trials", [1, 14, 60])
def test_the_next_suggestion_is_the_one_that_optuna_makes_itself(name: str, trials: int) -> None:
    """A study that Optuna ran, told as a history, goes on as that study does with the same seed."""

    def objective(trial: optuna.Trial) -> float:
        return bowl({"x": trial.suggest_float("x", -5, 5), "lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True)})

    study = optuna.create_study(sampler=OWN["cmaes" if name == "gp" else name](3))
    study.optimize(objective, n_trials=min(trials, 30) if name == "gp" else trials)
    history = History(
        tuple(TrialRecord(t.number, Config(t.params), Status.DONE, (t.value,), 1) for t in study.get_trials())
    )
    study.sampler = OWN[name](seed_of())
    study.optimize(objective, n_trials=1)
    (config,) = OptunaSearcher(LINE, name).suggest(history, 1, rng())
    tolerance = 1e-2 if name == "gp" else 1e-6  # of values that are rounded to ten digits
    assert config["x"] == pytest.approx(study.trials[-1].params["x"], rel=tolerance, abs=tolerance)
    assert config["lr"] == pytest.approx(study.trials[-1].params["lr"], rel=tolerance)


def test_qmc_gives_each_trial_the_next_point_of_one_sequence() -> None:
    searcher, history = OptunaSearcher(LINE, "qmc", seed=7), History()
    for seed in range(17):  # one after the other, with other random numbers each time
        history = grown(history, searcher.suggest(history, 1, rng(seed)))
    units = np.array([LINE.encode(trial.config) for trial in history.trials[1:]])  # the first is drawn at random
    assert np.bincount((units[:, 0] * 16).astype(int), minlength=16).tolist() == [1] * 16
    again = OptunaSearcher(LINE, "qmc", seed=7).suggest(grown(History(), [history.trials[0].config]), 16, rng(99))
    assert keys(again) == keys([trial.config for trial in history.trials[1:]])
    other = OptunaSearcher(LINE, "qmc", seed=8).suggest(grown(History(), [history.trials[0].config]), 16, rng(99))
    assert keys(again) != keys(other)


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_a_bowl_is_found(name: str) -> None:
    searcher, history = OptunaSearcher(LINE, name), History()
    generator = rng(0)
    for _ in range(20):
        configs = searcher.suggest(history, 3, generator)
        first = len(history.trials)
        more = (TrialRecord(first + i, c, Status.DONE, (bowl(c),), 1) for i, c in enumerate(configs))
        history = History((*history.trials, *more))
    drawn = [bowl(config) for config in LINE.sample(rng(0), 60)]
    assert np.mean([trial.best for trial in history.trials[-15:]]) < 0.3 * np.mean(drawn)


# -- the contract --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUICK)
@settings(max_examples=15)
@given(data=st.data(), n=st.integers(0, 3))
def test_suggestions_fit_the_space_and_depend_on_the_arguments_alone(name: str, data: st.DataObject, n: int) -> None:
    space = data.draw(spaces(max_size=5))
    history = data.draw(histories(space))
    searcher = OptunaSearcher(space, name, seed=1)
    searcher.suggest(grown(history, space.sample(np.random.default_rng(7), 5)), 2, rng(8))
    configs = searcher.suggest(history, n, rng(3))
    assert len(configs) <= n
    for config in configs:
        assert space.complete(config).key() == config.key()
    assert keys(configs) == keys(OptunaSearcher(space, name, seed=1).suggest(history, n, rng(3)))


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
@settings(max_examples=10)
@given(data=st.data())
def test_a_finite_space_is_tried_without_repetition(name: str, data: st.DataObject) -> None:
    space = data.draw(finite_spaces)
    history = data.draw(histories(space))
    configs = OptunaSearcher(space, name).suggest(history, 12, rng())
    assert len(set(keys(configs))) == len(configs)
    assert not set(keys([trial.config for trial in history.trials])) & set(keys(configs))


def test_a_finite_space_is_used_up() -> None:
    space = Space(n=Int(1, 6))
    configs = OptunaSearcher(space, "tpe").suggest(History(), 9, rng())
    assert sorted(config.n for config in configs) == [1, 2, 3, 4, 5, 6]
    assert OptunaSearcher(space, "tpe").suggest(grown(History(), configs), 1, rng()) == []


def test_a_batch_of_random_suggestions_equals_single_ones() -> None:
    searcher = OptunaSearcher(MIXED, "random")
    assert not searcher.adaptive
    batch = searcher.suggest(History(), 5, rng())
    generator, singles = rng(), []
    for value in (0.1, math.nan, 3.0, math.inf, 0.1):
        singles += searcher.suggest(grown(History(), singles, value), 1, generator)
    assert keys(singles) == keys(batch)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("value", [0.5, math.nan, -math.inf])
def test_flat_histories(name: str, value: float) -> None:
    space = Space(lr=Float(1e-5, 1e-1, log=True), optimizer=Choice(["adam", "sgd"]))
    trials = grown(History(), space.sample(rng(0), 15), value)
    assert len(OptunaSearcher(space, name).suggest(trials, 2, rng())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in QUICK if name != "nsgaii"])
def test_long_histories(name: str) -> None:
    trials = grown(History(), LINE.sample(rng(0), 3_000))
    assert len(OptunaSearcher(LINE, name).suggest(trials, 3, rng())) == 3


@pytest.mark.slow
@settings(max_examples=10)
@given(data=st.data())
def test_the_gaussian_process_takes_any_history(data: st.DataObject) -> None:
    space = data.draw(spaces(max_size=4))
    history = data.draw(histories(space))
    more = grown(history, space.sample(rng(2), 12))
    for config in OptunaSearcher(space, "gp").suggest(more, 2, rng()):
        assert space.complete(config).key() == config.key()


# -- how trials are told -------------------------------------------------------------------------------------------


def test_one_that_learns_from_pruned_trials() -> None:
    states = [
        (trial.state.name, trial.value, trial.intermediate_values)
        for trial in told(
            OptunaSearcher(LINE, "tpe"),
            records(
                (Status.DONE, (3.0, 1.0, 2.0)),
                (Status.CONVERGED, (4.0,)),
                (Status.PAUSED, (5.0, 6.0)),
                (Status.CUT, (math.nan, 7.0)),
                (Status.TRAINING, (8.0,)),
                (Status.TRAINING, ()),
                (Status.WAITING, ()),
                (Status.INFEASIBLE, (1.0, math.nan)),
                (Status.FAILED, ()),
                (Status.PAUSED, (math.inf,)),
                (Status.CANCELLED, (0.0,)),
                (Status.CUT, ()),
            ),
        )
    ]
    assert states == [
        ("COMPLETE", 1.0, {}),
        ("COMPLETE", 4.0, {}),
        ("PRUNED", None, {1: 5.0, 2: 5.0}),
        ("PRUNED", None, {2: 7.0}),
        ("PRUNED", None, {1: 8.0}),
        ("RUNNING", None, {}),
        ("RUNNING", None, {}),
        ("PRUNED", None, {}),
        ("PRUNED", None, {}),
        ("PRUNED", None, {}),
        ("FAIL", None, {}),
        ("FAIL", None, {}),
    ]


def test_others_compare_all_trials_at_one_epoch() -> None:
    history = records(
        (Status.DONE, (5.0, 3.0, 1.0, 0.5)),
        (Status.PAUSED, (9.0, 8.0, 7.0)),
        (Status.PAUSED, (6.0, 4.0)),
        (Status.PAUSED, (2.0, 4.0)),
        (Status.CONVERGED, (1.5, 1.6)),
        (Status.CUT, (3.5,)),
        (Status.TRAINING, ()),
        (Status.INFEASIBLE, (1.0, math.nan)),
        (Status.CANCELLED, (0.0,)),
    )
    states = [(trial.state.name, trial.value) for trial in told(OptunaSearcher(LINE, "cmaes"), history)]
    assert states == [
        ("COMPLETE", 3.0),
        ("COMPLETE", 8.0),
        ("COMPLETE", 4.0),
        ("COMPLETE", 2.0),
        ("COMPLETE", 1.5),
        ("FAIL", None),
        ("RUNNING", None),
        ("COMPLETE", 8.0),
        ("FAIL", None),
    ]


def test_trials_that_none_stopped_are_compared_by_their_best_value() -> None:
    history = records((Status.DONE, (5.0, 3.0, 1.0)), (Status.CONVERGED, (1.5,)), (Status.TRAINING, ()))
    assert [trial.value for trial in told(OptunaSearcher(LINE, "cmaes"), history)] == [1.0, 1.5, None]


def test_trials_of_an_earlier_space_are_ignored() -> None:
    history = records((Status.DONE, (1.0,)), (Status.DONE, (2.0,)), space=Space(x=Float(10.0, 11.0), lr=Float(0.1, 1)))
    assert [trial.state.name for trial in told(OptunaSearcher(LINE, "tpe"), history)] == ["FAIL", "FAIL"]


def test_running_trials_keep_others_away() -> None:
    """TPE draws 24 candidates around good trials; beside a trial in training at the best of them it takes another."""
    finished = grown(History(), [Config(x=float(x), lr=1e-3) for x in range(-5, 6)])
    finished = History(tuple(replace(trial, values=(bowl(trial.config),)) for trial in finished.trials))
    searcher = OptunaSearcher(LINE, "tpe")
    for seed in range(5):
        (alone,) = searcher.suggest(finished, 1, rng(seed))
        running = TrialRecord(len(finished.trials), alone, Status.TRAINING, (), 1)
        (beside,) = searcher.suggest(History((*finished.trials, running)), 1, rng(seed))
        assert beside != alone


# -- hyperparameters -----------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(space=spaces(), seed=st.integers(0, 99))
def test_values_survive_the_way_to_optuna_and_back(space: Space, seed: int) -> None:
    for config in space.sample(np.random.default_rng(seed), 3):
        for name, part in space.tuned.items():
            if name in config:
                value = to_optuna(part, config[name])
                known = distribution(part)
                optuna.create_trial(params={name: value}, distributions={name: known}, value=0.0)  # checks the range
                back = from_optuna(part, value)
                assert (back, type(back)) == (config[name], type(config[name]))


def test_conditions_are_obeyed() -> None:
    for config in OptunaSearcher(MIXED, "random").suggest(History(), 30, rng()):
        assert ("momentum" in config) == (config.optimizer == "sgd")


# -- samplers and schedulers ---------------------------------------------------------------------------------------


def test_a_sampler_of_ones_own() -> None:
    mine = Sampler(lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=0), prunes=True)
    (config,) = OptunaSearcher(LINE, mine).suggest(grown(History(), LINE.sample(rng(0), 3)), 1, rng())
    assert LINE.complete(config) == config


def test_with_a_scheduler() -> None:
    assignments = ASHA(OptunaSearcher(MIXED, "tpe"), 10, 9).next(History(), 4, rng())
    assert len(assignments) == 4
    assert all(isinstance(assignment, Start) for assignment in assignments)


def test_a_mistyped_name() -> None:
    with pytest.raises(SettingError, match="optuna:tpr.*Did you mean 'optuna:tpe'"):
        OptunaSearcher(LINE, "tpr")
