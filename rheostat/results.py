"""What a study found, for the user to read: values in the user's own direction, curves, and the best network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rheostat.errors import StudyError
from rheostat.front import non_dominated
from rheostat.records.store import TrialRow
from rheostat.types import NO_GOALS, Config, Goals, Report, Status, TrialRecord, trial_seed

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrialResult:
    """One trial. `value` is its best, `epoch` (from 1) where that was; None where nothing was measured.

    `also` are the other metrics that the study is about, as they were last measured by then (NaN: never), and `broken`
    the limits that it breaks, in words.
    """

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
    also: Mapping[str, float] = field(default_factory=dict)
    broken: Sequence[str] = ()
    parent: int | None = None  # the trial as whose copy it began, or that it probes
    arm: str = ""  # of a probe: what it does otherwise than its parent

    def curve(self, metric: str) -> list[float]:
        """A metric after epochs 1, 2, ...; NaN where it was not reported, as before a trial that began as a copy."""
        ends = [report for report in self.reports if report.epoch_end]
        before = [math.nan] * (ends[0].epoch - 1 if ends else 0)
        return before + [report.metrics.get(metric, math.nan) for report in ends]


def results(
    rows: Iterable[TrialRow], reports: Iterable[Report], metric: str, direction: str, goals: Goals = NO_GOALS
) -> list[TrialResult]:
    """Trials joined with their reports, in order of number."""
    by_trial: dict[int, list[Report]] = {}
    for report in reports:
        by_trial.setdefault(report.trial, []).append(report)
    return [_result(row, by_trial.get(row.number, []), metric, direction, goals) for row in rows]


def _result(row: TrialRow, reports: list[Report], metric: str, direction: str, goals: Goals) -> TrialResult:
    ends = [report for report in reports if report.epoch_end]
    values = [(r.metrics[metric], r.epoch) for r in ends if not math.isnan(r.metrics.get(metric, math.nan))]
    sign = -1 if direction == "maximize" else 1
    value, epoch = min(values, key=lambda m: (sign * m[0], m[1])) if values else (None, None)
    known = measured([r for r in ends if epoch is not None and r.epoch <= epoch], goals)
    also = {name: known[-1].get(name, math.nan) if known else math.nan for name in goals.metrics}
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
        also,
        goals.broken(goals.excess_of(also)) if epoch is not None else (),
        row.parent,
        row.arm,
    )


def measured(ends: Iterable[Report], goals: Goals) -> list[dict[str, float]]:
    """What is known of the metrics of the goals after each of these epochs."""
    known: list[dict[str, float]] = []
    for report in ends:
        known.append(goals.carried(known[-1] if known else {}, report.metrics))
    return known


def record_of(trial: TrialResult, metric: str, direction: str, goals: Goals = NO_GOALS) -> TrialRecord:
    """The trial as search and advice see it: its values to be minimised."""
    sign = -1 if direction == "maximize" else 1
    values = tuple(sign * value for value in trial.curve(metric))
    known = measured((report for report in trial.reports if report.epoch_end), goals) if goals else []
    known = [{}] * (len(values) - len(known)) + known if known else []
    return TrialRecord(
        trial.number,
        trial.config,
        trial.status,
        values,
        trial.epochs,
        trial.reason,
        trial.parent,
        also=tuple(map(goals.also_of, known)),
        excess=tuple(map(goals.excess_of, known)),
        arm=trial.arm,
    )


def best_of(trials: Iterable[TrialResult], direction: str, goals: Goals = NO_GOALS) -> TrialResult | None:
    """The trial with the best value; of equals the one that is better in further objectives, then the earlier.

    Who breaks a limit, diverged or failed is not it.
    """
    return min(eligible(trials), key=lambda t: (objectives(t, direction, goals), t.number), default=None)


def eligible(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Those that may be the best: with a value, within all limits, neither diverged nor failed; and no probes."""
    out = (Status.INFEASIBLE, Status.FAILED)
    return [t for t in trials if t.value is not None and t.status not in out and not t.broken and not t.arm]


def front_of(trials: Iterable[TrialResult], direction: str, goals: Goals) -> list[TrialResult]:
    """The trials that no other dominates, from the best value on; only those of which all objectives are known."""
    known = [t for t in eligible(trials) if all(map(math.isfinite, objectives(t, direction, goals)))]
    known.sort(key=lambda t: (objectives(t, direction, goals), t.number))
    kept = non_dominated(np.array([objectives(t, direction, goals) for t in known], dtype=np.float64))
    return [t for t, keep in zip(known, kept.tolist(), strict=True) if keep]


def nearest(trials: Iterable[TrialResult], goals: Goals) -> TrialResult | None:
    """Of trials that break limits, the one that breaks the fewest, and these by the least of their bounds."""

    def breach(trial: TrialResult) -> tuple[int, float, int]:
        excess = zip(goals.limits, goals.excess_of(trial.also), strict=True)
        shares = [math.inf if math.isnan(e) else e / (abs(limit.bound) or 1.0) for limit, e in excess if not e <= 0]
        return len(shares), sum(shares), trial.number

    return min((t for t in trials if t.broken), key=breach, default=None)


def objectives(trial: TrialResult, direction: str, goals: Goals) -> tuple[float, ...]:
    """The value and the further objectives of a trial that has a value, to be minimised; infinity where unknown."""
    assert trial.value is not None
    beside = (value if math.isfinite(value) else math.inf for value in goals.also_of(trial.also))
    return (-trial.value if direction == "maximize" else trial.value, *beside)


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
                **t.also,
                **t.config,
            }
            for t in trials
        ]
    )
