"""Any sampler of Optuna as a searcher (extra `optuna`).

Akiba et al. 2019, *Optuna: a next-generation hyperparameter optimization framework*, KDD. Its samplers read a study
and keep random numbers of their own. Here both are made anew for every suggestion: the study in memory from the
history, the sampler with a seed from `rng`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from rheostat.errors import SettingError, SpaceError, unknown
from rheostat.search.observations import Observer
from rheostat.search.random import each_once
from rheostat.space import Choice, Float, Hyperparameter, Int, Space
from rheostat.types import UNLIMITED, Config, History, Scalar, Status, TrialRecord

PREFIX = "optuna:"
ATTEMPTS = 3  # suggestions that were tried already, after which a sampler has nothing new to say
FINISHED = (Status.DONE, Status.CONVERGED)
UNFINISHED = (Status.PAUSED, Status.CUT, Status.TRAINING)
ENOUGH = 3  # trials beyond one per hyperparameter before they are compared at an epoch; N_min + 2 of BOHB


@dataclass(frozen=True)
class Sampler:
    """An Optuna sampler, and what it makes of a study.

    `make` gets the seed of one suggestion. `prunes` says whether it learns from pruned trials, as TPE does. `notes`
    says whether it keeps what it knows in notes (system attributes) on the study and its trials, as CMA-ES and
    genetic algorithms do: then every trial of the history is asked again, which takes time in proportion.
    """

    make: Callable[[int], BaseSampler]
    prunes: bool = False
    notes: bool = False
    adaptive: bool = True


def _cmaes(seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _gp(seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)


def _qmc(study_seed: int) -> Sampler:
    """One scrambled Sobol sequence for the study; the first trial, and what is conditional, is drawn at random."""

    def make(seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.QMCSampler(
                scramble=True,
                seed=study_seed,
                independent_sampler=optuna.samplers.RandomSampler(seed),
                warn_independent_sampling=False,
            )

    return Sampler(make, prunes=True, notes=True)


SAMPLERS: Mapping[str, Callable[[int], Sampler]] = {
    "tpe": lambda _: Sampler(lambda seed: optuna.samplers.TPESampler(seed=seed), prunes=True),
    "gp": lambda _: Sampler(_gp),
    "cmaes": lambda _: Sampler(_cmaes, notes=True),
    "nsgaii": lambda _: Sampler(lambda seed: optuna.samplers.NSGAIISampler(seed=seed), notes=True),
    "random": lambda _: Sampler(lambda seed: optuna.samplers.RandomSampler(seed=seed), adaptive=False),
    "qmc": _qmc,
}


class OptunaSearcher:
    """What an Optuna sampler suggests after these trials. `sampler` is a name, or a `Sampler` of one's own.

    Conditions are obeyed as Optuna's users do: hyperparameters are asked for in the order of the space, as far as
    they are active. Optuna's samplers know no priors. Trials are told like this:

    - Done and converged ones are complete, with their best value.
    - Paused and cut ones, and those in training that were paused before, are pruned where the sampler learns from
      pruned trials. Other samplers get them as complete, and every trial with its best value until the same epoch:
      the last one that enough of them have reached (one per hyperparameter, and 3). Shorter ones are left out.
    - Trials in training that have no value yet are running, which TPE and the Gaussian process keep away from.
    - Infeasible and failed ones are as bad as the worst: pruned without a value, or complete with the worst one.
    - Cancelled ones, and those that do not fit the space (any more), are failed, which every sampler ignores.

    No configuration is suggested twice: after 3 repetitions one that was not tried is drawn at random, and in a
    finite space none is left when all were tried.

    Raises SettingError for an unknown name.
    """

    def __init__(self, space: Space, sampler: str | Sampler, seed: int = 0) -> None:
        if isinstance(sampler, str):
            if sampler not in SAMPLERS:
                raise SettingError(unknown("Optuna sampler", PREFIX + sampler, [PREFIX + name for name in SAMPLERS]))
            sampler = SAMPLERS[sampler](seed)
        self.space = space
        self.sampler = sampler
        self.adaptive = sampler.adaptive
        self._observer = Observer(space)
        self._distributions = {name: distribution(part) for name, part in space.tuned.items()}

    def suggest(self, history: History, n: int, rng: np.random.Generator) -> list[Config]:
        with _quiet():
            study = self._study(history)

            def choose(_: list[Config], known: set[str]) -> Config | None:
                asked = (self._ask(study, rng) for _ in range(ATTEMPTS))
                return next((config for config in asked if config.key() not in known), None)

            return each_once(self.space, history, n, rng, choose)

    def _ask(self, study: optuna.Study, rng: np.random.Generator) -> Config:
        """A configuration; its trial stays in the study as a running one."""
        study.sampler = self.sampler.make(int(rng.integers(2**32)))
        trial = study.ask()
        values: dict[str, Scalar] = {}
        for name, part in self.space.tuned.items():
            if self.space.is_active(name, {**self.space.fixed, **values}):
                values[name] = from_optuna(part, _suggested(trial, name, self._distributions[name]))
        return Config({**values, **self.space.fixed})

    def _study(self, history: History) -> optuna.Study:
        study = optuna.create_study(sampler=self.sampler.make(0))
        for trial in self._told(history):
            if self.sampler.notes and trial.state is not TrialState.FAIL:
                _ask_again(study, trial)
            else:
                study.add_trial(trial)
        return study

    def _told(self, history: History) -> Iterator[FrozenTrial]:
        trials = history.trials
        stopped = any(trial.values for trial in trials if trial.status in UNFINISHED)
        compared = stopped and not self.sampler.prunes
        epoch = self._observer.observe(history, len(self.space) + ENOUGH).epoch if compared else UNLIMITED
        worths = [_worth(trial, epoch) for trial in trials]
        worst = max((worth for worth in worths if worth is not None and worth < math.inf), default=0.0)
        for trial, worth in zip(trials, worths, strict=True):
            params = self._params(trial)
            if params is None or trial.status is Status.CANCELLED:
                yield create_trial(state=TrialState.FAIL)
                continue
            distributions = {name: self._distributions[name] for name in params}
            if worth == math.inf and not self.sampler.prunes:
                worth = worst
            state, steps = TrialState.COMPLETE, {}
            if worth == math.inf:
                state, worth = TrialState.PRUNED, None
            elif worth is None:
                steps = lowest(trial.values) if self.sampler.prunes else {}
                begun = bool(trial.values) or trial.status.ended
                state = TrialState.PRUNED if steps else TrialState.FAIL if begun else TrialState.RUNNING
            yield create_trial(
                state=state, value=worth, params=params, distributions=distributions, intermediate_values=steps
            )

    def _params(self, trial: TrialRecord) -> dict[str, int | float] | None:
        """A trial's values as Optuna knows them; None where it is of another space."""
        try:
            config = self.space.complete(trial.config)
        except SpaceError:  # the space was changed since
            return None
        return {name: to_optuna(part, config[name]) for name, part in self.space.tuned.items() if name in config}


