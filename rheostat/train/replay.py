"""A trial once more, with its layers watched."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rheostat.data.base import Padded
from rheostat.errors import Infeasible
from rheostat.train import randomness
from rheostat.train.loop import Training
from rheostat.train.observe import NetworkHistory, Observer
from rheostat.train.task import Data, Task, chunks, few, lengths, trimmed
from rheostat.types import Config, Job, Report

PROBE = 256  # examples that the layers are watched on
PROBE_SEQUENCES = 64
NOT_RESULTS = ("examples_per_second",)  # of a report: what another run of the same trial measures differently


@dataclass(frozen=True)
class Replay:
    """A trial trained again. `network` is as its last epoch left it, in evaluation mode.

    `compared` is in how many epochs there was an earlier report to compare with, and `difference` the largest
    relative difference between the two; 0 says that all metrics are equal bit for bit. `reason` is why training
    ended before the epochs that were asked for, if it did.
    """

    history: NetworkHistory
    network: nn.Module
    reports: tuple[Report, ...]
    compared: int
    difference: float
    reason: str


def replay(
    task: Task,
    config: Config,
    seed: int,
    epochs: int,
    max_epochs: int,
    recorded: Sequence[Report] = (),
    every_n_steps: int | None = None,
) -> Replay:
    """Train a trial again for some epochs, as the plain loop does, with an `Observer` on some validation data.

    `seed` is the trial's (`trial_seed`), and `max_epochs` the last epoch of the study, over which the learning rate is
    laid out. A trial is a function of these, so on a CPU, with the number of threads it was trained with, it comes out
    as it did; where the `recorded` reports are given, this is checked. Nothing is written to the study.

    Raises TaskError as training does; a trial that leaves the finite numbers ends there.
    """
    observer = Observer(probe(task.validation), every_n_steps)
    watched = replace(task, hooks=lambda config: [*task.hooks(config), observer])
    training = Training(watched, Job(0, config, seed, epochs, max_epochs))
    reason = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            while training.run.epoch < epochs and not training.ended:
                training.train_epoch()
                training.save(Path(folder))  # as a study does; a hook may go back to it
        except Infeasible as ending:
            reason = str(ending)
    compared, difference = _difference(training.reports, recorded)
    return Replay(
        observer.history,
        training.model.eval(),
        tuple(training.reports),
        compared,
        difference,
        reason or training.run.stop_reason or "",
    )


def probe(data: Data) -> tuple[Tensor, ...]:
    """Inputs to watch a network on: rows from all over the data, or sequences of about the median length."""
    if isinstance(data, DataLoader):
        with randomness.apart():
            return tuple(next(iter(data))[:-1])
    if isinstance(data, Padded):
        rows = lengths(data).argsort(stable=True)
        first = max((len(rows) - PROBE_SEQUENCES) // 2, 0)
        return trimmed(data.tensors, rows[first : first + PROBE_SEQUENCES])[:-1]
    if isinstance(data, tuple):
        rows = torch.linspace(0, len(data[0]) - 1, min(PROBE, len(data[0])), device=data[0].device).long()
        return tuple(tensor[rows] for tensor in data[:-1])
    some = few(data)
    assert some is not None
    return tuple(next(iter(chunks(some, PROBE)))[:-1])


def _difference(reports: Sequence[Report], recorded: Sequence[Report]) -> tuple[int, float]:
    """In how many epochs both have reports, and by how much their metrics differ relatively at most."""
    earlier = {report.epoch: report.metrics for report in recorded if report.epoch_end}
    pairs = [(r.metrics, earlier[r.epoch]) for r in reports if r.epoch_end and r.epoch in earlier]
    differences = [
        _relative(ours[name], theirs[name])
        for ours, theirs in pairs
        for name in ours.keys() & theirs.keys()
        if name not in NOT_RESULTS
    ]
    return len(pairs), max(differences, default=math.nan)


def _relative(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    difference = abs(one - other) / max(abs(one), abs(other))
    return math.inf if math.isnan(difference) else difference
