"""First in, first out: every trial trains to the end. And how every scheduler starts trials."""

from __future__ import annotations

import numpy as np

from rheostat.errors import SettingError
from rheostat.search.base import Searcher
from rheostat.types import Assignment, Config, Continue, History, Start, Status


class FIFO:
    """Trains each configuration of the searcher for `max_epochs`, at most `trials` of them (None: no limit).

    A paused trial, such as one that the user paused, is finished before a new one is started.
    Raises SettingError for less than one trial or epoch.
    """

    def __init__(self, searcher: Searcher, trials: int | None, max_epochs: int) -> None:
        check_limits(trials, max_epochs)
        self.searcher = searcher
        self.trials = trials
        self.max_epochs = max_epochs
        self.adaptive = searcher.adaptive

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        unfinished = [
            Continue(trial.number, self.max_epochs)
            for trial in history.trials
            if trial.status is Status.PAUSED and trial.epochs < self.max_epochs
        ][:free]
        configs = new_configs(self.searcher, history, self.trials, free - len(unfinished), rng)
        return [*unfinished, *(Start(config, self.max_epochs) for config in configs)]


def new_configs(
    searcher: Searcher, history: History, trials: int | None, free: int, rng: np.random.Generator
) -> list[Config]:
    """Configurations for up to `free` new trials, of which a study may have `trials` in all."""
    left = free if trials is None else min(free, trials - len(history.trials))
    return searcher.suggest(history, left, rng) if left > 0 else []


def check_limits(trials: int | None, max_epochs: int) -> None:
    """Raises SettingError for less than one trial or epoch."""
    if trials is not None:
        check_at_least("trials", trials, 1)
    check_at_least("max_epochs", max_epochs, 1)


def check_at_least(name: str, value: int, least: int) -> None:
    """Raises SettingError for anything but a whole number from `least`."""
    if not isinstance(value, int) or value < least:
        raise SettingError(f"{name}={value!r} is not allowed: give a whole number, at least {least}.")


def check_grace(grace_epochs: int, max_epochs: int) -> None:
    """Raises SettingError for less than one epoch of grace, or more of it than a trial ever trains."""
    check_at_least("grace_epochs", grace_epochs, 1)
    if grace_epochs > max_epochs:
        raise SettingError(
            f"grace_epochs={grace_epochs} is not allowed: trials train for max_epochs={max_epochs}, "
            "so give at most that."
        )
