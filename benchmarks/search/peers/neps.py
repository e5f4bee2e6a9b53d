"""NePS by its ask-and-tell: the optimizer that it chooses itself (Hyperband with epochs, a Gaussian process without),
and PriorBand without priors, which mixes random draws and draws around the incumbent.

ifBO is left out: its network is not in the package.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import neps
import numpy as np
import torch
from neps.optimizers import load_optimizer

from benchmarks.search.peers.base import Job, Peer, Setting, Worst, config_from, values_from
from rheostat.space import Choice, Hyperparameter, Int
from rheostat.types import Config

FIDELITY = "epochs"


class AskAndTell:
    def __init__(self, name: str, setting: Setting) -> None:
        logging.getLogger("neps").setLevel(logging.ERROR)
        random.seed(setting.seed)  # its documentation, page Seeding: the generators of these three
        np.random.seed(setting.seed)
        torch.manual_seed(setting.seed)
        self.setting = setting
        parts = {name: _parameter(part) for name, part in setting.space.items()}
        if setting.max_epochs > 1:
            parts[FIDELITY] = neps.HPOInteger(1, setting.max_epochs, is_fidelity=True)
        chosen = "priorband" if name == "neps-priorband" and setting.max_epochs > 1 else "auto"
        self.optimizer = neps.AskAndTell(load_optimizer(chosen, neps.SearchSpace(parts))[0])
        self._worst = Worst()

    def ask(self) -> Job:
        trial = self.optimizer.ask()
        return Job(config_from(self.setting.space, trial.config), int(trial.config.get(FIDELITY, 1)), trial)

    def place(self, job: Job, config: Config) -> Job:
        trial: neps.Trial = job.handle  # the one that the optimizer looks at
        trial.config = {**trial.config, **values_from(self.setting.space, config)}
        return replace(job, config=config)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        self.optimizer.tell(job.handle, self._worst(value))


def _parameter(part: Hyperparameter) -> neps.HPOCategorical | neps.HPOInteger | neps.HPOFloat:
    if isinstance(part, Choice):
        return neps.HPOCategorical([str(index) for index in range(len(part.values))])
    if isinstance(part, Int):
        return neps.HPOInteger(int(part.low), int(part.high), log=part.log)
    return neps.HPOFloat(part.low, part.high, log=part.log)


def make(name: str, setting: Setting) -> Peer:
    """`neps` or `neps-priorband`."""
    return AskAndTell(name, setting)
