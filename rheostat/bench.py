"""Trains the arms of a comparison: tunes each, and repeats its best configurations with seeds that all arms share."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from rheostat.analysis.comparison import Repeats, ranked
from rheostat.arms import Arm
from rheostat.errors import StudyError, TaskError
from rheostat.results import TrialResult
from rheostat.schedule.base import Scheduler
from rheostat.schedule.fifo import FIFO
from rheostat.search.zoom import Zoom
from rheostat.space import Space
from rheostat.study import Study
from rheostat.train import held_out
from rheostat.train.task import Task
from rheostat.types import Config, Report, Status, derive_seed, fingerprint

FINALISTS = 2
TIMED_EPOCHS = 5  # of a short training: the first warms up, and the fastest of the others counts


@dataclass(frozen=True)
class ArmRun:
    """What was trained of an arm: the trials that tuned it, and the repeats of each finalist, one for each seed.

    `wider` are the trials that went further along the hyperparameter `along` than the budget of trials had foreseen.
    """

    arm: Arm
    trials: tuple[TrialResult, ...] = ()
    along: str = ""
    wider: tuple[TrialResult, ...] = ()
    finalists: tuple[Config, ...] = ()
    repeats: tuple[tuple[TrialResult, ...], ...] = ()
    failure: str = ""

    def measured(self, direction: str) -> list[Repeats]:
        """The repeats of each finalist, to be minimised."""
        sign = -1 if direction == "maximize" else 1
        return [_measured(results, sign) for results in self.repeats]


def _measured(results: Sequence[TrialResult], sign: int) -> Repeats:
    reports = [best_report(result) for result in results]
    values = [math.nan if r is None else sign * (t.value or 0.0) for t, r in zip(results, reports, strict=True)]
    judged = [math.nan if r is None else sign * r.metrics[held_out.VALUE] for r in reports]
    blocks = [[] if r is None else [sign * v for v in held_out.blocks_of(r.metrics)] for r in reports]
    wide = max(map(len, blocks), default=0)
    return Repeats.of(values, judged, [block or [math.nan] * wide for block in blocks])


def best_report(trial: TrialResult) -> Report | None:
    """That of the trial's best epoch; None where it diverged or failed."""
    if trial.value is None or trial.status in (Status.INFEASIBLE, Status.FAILED):
        return None
    return next((r for r in trial.reports if r.epoch_end and r.epoch == trial.epoch), None)


