"""SMAC3: random forests inside Hyperband, by its multi-fidelity facade; without fidelities by the one it advises there.

As in its example of a perceptron trained for several epochs: five random configurations before the first model, and
the incumbent judged at the largest budget. A training that diverged is a crash, with the worst cost so far.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ConfigSpace import Configuration
from numpy.typing import NDArray
from smac import HyperparameterOptimizationFacade, MultiFidelityFacade, Scenario
from smac.runhistory import StatusType, TrialInfo, TrialValue
from smac.runhistory.encoder import RunHistoryLogScaledEncoder

from benchmarks.search.peers.base import Job, Peer, Setting, Worst, config_from, values_from, whole_epochs
from benchmarks.search.peers.configspace import configuration_space
from rheostat.types import Config

ENDLESS = 100_000  # trials: the clock of the replay ends the run


class Placed(RunHistoryLogScaledEncoder):  # type: ignore[misc]
    """The data of the forest, with the configurations that were trained for those that were asked for.

    Hyperband goes on with the latter: to it a configuration is a name.
    """

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.trained: dict[bytes, NDArray[np.float64]] = {}  # asked for -> trained, as vectors

    def transform(self, budget_subset: list[Any] | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        asked, costs = super().transform(budget_subset)
        return self._exchanged(asked), costs

    def get_configurations(self, budget_subset: list[Any] | None = None) -> NDArray[np.float64]:
        return self._exchanged(super().get_configurations(budget_subset))

    def _exchanged(self, asked: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([self.trained.get(vector.tobytes(), vector) for vector in asked]).reshape(asked.shape)


class SMAC:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._folder = tempfile.TemporaryDirectory()
        self.facade = self._facade(setting)
        self._worst = Worst()

    def _facade(self, setting: Setting) -> HyperparameterOptimizationFacade:
        space = configuration_space(setting.space, setting.seed)
        common: dict[str, Any] = {
            "deterministic": True,  # as the replay is: no configuration is worth training again
            "output_directory": Path(self._folder.name),
            "seed": setting.seed,
        }
        if setting.max_epochs == 1:
            scenario = Scenario(space, n_trials=math.ceil(setting.trainings), **common)
            self.encoder = Placed(scenario)
            return HyperparameterOptimizationFacade(
                scenario, _no_budget, runhistory_encoder=self.encoder, overwrite=True, logging_level=False
            )
        scenario = Scenario(space, n_trials=ENDLESS, min_budget=1, max_budget=setting.max_epochs, **common)
        self.encoder = Placed(scenario)
        return MultiFidelityFacade(
            scenario,
            _with_budget,
            initial_design=MultiFidelityFacade.get_initial_design(scenario, n_configs=5),
            intensifier=MultiFidelityFacade.get_intensifier(scenario, incumbent_selection="highest_budget"),
            runhistory_encoder=self.encoder,
            overwrite=True,
            logging_level=False,
        )

    def ask(self) -> Job | None:
        try:
            info = self.facade.ask()
        except StopIteration:  # every configuration of the space was given out
            return None
        config = config_from(self.setting.space, dict(info.config))
        return Job(config, whole_epochs(info.budget or 1, self.setting.max_epochs), info)

    def place(self, job: Job, config: Config) -> Job:
        asked: Configuration = job.handle.config
        trained = Configuration(asked.config_space, values=values_from(self.setting.space, config))
        self.encoder.trained[asked.get_array().tobytes()] = trained.get_array()
        return replace(job, config=config)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        info: TrialInfo = job.handle
        status = StatusType.CRASHED if math.isnan(value) else StatusType.SUCCESS
        self.facade.tell(info, TrialValue(cost=self._worst(value), status=status), save=False)


def _no_budget(config: object, seed: int = 0) -> float:
    raise AssertionError("a facade that is asked and told trains nothing itself")


def _with_budget(config: object, seed: int = 0, budget: float = 0) -> float:
    raise AssertionError("a facade that is asked and told trains nothing itself")


def make(name: str, setting: Setting) -> Peer:
    """`smac-hyperband`."""
    return SMAC(setting)
