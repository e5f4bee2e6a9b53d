"""DEHB: differential evolution inside Hyperband, asked and told; its settings are the defaults.

The package asks for numpy below 2 but runs with newer: it is installed with `pip install --no-deps DEHB loguru`.
It cannot do without fidelities; where a training has but one epoch, every fidelity is that epoch, and going from one
fidelity to the next costs nothing.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace

import numpy as np
from dehb import DEHB

from benchmarks.search.peers.base import Job, Peer, Setting, Worst, config_from, whole_epochs
from benchmarks.search.peers.configspace import configuration_space
from rheostat.space import Choice
from rheostat.types import Config

ETA = 3


class Evolution:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._folder = tempfile.TemporaryDirectory()
        self._worst = Worst()
        self.space = configuration_space(setting.space, setting.seed)
        self.optimizer = DEHB(
            cs=self.space,
            min_fidelity=1,
            max_fidelity=max(setting.max_epochs, ETA),
            eta=ETA,
            n_workers=1,  # it starts none: who asks has them
            seed=setting.seed,
            save_freq="end",
            output_path=self._folder.name,
            log_level="ERROR",
        )

    def ask(self) -> Job:
        info = self.optimizer.ask()
        epochs = whole_epochs(info["fidelity"], self.setting.max_epochs)
        return Job(config_from(self.setting.space, dict(info["config"])), epochs, info)

    def place(self, job: Job, config: Config) -> Job:
        known = self.optimizer.config_repository.configs[job.handle["config_id"]]
        known.config = np.array([self._unit(name, config) for name in self.space])  # what `tell` puts into a population
        return replace(job, config=config)

    def _unit(self, name: str, config: Config) -> float:
        """A value in the package's unit cube, in which whole numbers reach from side to side."""
        part, value = self.setting.space[name], config[name]
        if isinstance(part, Choice):
            return part.encode(value)
        low, high = part.low, part.high
        return math.log(value / low) / math.log(high / low) if part.log else (value - low) / (high - low)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        self.optimizer.tell(job.handle, {"fitness": self._worst(value), "cost": job.until_epoch})


def make(name: str, setting: Setting) -> Peer:
    """`dehb`."""
    return Evolution(setting)