@dataclass(frozen=True)
class Bench:
    """What all arms of a comparison are trained with. Its studies are named `name-VALUE` and so on."""

    task: Task
    name: str
    trials: int
    seeds: int
    seed: int = 0
    storage: str | Path | None = None
    workers: int | None = None
    threads: int = 1
    engine: str = "auto"
    target: Mapping[str, Any] = field(default_factory=dict)
    tell: Callable[[str], None] = print

    def run(self, arm: Arm, finalists: int = FINALISTS) -> ArmRun:
        """Tune an arm, and repeat its best configurations. An exception in its network is its failure."""
        try:
            run = self._tuned(arm, finalists) if arm.space.tuned else ArmRun(arm, finalists=(arm.space.likely(),))
            run = replace(run, repeats=tuple(self._repeated(arm, config) for config in run.finalists))
        except TaskError as cause:
            run = ArmRun(arm, failure=str(cause).splitlines()[0])
        self.tell(f"{arm.label:<20} {self._words(run)}")
        return run

    def seconds_per_epoch(self, arm: Arm) -> float:
        """Of a short training of the arm's likeliest configuration, by the clock; measured once and recorded."""
        config = arm.space.likely()
        one = replace(self, trials=1, workers=1, engine="loop")
        (trial,) = one._train(arm, "timing", Space(config), "fifo", "timing", TIMED_EPOCHS)
        ends = [report.seconds for report in trial.reports if report.epoch_end]
        if len(ends) < 2:
            raise TaskError(f"{arm.label} did not train long enough to be timed: {trial.reason}.")
        return min(later - earlier for earlier, later in pairwise(ends))

    def _tuned(self, arm: Arm, finalists: int) -> ArmRun:
        zoom = Zoom(arm.space, self.trials, derive_seed(self.seed, "points"), "lr")
        trials = self._train(arm, "", arm.space, FIFO(zoom, None, arm.epochs), "tuning", arm.epochs)
        wider = tuple(trials[number] for number in zoom.wider(trial.config for trial in trials))
        return ArmRun(arm, trials, zoom.along, wider, _best(trials, self.task.direction, zoom.along, finalists))

    def _repeated(self, arm: Arm, config: Config) -> tuple[TrialResult, ...]:
        judged = replace(self.task, hooks=held_out.WithHeldOut(self.task))
        bench = replace(self, task=judged, trials=self.seeds)
        suffix = f"repeats-{fingerprint(dict(config))[:6]}"
        return bench._train(arm, suffix, Space(config), "fifo", "repeats", arm.epochs)[: self.seeds]

    def _train(
        self, arm: Arm, suffix: str, space: Space, schedule: str | Scheduler, seed: str, epochs: int
    ) -> tuple[TrialResult, ...]:
        """All trials of one study. A space without anything to tune is trained `trials` times."""
        parts = [self.name, re.sub(r"[^\w.+-]+", "-", str(arm.value)), *([suffix] if suffix else [])]
        study = Study(
            "-".join(parts),
            space,
            metric=self.task.metric,
            direction=self.task.direction,
            storage=self.storage,
            seed=derive_seed(self.seed, seed) % 2**31,
            target=self.target,
            data_fingerprint=self._data,
        )
        if not space.tuned:
            for _ in range(self.trials - len(study.trials) - len(study.queued)):
                study.enqueue(space.likely())
        study.train(
            self.task,
            trials=self.trials,
            epochs=epochs,
            schedule=schedule,
            workers=self.workers,
            threads=self.threads,
            engine=self.engine,
            progress="none",
        )
        trials = tuple(study.trials)
        study.records.close()
        if study.state == "stopped":
            raise StudyError(f"{self.name} was stopped: run the same again to go on, and nothing is trained twice.")
        return trials

    @cached_property
    def _data(self) -> str:
        return self.task.fingerprint()

    def _words(self, run: ArmRun) -> str:
        if run.failure:
            return f"failed: {run.failure}"
        if not run.finalists:
            return "diverged in every trial"
        place = ranked(run.measured(self.task.direction))[0]
        values = [t.value for t in run.repeats[place] if best_report(t) is not None and t.value is not None]
        lr = run.finalists[place].get("lr")
        words = (
            f"{len(run.trials)} trials" if run.trials else "",
            f"lr {lr:.3g}" if lr else "",
            f"{self.task.metric} {statistics.mean(values):.4g}" if values else "every repeat diverged",
        )
        return "  ".join(filter(None, words))


def _best(trials: Iterable[TrialResult], direction: str, along: str, count: int) -> tuple[Config, ...]:
    """The configurations of the best trials, the best first; none where all diverged.

    Shares of a few hundred examples are often equal: of equals, that goes first which is nearest to the best along a
    hyperparameter, so that the finalists tell of the neighbourhood of the best.
    """
    sign = -1 if direction == "maximize" else 1
    scored = sorted((sign * (t.value or 0.0), t.number, t.config) for t in trials if best_report(t) is not None)
    if not scored:
        return ()
    best = scored[0][2]

    def distance(config: Config) -> float:
        one, other = config.get(along, 0), best.get(along, 0)
        return abs(math.log(one / other)) if min(one, other) > 0 else abs(one - other)

    scored.sort(key=lambda entry: (entry[0], distance(entry[2]), entry[1]))
    return tuple(config for _, _, config in scored[:count])
