"""HpBandSter: BOHB, by its own schedule of brackets and its own models, with its network of workers left out.

What the package's `Master` does is done here step by step: a free place gets the next run of the oldest bracket that
has one, else of a new bracket; a result goes to its bracket and to the model. Crashed runs have no result, which
the package takes for a loss of infinity.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hpbandster.core.dispatcher import Job as Run
from hpbandster.optimizers import BOHB
from hpbandster.optimizers.config_generators import bohb
from hpbandster.optimizers.iterations import SuccessiveHalving

from benchmarks.search.peers.base import Job, Peer, Setting, config_from, values_from, whole_epochs
from benchmarks.search.peers.configspace import configuration_space
from rheostat.types import Config

ETA = 3


class Brackets:
    def __init__(self, setting: Setting) -> None:
        logging.getLogger("hpbandster").setLevel(logging.CRITICAL)
        np.random.seed(setting.seed)
        self.setting = setting
        self.models = bohb.BOHB(configuration_space(setting.space, setting.seed))
        levels = int(math.log(setting.max_epochs) / math.log(ETA) + 1e-9) + 1
        budgets = setting.max_epochs * np.power(float(ETA), -np.arange(levels - 1, -1, -1))
        self._plan = SimpleNamespace(max_SH_iter=levels, eta=ETA, budgets=budgets, config_generator=self.models)
        self._brackets: list[SuccessiveHalving] = []

    def ask(self) -> Job:
        found = next((run for bracket in self._brackets if (run := bracket.get_next_run()) is not None), None)
        if found is None:
            self._brackets.append(BOHB.get_next_iteration(self._plan, len(self._brackets)))
            found = self._brackets[-1].get_next_run()
        name, values, budget = found
        config = config_from(self.setting.space, values)
        return Job(config, whole_epochs(budget, self.setting.max_epochs), Run(name, config=values, budget=budget))

    def place(self, job: Job, config: Config) -> Job:
        run: Run = job.handle
        run.kwargs["config"] = values_from(self.setting.space, config)
        self._brackets[run.id[0]].data[run.id].config = run.kwargs["config"]
        return replace(job, config=config)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        run: Run = job.handle
        run.result = None if math.isnan(value) else {"loss": value, "info": {}}
        self._brackets[run.id[0]].register_result(run)
        self.models.new_result(run)


def make(name: str, setting: Setting) -> Peer:
    """`hpbandster-bohb`."""
    return Brackets(setting)
