"""Optuna: its TPE, with and without a pruner, and its Gaussian process.

Settings are the defaults, which since Optuna 5 are what its documentation recommends: multivariate TPE with the
constant liar. Of the pruners it recommends Hyperband for TPE (tutorial *Efficient optimization algorithms*); both
judge from the first epoch, since no training here is too noisy for that. A study is asked and told as its
documentation says for loops of one's own: a value after every epoch, and a pruned trial is never continued.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import GPSampler, TPESampler
from optuna.trial import Trial, TrialState

from benchmarks.search.peers.base import Job, Peer, Setting, config_from, values_from
from rheostat.space import Choice, Hyperparameter, Int
from rheostat.types import Config


class Study:
    """A study in memory. Without a pruner trials train to the end in one go."""

    def __init__(self, sampler: optuna.samplers.BaseSampler, pruner: BasePruner, setting: Setting) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.storage = optuna.storages.InMemoryStorage()
        name = f"seed {setting.seed}"  # Hyperband draws brackets from it
        self.study = optuna.create_study(study_name=name, storage=self.storage, sampler=sampler, pruner=pruner)
        self.study_id = self.storage.get_study_id_from_name(name)
        self.setting = setting
        self.stride = setting.max_epochs if isinstance(pruner, NopPruner) else 1
        self.distributions = {name: _distribution(part) for name, part in setting.space.items()}
        self._going: deque[Job] = deque()  # those that were not pruned go on before anything new

    def ask(self) -> Job:
        if self._going:
            return self._going.popleft()
        trial = self.study.ask(self.distributions)
        return Job(config_from(self.setting.space, trial.params), self.stride, trial)

    def place(self, job: Job, config: Config) -> Job:
        trial: Trial = job.handle
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)
        for name, value in values_from(self.setting.space, config).items():
            distribution = self.distributions[name]
            self.storage.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)
        return replace(job, config=config)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        trial: Trial = job.handle
        if math.isnan(value):  # FAQ: a trial that returns NaN is a failure
            self.study.tell(trial, state=TrialState.FAIL)
            return
        trial.report(value, job.until_epoch)
        if ended or job.until_epoch == self.setting.max_epochs:
            self.study.tell(trial, value)
        elif trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self._going.append(Job(job.config, job.until_epoch + self.stride, trial))


def _distribution(part: Hyperparameter) -> BaseDistribution:
    if isinstance(part, Choice):
        return CategoricalDistribution([str(index) for index in range(len(part.values))])
    if isinstance(part, Int):
        return IntDistribution(int(part.low), int(part.high), log=part.log)
    return FloatDistribution(part.low, part.high, log=part.log)


def make(name: str, setting: Setting) -> Peer:
    """`optuna-tpe`, `optuna-tpe-hyperband`, `optuna-tpe-asha` or `optuna-gp`."""
    pruner: BasePruner = NopPruner()
    if name.endswith("-hyperband"):
        pruner = HyperbandPruner(min_resource=1, max_resource=setting.max_epochs, reduction_factor=3)
    elif name.endswith("-asha"):
        pruner = SuccessiveHalvingPruner(min_resource=1)
    sampler = GPSampler(seed=setting.seed) if name.endswith("-gp") else TPESampler(seed=setting.seed)
    return Study(sampler, pruner, setting)
