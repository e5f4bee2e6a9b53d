"""Population based training: the worst trials become copies of the best, with other hyperparameters.

Jaderberg et al. 2017, *Population based training of neural networks*, arXiv:1711.09846.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rheostat.errors import SettingError, unknown
from rheostat.schedule.fifo import check_at_least, check_limits, new_configs
from rheostat.search.base import Searcher
from rheostat.space import Choice, Hyperparameter, Space
from rheostat.types import Assignment, Config, Continue, History, Scalar, Start, Status, Stop, TrialRecord

# What a network in training can take another value of: none of these changes its shape, its optimiser or its hooks.
LIVE = (
    "lr",
    "momentum",
    "beta1",
    "beta2",
    "eps",
    "rho",
    "weight_decay",
    "batch_size",
    "clip_norm",
    "label_smoothing",
    "teacher_forcing",
    "dropout",
)
RESAMPLED = 0.25  # of the hyperparameters of a copy
FACTORS = (0.8, 1.2)  # of the others


class Explore(Protocol):
    """What a copy does differently."""

    def explore(
        self, parent: TrialRecord, history: History, interval: int, copies: Sequence[Start], rng: np.random.Generator
    ) -> Config:
        """The configuration of a copy of `parent`, compared every `interval` epochs.

        `copies` are decided already, and not in the history yet.
        """
        ...


class PBT:
    """Trains a population side by side; after every `interval` epochs the worst are replaced by copies of the best.

    Section 4.1.1 of the paper, truncation selection: of a population of n, the `quantile` n trials with the highest
    value are stopped, and each of them, as each that has diverged, is replaced by a new trial that begins as a copy of
    one of the `quantile` n with the lowest. `explore` says with which configuration; by default each hyperparameter
    that a network in training can take is drawn anew with probability 0.25, else multiplied by 0.8 or 1.2.

    The members wait for each other where they are compared, so that all values are of the same epoch. A copy is a
    trial, and counts among `trials` (None: no limit): with 60 trials in a population of 20, 40 are copies. When a
    population has been trained to `max_epochs`, and trials are left, another one begins. By default `population` is 20
    and `interval` a tenth of `max_epochs`.

    Raises SettingError for settings that are out of range, or a space in which nothing can be explored.
    """

    adaptive = True

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        trials: int | None,
        max_epochs: int,
        population: int = 20,
        interval: int | None = None,
        quantile: float = 0.2,
        explore: Explore | None = None,
    ) -> None:
        check_limits(trials, max_epochs)
        check_at_least("population", population, 2)
        interval = max(max_epochs // 10, 1) if interval is None else interval
        check_at_least("interval", interval, 1)
        if not 0 < quantile <= 0.5:
            raise SettingError(f"quantile={quantile!r} is not allowed: give a number above 0 and at most 0.5.")
        self.searcher = searcher
        self.trials = trials
        self.max_epochs = max_epochs
        self.population = population
        self.interval = interval
        self.quantile = quantile
        self.explore: Explore = explore or Perturb(space)

    def next(self, history: History, free: int, rng: np.random.Generator) -> list[Assignment]:
        if free <= 0:
            return []
        populations = families([trial for trial in history.trials if not trial.arm], self.population)
        founders = sum(trial.parent is None for trial in populations[-1]) if populations else 0
        wanted = -founders % self.population
        if not any(self._is_alive(trial) for members in populations for trial in members):
            wanted = wanted or self.population
        configs = new_configs(self.searcher, history, self.trials, min(free, wanted), rng)
        if configs:
            return [Start(config, self._after(0)) for config in configs]
        found: list[Assignment] = []
        for members in populations:
            started = sum(isinstance(assignment, Start) for assignment in found)
            left = math.inf if self.trials is None else self.trials - len(history.trials) - started
            taken = sum(not isinstance(assignment, Stop) for assignment in found)
            found += self._step(members, history, free - taken, left, rng)
        return found

    def _step(
        self, members: list[TrialRecord], history: History, free: int, left: float, rng: np.random.Generator
    ) -> list[Assignment]:
        """What a population does next in `free` places, with at most `left` new trials."""
        alive = [trial for trial in members if self._is_alive(trial)]
        unfinished = [t for t in alive if t.status is Status.PAUSED and t.epochs < t.until_epoch]
        if free <= 0 or not alive:
            return []
        epoch = min(_assigned(trial) for trial in alive)
        there = [trial for trial in alive if _assigned(trial) == epoch]
        if unfinished or any(trial.status is not Status.PAUSED for trial in there):
            return [*(Continue(t.number, min(t.until_epoch, self.max_epochs)) for t in unfinished[:free])]
        wanted = sum((t.parent is None) - (t.status is Status.CANCELLED) for t in members)
        many, missing = max(round(self.quantile * wanted), 1), max(wanted - len(alive), 0)
        ranked = sorted(there, key=lambda trial: (_value(trial), trial.number))
        parents = [trial for trial in ranked[:many] if _value(trial) < math.inf]
        cut: list[TrialRecord] = []
        if parents and all(trial.until_epoch != self._after(epoch) for trial in members):  # not compared here yet
            most = int(max(min(many - missing, left - missing, len(ranked) // 2), 0))
            cut = ranked[len(ranked) - most :]
        stay = ranked[: len(ranked) - len(cut)]
        owed = int(min(missing + len(cut), left)) if parents else 0
        starts: list[Start] = []
        for _ in range(min(owed, free)):
            parent = parents[rng.integers(len(parents))]
            config = self.explore.explore(parent, history, self.interval, starts, rng)
            starts.append(Start(config, self._after(epoch), parent.number))
        if owed > len(starts):  # parents stay where they are until their copies have begun
            stay = [trial for trial in stay if trial not in parents]
        going = [Continue(trial.number, self._after(epoch)) for trial in stay][: free - len(starts)]
        reason = f"replaced after {epoch} epochs by a copy of a better trial"
        return [*(Stop(trial.number, reason) for trial in cut), *starts, *going]

    def _is_alive(self, trial: TrialRecord) -> bool:
        paused = trial.status is Status.PAUSED and trial.epochs < self.max_epochs
        return paused or trial.status in (Status.TRAINING, Status.WAITING)

    def _after(self, epoch: int) -> int:
        """The epoch of the next comparison."""
        return min((epoch // self.interval + 1) * self.interval, self.max_epochs)


def _assigned(trial: TrialRecord) -> int:
    return max(trial.until_epoch, trial.epochs)


def _value(trial: TrialRecord) -> float:
    """The value of the network as it is now; infinity where it is not a finite number."""
    return trial.values[-1] if trial.values and math.isfinite(trial.values[-1]) else math.inf


def families(trials: Sequence[TrialRecord], size: int) -> list[list[TrialRecord]]:
    """Populations of `size` founders each, in order, with all that descends from them; the last may have fewer."""
    found: list[list[TrialRecord]] = []
    place: dict[int, int] = {}  # trial -> population
    founders = 0
    for trial in trials:
        if trial.parent is None:
            place[trial.number] = founders // size
            founders += 1
            if place[trial.number] == len(found):
                found.append([])
        else:
            place[trial.number] = place[trial.parent]
        found[place[trial.number]].append(trial)
    return found


@dataclass(frozen=True)
class Perturb:
    """Each hyperparameter that may change is drawn anew from its prior, or multiplied by 0.8 or 1.2.

    Those of `names`, by default those of `LIVE` in the space. Whole numbers are rounded, and values kept in range; of a
    `Choice` of numbers a neighbour is taken. One that other hyperparameters depend on never changes.
    Raises SettingError where that leaves none, or for a name that the space does not have.
    """

    space: Space
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in self.space:
                raise SettingError(unknown("hyperparameter", name, self.space))
        parents = {parent for part in self.space.tuned.values() for parent in part.when}
        wanted = self.names or LIVE
        names = tuple(n for n, part in self.space.tuned.items() if n in wanted and n not in parents and _is_live(part))
        if not names:
            raise SettingError(
                f"A copy of a trial would have nothing to do differently: none of {', '.join(wanted)} is a number that "
                "this space tunes. Tune one of them, or use a schedule that makes no copies, such as asha."
            )
        object.__setattr__(self, "names", names)

    def explore(
        self, parent: TrialRecord, history: History, interval: int, copies: Sequence[Start], rng: np.random.Generator
    ) -> Config:
        changed = {n: _perturbed(self.space[n], parent.config[n], rng) for n in self.names if n in parent.config}
        return Config({**parent.config, **changed})


def _is_live(part: Hyperparameter) -> bool:
    """Whether it is a number, and there is more than one."""
    if not isinstance(part, Choice):
        return True
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in part.values)
    return numbers and len(part.values) > 1


def _perturbed(part: Hyperparameter, value: Scalar, rng: np.random.Generator) -> Scalar:
    anew, up = rng.random() < RESAMPLED, int(rng.integers(2))
    quantile = float(rng.random())  # drawn in any case: what one name does leaves the numbers of the next as they are
    if anew:
        drawn: Scalar = part.decode(part.quantile(quantile))
        return drawn
    if isinstance(part, Choice):
        values = sorted(part.values)
        index = min(range(len(values)), key=lambda i: abs(values[i] - value)) + (1 if up else -1)
        near: Scalar = values[min(max(index, 0), len(values) - 1)]
        return near
    assert isinstance(value, int | float)
    low, high = part.decode(0.0), part.decode(1.0)
    moved: Scalar = part.decode(part.encode(min(max(value * FACTORS[up], low), high)))
    return moved