def _worth(trial: TrialRecord, epoch: int) -> float | None:
    """What a trial is compared by, until this epoch; infinity for a bad one, None where it cannot be compared yet."""
    if trial.status is Status.CANCELLED:
        return None
    if trial.status in (Status.INFEASIBLE, Status.FAILED) or not math.isfinite(sum(trial.values[-1:])):
        return math.inf
    if trial.status in FINISHED or len(trial.values) >= epoch:
        return min(lowest(trial.values[:epoch]).values(), default=math.inf)
    return None


def lowest(values: Sequence[float]) -> dict[int, float]:
    """By epoch, the lowest value until then; epochs before the first finite value are left out."""
    found: dict[int, float] = {}
    low = math.inf
    for epoch, value in enumerate(values, start=1):
        low = min(low, value) if math.isfinite(value) else low
        if low < math.inf:
            found[epoch] = low
    return found


def distribution(part: Hyperparameter) -> BaseDistribution:
    """The nearest that Optuna has: values of a `Choice`, and of a `Float` with a step, are counted from 0.

    Optuna knows no steps on a log scale; there, values are rounded afterwards.
    """
    if isinstance(part, Choice):
        return CategoricalDistribution(range(len(part.values)))
    if isinstance(part, Int):
        step = 1 if part.log else int(part.step or 1)
        return IntDistribution(int(part.low), part.decode(1.0), log=part.log, step=step)
    if part.step is not None and not part.log:
        return IntDistribution(0, _index(part, part.decode(1.0)))
    return FloatDistribution(part.low, part.high, log=part.log)


def to_optuna(part: Hyperparameter, value: Scalar) -> int | float:
    """A value as the distribution of its hyperparameter has it."""
    if isinstance(part, Choice):
        return int(part.encode(value) * len(part.values))
    fitting: int | float = part.decode(part.encode(value))  # by its step
    return _index(part, fitting) if isinstance(part, Float) and part.step is not None and not part.log else fitting


def from_optuna(part: Hyperparameter, value: int | float) -> Scalar:
    """The value that stands for this one."""
    if isinstance(part, Choice):
        chosen: Scalar = part.values[int(value)]
        return chosen
    if isinstance(part, Float) and part.step is not None and not part.log:
        value = part.low + value * part.step
    fitting: Scalar = part.decode(part.encode(value))
    return fitting


def _index(part: Float, value: float) -> int:
    assert part.step is not None
    return round((value - part.low) / part.step)


def _suggested(trial: optuna.Trial, name: str, known: BaseDistribution) -> int | float:
    if isinstance(known, CategoricalDistribution):
        index = trial.suggest_categorical(name, known.choices)
        assert isinstance(index, int)
        return index
    if isinstance(known, IntDistribution):
        return trial.suggest_int(name, known.low, known.high, log=known.log, step=known.step)
    assert isinstance(known, FloatDistribution)
    return trial.suggest_float(name, known.low, known.high, log=known.log)


def _ask_again(study: optuna.Study, told: FrozenTrial) -> None:
    """Add a trial as if the sampler had suggested it, so that it writes its notes."""
    study.enqueue_trial(told.params)
    trial = study.ask()
    assert trial.relative_params is not None  # asking for it, before anything is known, is what makes it write
    for name, known in told.distributions.items():
        _suggested(trial, name, known)
    for step, value in told.intermediate_values.items():
        trial.report(value, step)
    if told.state is not TrialState.RUNNING:
        study.tell(trial, told.value, told.state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line in the log for each study in memory."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.ERROR))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
