"""Rheostat's searchers in studies of Optuna, by Optuna's own suite for samplers and against our own searchers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

optuna = pytest.importorskip("optuna")

from optuna.distributions import (  # noqa: E402
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.testing import pytest_samplers  # noqa: E402
from optuna.trial import TrialState, create_trial  # noqa: E402

from rheostat.errors import SettingError  # noqa: E402
from rheostat.integrations.optuna import RheostatSampler, history_of, space_of  # noqa: E402
from rheostat.methods import BOTH  # noqa: E402
from rheostat.search.sobol import Sobol  # noqa: E402
from rheostat.space import Choice, Float, Int, Space  # noqa: E402
from rheostat.types import Config, History, Status, derive_seed  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)

SEARCHES = ["random", "sobol"]


class Samplers:
    @pytest.fixture(params=["sobol", pytest.param("random", marks=pytest.mark.slow)])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], RheostatSampler]:
        return lambda: RheostatSampler(request.param, seed=0)


class TestBasics(Samplers, pytest_samplers.BasicSamplerTestCase):
    pass


class TestRelative(Samplers, pytest_samplers.RelativeSamplerTestCase):
    pass


class TestSingleObjective(Samplers, pytest_samplers.SingleOnlySamplerTestCase):
    pass


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        return float(x**2 + trial.suggest_int("n", 1, 9, step=2))
    return float(x**2 + trial.suggest_float("lr", 1e-5, 1e-1, log=True))


def study_of(search: str = "sobol", seed: int | None = 3, direction: str = "minimize") -> optuna.Study:
    return optuna.create_study(direction=direction, sampler=RheostatSampler(search, seed=seed))


@st.composite
def distributions(draw: st.DrawFn) -> dict[str, BaseDistribution]:
    found: dict[str, BaseDistribution] = {}
    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["float", "log", "step", "int", "log int", "int step", "choice"]))
        low, wide = draw(st.integers(-20, 20)), draw(st.integers(1, 50))
        known: BaseDistribution
        if kind == "float":
            known = FloatDistribution(low + 0.25, low + wide)
        elif kind == "log":
            known = FloatDistribution(10.0 ** (low / 5), 10.0 ** (low / 5) * (1 + wide), log=True)
        elif kind == "step":
            known = FloatDistribution(low + 0.1, round(low + 0.1 + 0.3 * wide, 1), step=0.1)
        elif kind == "int":
            known = IntDistribution(low, low + wide)
        elif kind == "log int":
            known = IntDistribution(1 + abs(low), 1 + abs(low) + wide, log=True)
        elif kind == "int step":
            known = IntDistribution(low, low + 3 * (1 + wide // 3), step=3)
        else:
            known = CategoricalDistribution([None, True, 1.5, "text", 7][: draw(st.integers(2, 5))])
        found[f"p{index}"] = known
    return found


@settings(max_examples=60)
@given(known=distributions(), seed=st.integers(0, 99))
def test_values_are_of_their_distributions_and_are_read_back(known: dict[str, BaseDistribution], seed: int) -> None:
    study = study_of("random", seed)
    for _ in range(4):
        study.tell(study.ask(known), 1.0)
    for trial in study.trials:
        create_trial(params=trial.params, distributions=trial.distributions, value=0.0)  # checks the ranges
        for name, distribution in known.items():
            value = trial.params[name]
            assert isinstance(
                value,
                {FloatDistribution: float, IntDistribution: int}.get(type(distribution), object),
            )
    space, history = space_of(known), history_of(study, 4, known)
    assert [trial.status for trial in history.trials] == [Status.DONE] * 4
    for trial in history.trials:
        assert space.complete(trial.config) == trial.config


def test_the_space_of_distributions() -> None:
    known = {
        "a": FloatDistribution(0.1, 0.9),
        "b": FloatDistribution(1e-5, 1.0, log=True),
        "c": FloatDistribution(0, 1, step=0.25),
        "d": IntDistribution(1, 9),
        "e": IntDistribution(1, 512, log=True),
        "f": IntDistribution(0, 8, step=4),
        "g": CategoricalDistribution(["x", "y", None]),
    }
    assert space_of(known) == Space(
        a=Float(0.1, 0.9),
        b=Float(1e-5, 1.0, log=True),
        c=Float(0.0, 1.0, step=0.25),
        d=Int(1, 9),
        e=Int(1, 512, log=True),
        f=Int(0, 8, step=4),
        g=Choice([0, 1, 2]),
    )


def test_trials_become_a_history() -> None:
    known = {"x": FloatDistribution(0.0, 1.0), "k": CategoricalDistribution(["a", "b"])}
    study = study_of(direction="maximize")

    def add(state: TrialState, value: float | None = None, steps: dict[int, float] | None = None, **extra: object):
        params, distributions = {"x": 0.5, "k": "b"} | extra, known
        study.add_trial(
            create_trial(
                state=state, value=value, params=params, distributions=distributions, intermediate_values=steps or {}
            )
        )

    add(TrialState.COMPLETE, 0.8, {10: 0.5, 5: 0.7, 20: 0.8})
    add(TrialState.COMPLETE, 0.9, {5: 0.1})
    add(TrialState.COMPLETE, 0.6)
    add(TrialState.PRUNED, None, {1: 0.2, 2: math.nan})
    add(TrialState.FAIL)
    add(TrialState.RUNNING, None, {0: 0.4})
    study.add_trial(create_trial(params={"x": 0.5}, distributions={"x": known["x"]}, value=0.0))
    study.add_trial(
        create_trial(params={"x": 3.0, "k": "a"}, distributions=known | {"x": FloatDistribution(0, 9)}, value=0.0)
    )
    study.add_trial(
        create_trial(params={"x": 0.5, "k": "b"}, distributions=known, value=0.7, constraints={"memory": 1.0})
    )
    study.enqueue_trial({"x": 0.1, "k": "a"})
    told = [(trial.status, trial.values) for trial in history_of(study, 99, known).trials]
    assert str(told[3]) == str((Status.CUT, (-0.2, math.nan)))
    assert told[:3] + told[4:] == [
        (Status.DONE, (-0.7, -0.5, -0.8)),
        (Status.DONE, (-0.9,)),
        (Status.DONE, (-0.6,)),
        (Status.FAILED, ()),
        (Status.TRAINING, (-0.4,)),
        (Status.CANCELLED, ()),
        (Status.CANCELLED, ()),
        (Status.INFEASIBLE, (-0.7,)),
        (Status.CANCELLED, ()),
    ]
    assert history_of(study, 2, known).trials[1].config == Config(x=0.5, k=1)
    assert len(history_of(study, 2, known).trials) == 2


def test_what_trials_have_in_common_is_suggested_as_rheostat_would() -> None:
    known = {"x": FloatDistribution(-5.0, 5.0), "y": FloatDistribution(1e-5, 1.0, log=True)}
    study = study_of("sobol", seed=3)
    for _ in range(9):
        study.tell(study.ask(known), 0.0)
    expected = Sobol(space_of(known), derive_seed(3, "")).suggest(History(), 9, np.random.default_rng(0))
    assert [trial.params for trial in study.trials[1:]] == [dict(config) for config in expected[1:]]


@pytest.mark.parametrize("search", SEARCHES)
def test_the_same_seed_gives_the_same_study_and_goes_on_with_it(search: str, tmp_path: object) -> None:
    def params(study: optuna.Study) -> list[dict[str, object]]:
        return [trial.params for trial in study.trials]

    whole, again, other = study_of(search), study_of(search), study_of(search, seed=4)
    whole.optimize(objective, n_trials=12)
    other.optimize(objective, n_trials=12)
    again.optimize(objective, n_trials=5)
    again.sampler = RheostatSampler(search, seed=3)  # as in a process that loads the study
    again.optimize(objective, n_trials=7)
    assert params(whole) == params(again) != params(other)


def test_without_a_seed_studies_differ() -> None:
    first, second = study_of("random", None), study_of("random", None)
    assert first.ask({"x": FloatDistribution(0, 1)}).params != second.ask({"x": FloatDistribution(0, 1)}).params


def test_conditions() -> None:
    study = study_of()
    study.optimize(objective, n_trials=20)
    for trial in study.trials:
        assert trial.params.keys() == {"x", "kind", "n" if trial.params["kind"] == "a" else "lr"}
    assert study.sampler.infer_relative_search_space(study, study.trials[-1]).keys() == {"x", "kind"}


def test_trials_side_by_side_get_different_points() -> None:
    study, known = study_of("sobol"), {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    study.tell(study.ask(known), 0.0)
    asked = [study.ask(known) for _ in range(8)]
    assert len({trial.params["x"] for trial in asked}) == 8


def test_a_finite_space_that_is_used_up_is_drawn_from_again() -> None:
    study = study_of("sobol")
    study.optimize(lambda trial: trial.suggest_int("n", 1, 3), n_trials=8)
    assert {trial.params["n"] for trial in study.trials[:4]} == {1, 2, 3}
    assert len(study.trials) == 8


def test_names() -> None:
    with pytest.raises(SettingError, match="Did you mean 'sobol'"):
        RheostatSampler("sobl")
    assert RheostatSampler().search == BOTH
