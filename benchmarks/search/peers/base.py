"""How a peer is asked: for a configuration and an epoch, over and over. The door of this folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rheostat.space import Choice, Int, Space
from rheostat.types import Assignment, Config, Continue, Scalar, Start, Status, TrialRecord

MOST_KNOWN = 50  # times in one go that a configuration is asked for whose results are known; then the peer has run dry
BEFORE_ANY = 1e3  # stands for a diverged training before any has a finite value


@dataclass(frozen=True, slots=True)
class Setting:
    """What a peer is made for. `trainings`: what it may spend, in full trainings; not all peers want to know."""

    space: Space
    max_epochs: int
    seed: int
    in_flight: int
    trainings: float


@dataclass(frozen=True, slots=True)
class Job:
    """Train `config` until this epoch. `handle` is whatever the peer knows the job by."""

    config: Config
    until_epoch: int
    handle: Any = None


class Peer(Protocol):
    """A tuner that gives out jobs and is told how they went."""

    def ask(self) -> Job | None:
        """The next job for a free place; None while there is none, such as before others are told."""
        ...

    def place(self, job: Job, config: Config) -> Job:
        """What was asked for is trained with this configuration, the nearest one that was measured: learn from that.

        Returns the job with it. May be said again of a configuration that is asked for again.
        """
        ...

    def tell(self, job: Job, value: float, ended: bool) -> None:
        """The lowest value until the epoch of the job, to be minimised; NaN where the training diverged by then.

        The lowest, as every method here is judged by it: a network is used as it was at its best epoch.
        `ended`: the training can go no further, because it diverged or is complete.
        """
        ...


class Asked:
    """A peer as a method of the replay, given every benefit of the doubt.

    A configuration that a peer asks for again continues where it was, as with a checkpoint, whatever the peer takes
    it for; and where it was trained so far before, the result is known at once and free of charge.
    """

    def __init__(self, peer: Peer, space: Space) -> None:
        self.peer = peer
        self.space = space
        self._numbers: dict[tuple[float, ...], int] = {}  # by what was asked for, and by what was trained instead
        self._configs: dict[int, Config] = {}  # what is trained
        self._started = 0
        self._trials: dict[int, TrialRecord] = {}  # the last that was told
        self._flying: dict[int, list[Job]] = {}  # by trial: the jobs that wait for it
        self._told: list[int] = []

    def placed(self, number: int, config: Config) -> None:
        self._configs[number] = config
        self._numbers.setdefault(self._key(config), number)
        self._flying[number] = [self.peer.place(job, config) for job in self._flying[number]]

    def tell(self, trial: TrialRecord) -> None:
        """Kept until the peer is asked, so that all of its time is counted as deciding."""
        self._trials[trial.number] = trial
        self._told.append(trial.number)

    def next(self, free: int) -> Sequence[Assignment]:
        work: list[Assignment] = []
        told, self._told = self._told, []
        for number in told:
            waiting = [job for job in self._flying.pop(number) if not self._settle(job, self._trials[number])]
            if waiting:
                self._flying[number] = waiting
                work.append(Continue(number, waiting[0].until_epoch))
        known, climbing = 0, (-1, 0)
        while len(work) < free and known < MOST_KNOWN:
            job = self.peer.ask()
            if job is None:
                break
            number = self._numbers.setdefault(self._key(job.config), self._started)
            if number == self._started:
                self._started += 1
                self._flying[number] = [job]
                work.append(Start(job.config, job.until_epoch))
                continue
            if number in self._configs and self._key(self._configs[number]) != self._key(job.config):
                job = self.peer.place(job, self._configs[number])
            if number in self._flying:
                self._flying[number].append(job)
            elif not self._settle(job, self._trials[number]):
                self._flying[number] = [job]
                work.append(Continue(number, job.until_epoch))
                continue
            known += not climbing < (number, job.until_epoch) < (number + 1, 0)  # epoch by epoch counts once
            climbing = number, job.until_epoch
        return work

    def _key(self, config: Config) -> tuple[float, ...]:
        """Equal for configurations that differ by rounding only."""
        return tuple(np.round(self.space.encode(config), 7).tolist())

    def _settle(self, job: Job, trial: TrialRecord) -> bool:
        """Tell the peer, if the trial has come as far as the job asks."""
        ended = trial.status.ended
        if trial.epochs < job.until_epoch and not ended:
            return False
        finite = [value for value in trial.values[: job.until_epoch] if math.isfinite(value)]
        ended = ended and trial.epochs <= job.until_epoch
        diverged = ended and trial.status is Status.INFEASIBLE
        self.peer.tell(job, math.nan if diverged or not finite else min(finite), ended)
        return True


class Worst:
    """For peers that take finite values only: a training that diverged is as bad as the worst that did not."""

    def __init__(self) -> None:
        self._worst: float | None = None

    def __call__(self, value: float) -> float:
        if math.isfinite(value):
            self._worst = value if self._worst is None else max(self._worst, value)
            return value
        return BEFORE_ANY if self._worst is None else self._worst


def config_from(space: Space, values: Mapping[str, Any]) -> Config:
    """The configuration with these numbers, and the categories of these indices (whole numbers, or their texts)."""
    found: dict[str, Scalar] = {}
    for name, part in space.items():
        if isinstance(part, Choice):
            found[name] = part.values[int(values[name])]
        else:  # logarithms may leave the range by a rounding error
            value = min(max(values[name], part.low), part.high)
            found[name] = int(value) if isinstance(part, Int) else float(value)
    return Config(found)


def values_from(space: Space, config: Config) -> dict[str, Any]:
    """The numbers of a configuration, and the indices of its categories as texts: what `config_from` takes."""
    found: dict[str, Any] = dict(config)
    for name, part in space.items():
        if isinstance(part, Choice):
            found[name] = str(part.values.index(config[name]))
    return found


def whole_epochs(budget: float, max_epochs: int) -> int:
    """The epochs of a budget that need not be whole."""
    return min(max(round(budget), 1), max_epochs)
