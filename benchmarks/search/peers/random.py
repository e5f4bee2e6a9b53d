"""Random search: full trainings of independent draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.search.peers.base import Job, Peer, Setting
from rheostat.types import Config


class Random:
    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.rng = np.random.default_rng(setting.seed)

    def ask(self) -> Job:
        (config,) = self.setting.space.sample(self.rng)
        return Job(config, self.setting.max_epochs)

    def place(self, job: Job, config: Config) -> Job:
        return replace(job, config=config)

    def tell(self, job: Job, value: float, ended: bool) -> None:
        pass


def make(name: str, setting: Setting) -> Peer:
    """`random`."""
    return Random(setting)
