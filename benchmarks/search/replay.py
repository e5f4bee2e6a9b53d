"""A study on a table: the clock ticks in epochs, `in_flight` trials train at once, and decisions alone take time."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from benchmarks.search.tables import Table
from rheostat.schedule.base import Scheduler
from rheostat.types import Assignment, Config, Continue, History, Start, Status, TrialRecord

BUDGETS = (0.5, 1, 2, 5, 10, 20, 50)  # full trainings


class Method(Protocol):
    """A tuner: asked for work, told of values. Ours and the peers'."""

    def next(self, free: int) -> Sequence[Assignment]:
        """Work for at most `free` places. A `Start` becomes the trial numbered by how many there were before it."""
        ...

    def placed(self, number: int, config: Config) -> None:
        """Told right after `next` for every `Start`: this is the configuration that the trial really trains.

        The nearest one of the table that was not trained yet. Whoever learns from configurations should learn from it.
        """
        ...

    def tell(self, trial: TrialRecord) -> None:
        """An assignment has ended: all values of the trial, to be minimised. NaN as the last: it diverged.

        `status` is PAUSED, or DONE after the last epoch that the trial can train, or INFEASIBLE.
        """
        ...


class Ours:
    """A scheduler of Rheostat, which sees all that was told as a history."""

    def __init__(self, scheduler: Scheduler, seed: int) -> None:
        self.scheduler = scheduler
        self.seed = seed
        self.trials: list[TrialRecord] = []
        self.decisions = 0

    def next(self, free: int) -> Sequence[Assignment]:
        rng = np.random.default_rng([self.seed, self.decisions])
        self.decisions += 1
        found = self.scheduler.next(History(tuple(self.trials)), free, rng)
        for assignment in found:
            if isinstance(assignment, Start):
                number, until = len(self.trials), assignment.until_epoch
                self.trials.append(TrialRecord(number, assignment.config, Status.TRAINING, (), until))
            else:
                old = self.trials[assignment.trial]
                stops = not isinstance(assignment, Continue)
                until = old.until_epoch if stops else assignment.until_epoch
                status = Status.CUT if stops else Status.TRAINING
                self.trials[assignment.trial] = TrialRecord(old.number, old.config, status, old.values, until)
        return found

    def placed(self, number: int, config: Config) -> None:
        self.trials[number] = replace(self.trials[number], config=config)

    def tell(self, trial: TrialRecord) -> None:
        self.trials[trial.number] = trial


@dataclass(frozen=True)
class Replay:
    """What a run found: the lowest value seen after each epoch paid for, and what deciding cost."""

    lowest: np.ndarray  # (epochs,)
    decision_seconds: float
    decisions: int
    trials: int

    def at(self, epochs: float) -> float:
        """The lowest value seen when so many epochs had been paid for; the run's last where it ended before."""
        paid = min(math.floor(epochs + 1e-9), len(self.lowest))
        return float(self.lowest[paid - 1]) if paid else math.inf


def replay(table: Table, method: Method, in_flight: int, budget: float) -> Replay:
    """Run a method until `budget` full trainings are paid for, or it has nothing more to train."""
    limit = math.ceil(budget * table.full_training)
    rows: list[int] = []
    trials: list[TrialRecord] = []
    reports: list[tuple[int, int, float]] = []  # tick, order, value
    flying: list[tuple[int, int, int]] = []  # end, order, trial
    now, paid, order, seconds, decisions = 0, 0, 0, 0.0, 0
    while True:
        free = in_flight - len(flying)
        if free and paid < limit:
            began = time.process_time()
            work = method.next(free)
            seconds += time.process_time() - began
            decisions += 1
            for assignment in work:
                if isinstance(assignment, Start):
                    number, until = len(trials), assignment.until_epoch
                    rows.append(table.row(assignment.config, rows))
                    trials.append(TrialRecord(number, table.config(rows[-1]), Status.TRAINING))
                    method.placed(number, trials[-1].config)
                elif isinstance(assignment, Continue):
                    number, until = assignment.trial, assignment.until_epoch
                else:
                    continue
                curve, old = table.curves[rows[number]], trials[number]
                fresh = curve[old.epochs : until]
                ended = len(curve) <= until
                bad = ended and not math.isfinite(curve[-1])
                status = Status.INFEASIBLE if bad else Status.DONE if ended else Status.PAUSED
                values = (*old.values, *map(float, fresh))
                trials[number] = TrialRecord(number, old.config, status, values, until)
                order += 1
                paid += len(fresh)
                reports += [(now + i, order, value) for i, value in enumerate(fresh.tolist(), 1)]
                heapq.heappush(flying, (now + len(fresh), order, number))
        if not flying:
            break
        now, _, number = heapq.heappop(flying)
        method.tell(trials[number])
        while flying and flying[0][0] == now:  # what ends together is told together
            method.tell(trials[heapq.heappop(flying)[2]])
    reports.sort()
    values = np.array([value for _, _, value in reports])
    lowest = np.minimum.accumulate(np.where(np.isfinite(values), values, math.inf))
    return Replay(lowest, seconds, decisions, len(trials))
