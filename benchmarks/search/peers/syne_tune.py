"""Syne Tune: its ASHA with random search, with conformal quantile regression (CQR), and with BORE.

Driven as its `Tuner` drives a scheduler: a result after every epoch, and a trial that it stops never trains again.
Its baselines' settings are the defaults. (MOBSTER left the package with 0.14.)
"""

from __future__ import annotations

import datetime
import logging
import math
from collections import deque
from dataclasses import replace

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import Domain, choice, lograndint, loguniform, randint, uniform
from syne_tune.optimizer.baselines import ASHA, ASHABORE, ASHACQR
from syne_tune.optimizer.scheduler import SchedulerDecision

from benchmarks.search.peers.base import Job, Peer, Setting, config_from, values_from
from rheostat.space import Choice, Hyperparameter, Int
from rheostat.types import Config

BASELINES = {"syne-tune-asha": ASHA, "syne-tune-cqr": ASHACQR, "syne-tune-bore": ASHABORE}
METRIC, EPOCH = "value", "epoch"


class Baseline:
    def __init__(self, name: str, setting: Setting) -> None:
        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        np.random.seed(setting.seed)
        self.setting = setting
        self.scheduler = BASELINES[name](
            {name: _domain(part) for name, part in setting.space.items()},
            metric=METRIC,
            time_attr=EPOCH,
            max_t=setting.max_epochs,
            do_minimize=True,
            random_seed=setting.seed,
        )
        self._trials = 0
        self._going: deque[Job] = deque()  # those that were not stopped go on before anything new

    def ask(self) -> Job | None:
        if self._going:
            return self._going.popleft()
        suggestion = self.scheduler.suggest()
        if suggestion is None:  # every configuration of the space was given out
            return None
        trial = Trial(self._trials, suggestion.config, datetime.datetime.now())
        self._trials += 1
        self.scheduler.on_trial_add(trial)
        return Job(config_from(self.setting.space, suggestion.config), 1, trial)

    def place(self, job: Job, config: Config) -> Job:
        asked: Trial = job.handle
        trained = Trial(asked.trial_id, values_from(self.setting.space, config), asked.creation_time)
        return replace(job, config=config, handle=trained)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        trial: Trial = job.handle
        if math.isnan(value):
            self.scheduler.on_trial_error(trial)
            return
        result = {METRIC: value, EPOCH: job.until_epoch}
        if ended and job.until_epoch < self.setting.max_epochs:
            self.scheduler.on_trial_complete(trial, result)
        elif self.scheduler.on_trial_result(trial, result) == SchedulerDecision.STOP:
            self.scheduler.on_trial_remove(trial)
        else:
            self._going.append(Job(job.config, job.until_epoch + 1, trial))


def _domain(part: Hyperparameter) -> Domain:
    if isinstance(part, Choice):
        return choice([str(index) for index in range(len(part.values))])
    if isinstance(part, Int):
        return (lograndint if part.log else randint)(int(part.low), int(part.high))
    return (loguniform if part.log else uniform)(part.low, part.high)


def make(name: str, setting: Setting) -> Peer:
    """`syne-tune-asha`, `syne-tune-cqr` or `syne-tune-bore`."""
    return Baseline(name, setting)
