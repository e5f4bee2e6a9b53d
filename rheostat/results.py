"""What a study found, for the user to read: values in the user's own direction, curves, and the best network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheostat.errors import StudyError
from rheostat.records.store import TrialRow
from rheostat.types import Config, Report, Status, trial_seed

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrialResult:
    """One trial. `value` is its best, `epoch` (from 1) where that was; None where nothing was measured."""

    number: int
    config: Config
    status: Status
    reason: str
    value: float | None
    epoch: int | None
    epochs: int
    seconds: float
    source: str = "search"
    detail: str = field(default="", repr=False)  # the traceback of a failed trial
    reports: Sequence[Report] = field(default=(), repr=False)

    def curve(self, metric: str) -> list[float]:
        """A metric after epochs 1, 2, ...; NaN where it was not reported, as before a trial that began as a copy."""
        ends = [report for report in self.reports if report.epoch_end]
        before = [math.nan] * (ends[0].epoch - 1 if ends else 0)
        return before + [report.metrics.get(metric, math.nan) for report in ends]


def results(rows: Iterable[TrialRow], reports: Iterable[Report], metric: str, direction: str) -> list[TrialResult]:
    """Trials joined with their reports, in order of number."""
    by_trial: dict[int, list[Report]] = {}
    for report in reports:
        by_trial.setdefault(report.trial, []).append(report)
    return [_result(row, by_trial.get(row.number, []), metric, direction) for row in rows]


def _result(row: TrialRow, reports: list[Report], metric: str, direction: str) -> TrialResult:
    ends = [report for report in reports if report.epoch_end]
    measured = [(r.metrics[metric], r.epoch) for r in ends if not math.isnan(r.metrics.get(metric, math.nan))]
    sign = -1 if direction == "maximize" else 1
    value, epoch = min(measured, key=lambda m: (sign * m[0], m[1])) if measured else (None, None)
    return TrialResult(
        row.number,
        row.config,
        row.status,
        row.reason,
        value,
        epoch,
        len(ends),
        max((report.seconds for report in reports), default=0.0),
        row.source,
        row.detail,
        reports,
    )


def best_of(trials: Iterable[TrialResult], direction: str) -> TrialResult | None:
    """The trial with the best value; the earlier one of equals. Infeasible and failed ones do not count."""
    sign = -1 if direction == "maximize" else 1
    eligible = [t for t in trials if t.value is not None and t.status not in (Status.INFEASIBLE, Status.FAILED)]
    return min(eligible, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


@dataclass(frozen=True)
class Best:
    """The best trial so far."""

    trial: TrialResult
    study_seed: int
    checkpoints: Path
    builder: Callable[[Config], nn.Module] | None = field(repr=False)

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def config(self) -> Config:
        return self.trial.config

    @property
    def value(self) -> float:
        assert self.trial.value is not None
        return self.trial.value

    @property
    def epoch(self) -> int:
        assert self.trial.epoch is not None
        return self.trial.epoch

    def load(self, model: Callable[[Config], nn.Module] | None = None) -> nn.Module:
        """The trained network with the weights of its best epoch, in evaluation mode, on the CPU.

        `model` builds it from a configuration; needed where the study cannot know it, because it was made from
        Python in another process. Raises StudyError without one, CheckpointError where the weights are gone.
        """
        from rheostat.train import checkpoint, randomness

        build = model or self.builder
        if build is None:
            raise StudyError("Which network? This study was made from Python: call best.load(build_model).")
        _, weights = checkpoint.load_best(checkpoint.trial_folder(self.checkpoints, self.number))
        with randomness.apart():
            randomness.seed_all(trial_seed(self.study_seed, self.number))
            network = build(self.config)
        network.load_state_dict(weights)
        return network.eval()


def frame(trials: Iterable[TrialResult], metric: str) -> Any:
    """A pandas DataFrame, a row per trial. Raises StudyError where pandas is not installed."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise StudyError("study.frame() needs pandas: install it, or read study.trials.") from None
    return pandas.DataFrame(
        [
            {
                "trial": t.number,
                "status": str(t.status),
                metric: t.value,
                "epoch": t.epoch,
                "epochs": t.epochs,
                "seconds": t.seconds,
                "reason": t.reason,
                **t.config,
            }
            for t in trials
        ]
    )
