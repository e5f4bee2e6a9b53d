"""Rheostat's searchers in a study of Optuna, for people who stay there (extra `optuna`).

study = optuna.create_study(sampler=RheostatSampler("tpe", seed=0))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rheostat.methods import BOTH, make_searcher
from rheostat.space import Choice, Float, Hyperparameter, Int, Space
from rheostat.types import Config, History, Scalar, Status, TrialRecord, derive_seed

Distributions = Mapping[str, BaseDistribution]

STATUS: Mapping[TrialState, Status] = {
    TrialState.COMPLETE: Status.DONE,
    TrialState.PRUNED: Status.CUT,
    TrialState.FAIL: Status.FAILED,
    TrialState.RUNNING: Status.TRAINING,
    TrialState.WAITING: Status.CANCELLED,
}


class RheostatSampler(BaseSampler):
    """Suggests what a searcher of Rheostat would, by its name in `rheostat.tune(search=...)`.

    Every suggestion is a function of the trials before it, `seed` and the trial's number, so a study that is loaded
    again goes on as it would have; without a seed one is drawn. Hyperparameters that all earlier trials have in
    common are chosen together, others each for itself. Intermediate values are taken for those after epochs
    1, 2, ..., in the order of their steps; a complete trial whose value is none of them counts with its value alone.
    Failed trials count as bad, unlike with Optuna's samplers: a value that is not a number fails a trial there. So
    do those that violate a constraint. When a finite space is used up, values are drawn at random.

    Raises SettingError for an unknown name, and ValueError, as Optuna's samplers do, in a study of several
    objectives.
    """

    def __init__(self, search: str = BOTH, *, seed: int | None = None) -> None:
        make_searcher(search, Space(x=Float(0.0, 1.0)), 0)  # so that a mistyped name is told at once
        self.search = search
        self.seed = int(np.random.default_rng().integers(2**63)) if seed is None else seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        trials = study.get_trials(deepcopy=False)
        common = intersection_search_space(trials, include_pruned=True)
        return {name: known for name, known in common.items() if not known.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        return self._suggest(study, trial, search_space, "") if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        return self._suggest(study, trial, {param_name: param_distribution}, param_name)[param_name]

    def _suggest(self, study: Study, trial: FrozenTrial, distributions: Distributions, name: str) -> dict[str, Any]:
        space = space_of(distributions)
        searcher = make_searcher(self.search, space, derive_seed(self.seed, name))
        rng = np.random.default_rng([self.seed, derive_seed(name), trial.number])
        found = searcher.suggest(history_of(study, trial.number, distributions), 1, rng) or space.sample(rng)
        return {name: _value(known, found[0][name]) for name, known in distributions.items()}


def space_of(distributions: Distributions) -> Space:
    """The space of these distributions, none of which has a single value; choices are counted from 0."""
    return Space({name: _part(known) for name, known in distributions.items()})


def _part(known: BaseDistribution) -> Hyperparameter:
    if isinstance(known, FloatDistribution):
        return Float(known.low, known.high, log=known.log, step=known.step)
    if isinstance(known, IntDistribution):
        return Int(known.low, known.high, log=known.log, step=None if known.step == 1 else known.step)
    assert isinstance(known, CategoricalDistribution)
    return Choice(range(len(known.choices)))


def _value(known: BaseDistribution, value: Any) -> Any:
    """A value of `space_of` as its distribution has it."""
    if isinstance(known, CategoricalDistribution):
        return known.choices[value]
    if isinstance(known, FloatDistribution) and known.step is not None:
        return min(known.low + round((value - known.low) / known.step) * known.step, known.high)
    return value


def history_of(study: Study, number: int, distributions: Distributions) -> History:
    """The trials before the one with this number, with the values of these hyperparameters, to be minimised.

    One that lacks any of them, or has a value out of its range, stands there as cancelled, without a configuration.
    """
    space = space_of(distributions)
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    earlier = [trial for trial in study.get_trials(deepcopy=False) if trial.number < number]
    return History(tuple(_record(trial, distributions, space, sign) for trial in earlier))


def _record(trial: FrozenTrial, distributions: Distributions, space: Space, sign: int) -> TrialRecord:
    config = _config(trial, distributions, space)
    if config is None:
        return TrialRecord(trial.number, Config(), Status.CANCELLED)
    status = STATUS[trial.state]
    if any(violation > 0 for violation in trial.constraints.values()):
        status = Status.INFEASIBLE
    values = tuple(sign * value for value in _values(trial))
    return TrialRecord(trial.number, config, status, values, len(values))


def _config(trial: FrozenTrial, distributions: Distributions, space: Space) -> Config | None:
    try:
        values: dict[str, Scalar] = {
            name: int(known.to_internal_repr(trial.params[name]))
            if isinstance(known, CategoricalDistribution)
            else trial.params[name]
            for name, known in distributions.items()
        }
        return space.complete(values)
    except (KeyError, ValueError):  # absent, or none of the choices; SpaceError is a ValueError
        return None


def _values(trial: FrozenTrial) -> list[float]:
    curve = [value for _, value in sorted(trial.intermediate_values.items())]
    alone = trial.state is TrialState.COMPLETE and trial.value not in curve
    return [trial.value] if alone and trial.value is not None else curve
