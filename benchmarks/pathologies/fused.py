"""Trains any number of runs of one task in memory, as lanes where they are many and long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rheostat.diagnose.base import Observations
from rheostat.diagnose.observations import from_reports
from rheostat.errors import Infeasible
from rheostat.train.batches import TensorBatches
from rheostat.train.lanes import Lanes, lane_key
from rheostat.train.loop import Training
from rheostat.train.program import Program
from rheostat.train.task import Task
from rheostat.types import Job, Status

LANES = 16
WORTH_LANES = 4000  # updates in all; for fewer, making the program of the lanes takes longer than it saves


@dataclass
class Trained:
    """A run at its end: what was observed, and what its forks begin with; None where it did not get there."""

    job: Job
    observations: Observations
    end: tuple[dict[str, Tensor], dict[str, Any]] | None = field(repr=False, default=None)

    @property
    def value(self) -> float:
        """The lowest validation loss; infinite where it ended early."""
        curve = self.observations.curve("val_loss")
        ended_well = self.end is not None and len(curve) > 0
        return float(curve.min()) if ended_well else float("inf")


class InOrder(TensorBatches):
    """The examples as they lie, class after class, in every epoch."""

    def order(self, epoch: int) -> Tensor:
        return self.data[-1].argsort(stable=True)


def train(
    task: Task,
    jobs: Sequence[Job],
    programs: dict[str, Program],
    parents: Sequence[Trained | None] | None = None,
) -> list[Trained]:
    """The runs in the order of the jobs; a fork begins with the end of its parent.

    `programs` are kept between calls. With `in_order` in its configuration a run sees class after class.
    """
    begun: list[tuple[int, Training]] = []
    for place, job in enumerate(jobs):
        training = Training(task, job)
        if job.config.get("in_order", False):
            training.batches.__class__ = InOrder
        parent = parents[place] if parents is not None else None
        if parent is not None:
            assert parent.end is not None
            training.begin_as_copy(*parent.end)
        begun.append((place, training))
    results: dict[int, Trained] = {}
    groups: dict[str, list[tuple[int, Training]]] = {}
    for place, training in begun:
        groups.setdefault(lane_key(training), []).append((place, training))
    for group in groups.values():
        group.sort(key=lambda g: g[1].max_epochs)
        for first in range(0, len(group), LANES):
            _train_group(group[first : first + LANES], programs, results)
    return [results[place] for place in range(len(jobs))]


def _train_group(group: list[tuple[int, Training]], programs: dict[str, Program], results: dict[int, Trained]) -> None:
    """All of one program, an epoch at a time, until the last has ended."""
    steps = max(training.batches.steps_per_epoch * (training.max_epochs - training.run.epoch) for _, training in group)
    if len(group) * steps < WORTH_LANES:
        for place, training in group:
            results[place] = _train_alone(training)
        return
    while group:
        key = lane_key(group[0][1])
        lanes = Lanes([training for _, training in group], programs.get(key))
        programs[key] = lanes.program
        going = group
        while len(going) == len(group):  # lanes are made anew where one has left
            outcomes = lanes.train_epoch()
            going = []
            for (place, training), outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, Infeasible):
                    results[place] = _trained(training, str(outcome))
                elif isinstance(outcome, Exception):
                    raise outcome
                elif training.ended:
                    results[place] = _trained(training, "")
                else:
                    going.append((place, training))
        lanes.release()
        group = going


def _train_alone(training: Training) -> Trained:
    try:
        while not training.ended:
            training.train_epoch()
    except Infeasible as error:
        return _trained(training, str(error))
    return _trained(training, "")


def _trained(training: Training, infeasible: str) -> Trained:
    status = Status.INFEASIBLE if infeasible else Status.DONE
    seen = from_reports(training.reports, training.config, status, infeasible, training.max_epochs)
    end = None
    if not infeasible:
        weights = {name: tensor.detach().clone() for name, tensor in training.model.state_dict().items()}
        end = weights, training.state_dict()
    return Trained(training.job, seen, end)
