"""DEHB: differential evolution inside Hyperband, asked and told; its settings are the defaults.

It searches the unit cube, in which every configuration has its place, as it does inside whatever space it is given.

The package asks for numpy below 2 but runs with newer: it is installed with `pip install --no-deps DEHB`.
It cannot do without fidelities; where a training has but one epoch, every fidelity is that epoch, and going from one
fidelity to the next costs nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

from dehb import DEHB

from benchmarks.search.peers.base import Job, Peer, Setting, Worst, whole_epochs
from rheostat.types import Config

ETA = 3


class Evolution:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._folder = tempfile.TemporaryDirectory()
        self._worst = Worst()
        self.optimizer = DEHB(
            dimensions=len(setting.space),
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
        config = self.setting.space.decode(info["config"])
        return Job(config, whole_epochs(info["fidelity"], self.setting.max_epochs), info)

    def place(self, job: Job, config: Config) -> Job:
        point = self.setting.space.encode(config)
        job.handle["config"] = point
        self.optimizer.config_repository.configs[job.handle["config_id"]].config = point
        return replace(job, config=config)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        self.optimizer.tell(job.handle, {"fitness": self._worst(value), "cost": job.until_epoch})


def make(name: str, setting: Setting) -> Peer:
    """`dehb`."""
    return Evolution(setting)
