"""Is the best trial of a study the best, and as good as it says? Its finalists, trained again with other seeds.

A study's best value is the best of many noisy ones, so it is too good, and the trial that has it may have been lucky.
The finalists are raced (`rheostat.analysis.race`) on validation values of fresh repeats. Those are trials of a study
beside it, NAME-repeats, as the repeats of `rheostat.compare` are: among the study's own they would promote others, be
learnt from twice, and the luckiest of them would be its best. All is recorded there, so a race that was cut off goes
on, and one that is over is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rheostat.analysis.comparison import Array, Estimate, Repeats, estimate
from rheostat.analysis.race import LOOKS, race
from rheostat.errors import SettingError, StudyError
from rheostat.results import TrialResult, eligible, objectives
from rheostat.show.base import Watcher
from rheostat.show.text import number
from rheostat.study import Study
from rheostat.train import held_out
from rheostat.train.objective import Objective
from rheostat.train.task import Task
from rheostat.types import UNLIMITED, Config, Status, derive_seed

SHARE = 0.25  # of the epochs of the study
FINALISTS = 5
LEVEL = 0.05
WIDE = 3.0  # times the noise of the validation examples: seeds add about as much again
CHANGING = ("pbt", "pb2")

CONFIRMED, TIED, DIVERGED, UNFINISHED = "confirmed", "tied", "diverged", "unfinished"


@dataclass(frozen=True)
class Finalist:
    """A configuration that was repeated. Values in the user's own direction, NaN where a repeat diverged.

    `value` is that of its trial in the study, `estimate` the mean of the repeats with its confidence interval over
    seeds. `optimism` is by how much the trial was luckier than that mean. `tests` are the values on held-out data, as
    `test` estimates, none where there are none. `dropped` says after how many repeats it was beaten.
    """

    trial: int
    config: Config
    value: float
    repeats: tuple[float, ...]
    estimate: Estimate
    optimism: float
    tests: tuple[float, ...] = ()
    test: Estimate | None = None
    dropped: int | None = None

    @property
    def diverged(self) -> int:
        """How many repeats did."""
        return sum(map(math.isnan, self.repeats))


@dataclass(frozen=True)
class Confirmation:
    """What repeats say of a study's best trials: `finalists` from the best mean on, those that dropped out last.

    The verdict is "confirmed", where one is left; "tied", where they cannot be told apart; "diverged", where no
    repeat gave a value; or "unfinished". `trained` of `budget` trainings were used.
    """

    study: str
    repeats_in: str
    metric: str
    direction: str
    verdict: str
    finalists: tuple[Finalist, ...]
    level: float
    trained: int
    budget: int

    @property
    def best(self) -> Finalist:
        return self.finalists[0]

    @property
    def tied(self) -> tuple[Finalist, ...]:
        """Those that are left."""
        return tuple(one for one in self.finalists if one.dropped is None)

    def words(self) -> list[str]:
        """For people: the verdict, and what it means for the score that the study reported."""
        best, left = self.best, self.tied
        if self.verdict == UNFINISHED:
            done = sum(len(one.repeats) for one in self.finalists)
            return [f"Not confirmed yet: stopped after {done} repeats. The same command again goes on."]
        if self.verdict == DIVERGED:
            return [f"Not confirmed: all {len(best.repeats)} repeats of trial {best.trial}'s configuration diverged."]
        if self.verdict == CONFIRMED:
            lines = [f"Confirmed: trial {best.trial}'s configuration, {_measured(best, self.metric)}"]
        else:
            numbers = ", ".join(str(one.trial) for one in left[:-1]) + f" and {left[-1].trial}"
            lines = [
                f"Tied: the configurations of trials {numbers} cannot be told apart by {len(best.repeats)} repeats "
                f"each. Best on average: trial {best.trial}'s, {_measured(best, self.metric)}"
            ]
        dropped = [one for one in self.finalists if one.dropped is not None]
        lines += [f"Beaten: trial {one.trial}'s, {_measured(one, self.metric)}" for one in dropped]
        if best.test is not None:
            name = self.metric.removeprefix("val_")
            lines.append(f"On held-out data: {name} {_with_interval(best.test)} over the same seeds")
        return lines

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values, described in docs/json.md."""
        return {
            "verdict": self.verdict,
            "trial": self.best.trial,
            "repeats_in": self.repeats_in,
            "level": self.level,
            "trained": self.trained,
            "budget": self.budget,
            "finalists": [_described(one, self.direction) for one in self.finalists],
        }


def confirm(
    study: Study,
    task: Task | Objective,
    *,
    share: float = SHARE,
    finalists: int = FINALISTS,
    level: float = LEVEL,
    workers: int | None = None,
    progress: str | Callable[[], Watcher] = "auto",
) -> Confirmation:
    """Train the best configurations of a study again with other seeds, until one is better beyond noise.

    `task` is what the study trained: its Task, or the objective of `optimize`. Up to `finalists` configurations take
    part, and at least two where there are two; where the metric is a share of the validation examples, only
    those that lie within three times their noise of the best. They are trained to the last epoch of the study, for
    `share` of the epochs that the study has trained in all, but at least six times. Of equal ones, one is called
    better with a probability of `level` at most. `workers` is how many processes train (None: as many as the machine
    allows; of an objective, this one). The same call again trains nothing twice.

    Raises StudyError for a study without a result, and for one whose trials change their configuration on the way;
    SettingError for numbers that are not allowed.
    """
    _check(study, share, finalists, level)
    budget = max(int(share * sum(t.epochs for t in study.trials) / _epochs_each(study)), 2 * LOOKS[0])
    chosen = _finalists(study, task, min(finalists, budget // LOOKS[0]))
    sign = -1 if study.direction == "maximize" else 1
    beside = _Beside(study, task, workers, progress)
    try:
        ended = race(
            len(chosen),
            budget,
            level,
            lambda left, count: beside.repeated([chosen[i].config for i in left], count, sign),
        )
        found = [_finalist(trial, beside.of(trial.config), ended.dropped.get(i)) for i, trial in enumerate(chosen)]
    finally:
        beside.study.records.close()
    judged = [_judged(one, sign, level) for one in found]
    order = sorted(judged, key=lambda one: (one.dropped is not None, one.diverged, _rank(sign * one.estimate.value)))
    verdict = CONFIRMED if len(ended.left) == 1 else TIED
    if not ended.finished:
        verdict = UNFINISHED
    elif math.isnan(order[0].estimate.value):
        verdict = DIVERGED
    return Confirmation(
        study.name,
        beside.study.name,
        study.metric,
        study.direction,
        verdict,
        tuple(order),
        level,
        ended.trained,
        budget,
    )


def _check(study: Study, share: float, finalists: int, level: float) -> None:
    if not share > 0 or not math.isfinite(share):
        raise SettingError(f"confirm={share!r}: give a share of the study's epochs above 0, such as {SHARE}.")
    if not isinstance(finalists, int) or finalists < 1:
        raise SettingError(f"finalists={finalists!r}: give a whole number from 1.")
    if not 0 < level < 1:
        raise SettingError(f"level={level!r}: give a probability, such as {LEVEL}.")
    settings = study.record.settings
    if not settings:
        raise StudyError(f"Study {study.name!r} was trained by hand: ask for its best configuration again yourself.")
    if str(settings["schedule"]).lower() in CHANGING:
        raise StudyError(
            f"The trials of study {study.name!r} change their configuration on the way ({settings['schedule']}), so no "
            "configuration can be repeated from its beginning."
        )


def _epochs_each(study: Study) -> int:
    """How long a repeat trains, or where that is left to the objective, about."""
    last = int(study.record.settings.get("epochs", UNLIMITED))
    return last if last < UNLIMITED else max(round(np.mean([t.epochs for t in study.trials])), 1)


def _finalists(study: Study, task: Task | Objective, most: int) -> list[TrialResult]:
    """The best trials with different configurations, the best first."""
    _ = study.best  # raises where there is none
    ranked = sorted(eligible(study.trials), key=lambda t: (objectives(t, study.direction, study.goals), t.number))
    different: dict[Config, TrialResult] = {}
    for trial in ranked:
        different.setdefault(trial.config, trial)
    values = {trial.number: objectives(trial, study.direction, study.goals)[0] for trial in ranked}
    best = values[ranked[0].number]
    near = _noise(study, task, best)
    return [trial for trial in list(different.values())[:most] if values[trial.number] - best <= near]


def _noise(study: Study, task: Task | Objective, best: float) -> float:
    """How far from the best (to be minimised) others may lie; infinite where the noise of examples is not known."""
    size = held_out.examples(task.validation) if isinstance(task, Task) else 0
    rate = best + (1.0 if study.direction == "maximize" else 0.0)
    kind = "acc" if study.direction == "maximize" else "err"
    if not size or kind not in study.metric or not 0 <= rate <= 1:
        return math.inf
    p = min(max(rate, 1 / size), 0.5)  # no error at all does not mean no noise
    return WIDE * 2 * math.sqrt(p * (1 - p) / size)


class _Beside:
    """The study of the repeats."""

    def __init__(
        self, study: Study, task: Task | Objective, workers: int | None, progress: str | Callable[[], Watcher]
    ) -> None:
        if isinstance(task, Task) and task.test is not None and task.metric.startswith("val_"):
            task = replace(task, hooks=held_out.WithHeldOut(task))
        self.task, self.workers, self.progress = task, workers, progress
        self.settings = study.record.settings
        self.study = Study(
            f"{study.name}-repeats",
            study.space,
            metric=study.metric,
            direction=study.direction,
            storage=study.records.url,
            seed=derive_seed(study.seed, "repeats") % 2**31,
            target=study.record.target,
            data_fingerprint=study.record.environment.data_fingerprint,
        )

    def of(self, config: Config) -> list[TrialResult]:
        """The repeats of a configuration, in order."""
        return [trial for trial in self.study.trials if trial.config == config]

    def repeated(self, configs: Sequence[Config], count: int, sign: int) -> list[Array] | None:
        """The first `count` values of each, trained where they are missing; None where that was interrupted."""
        self._enqueue(configs, count)
        trials = self.study.trials
        if self.study.queued or not all(trial.status.ended for trial in trials):
            self._train(len(trials) + len(self.study.queued))
            if self.study.state == "stopped":
                return None
        return [np.array([sign * _value(trial) for trial in self.of(config)[:count]]) for config in configs]

    def _enqueue(self, configs: Sequence[Config], count: int) -> None:
        """One of each in turn, so that the same trials come about however often this was cut off."""
        there = Counter([trial.config for trial in self.study.trials] + self.study.queued)
        for repeat in range(count):
            for config in configs:
                if there[config] <= repeat:
                    self.study.records.enqueue(self.study.record, [config])

    def _train(self, trials: int) -> None:
        progress = self.progress if isinstance(self.progress, str) else self.progress()
        last, threads = self.settings["epochs"], self.settings["threads"]
        if not isinstance(self.task, Task):
            epochs = None if last >= UNLIMITED else last
            self.study.optimize(
                self.task,
                trials=trials,
                epochs=epochs,
                search="random",
                schedule="fifo",
                workers=self.workers or 1,
                threads=threads,
                progress=progress,
            )
            return
        self.study.train(
            self.task,
            trials=trials,
            epochs=last,
            search="random",
            schedule="fifo",
            workers=self.workers,
            threads=threads,
            engine=self.settings.get("engine", "loop"),
            progress=progress,
        )


def _value(trial: TrialResult) -> float:
    bad = trial.value is None or trial.status in (Status.INFEASIBLE, Status.FAILED)
    return math.nan if bad else float(trial.value or 0.0)


def _finalist(trial: TrialResult, repeats: Sequence[TrialResult], dropped: int | None) -> Finalist:
    """What was measured, not yet judged."""
    assert trial.value is not None
    ended = [repeat for repeat in repeats if repeat.status.ended]
    tests = [_test(repeat) for repeat in ended]
    nothing = Estimate(math.nan, math.nan, math.nan)
    return Finalist(
        trial.number,
        trial.config,
        trial.value,
        tuple(map(_value, ended)),
        nothing,
        math.nan,
        tuple(tests) if not all(map(math.isnan, tests)) else (),
        None,
        dropped,
    )


def _test(repeat: TrialResult) -> float:
    """On held-out data, at the best epoch."""
    if math.isnan(_value(repeat)):
        return math.nan
    at_best = (r.metrics for r in repeat.reports if r.epoch_end and r.epoch == repeat.epoch)
    return next((metrics.get(held_out.VALUE, math.nan) for metrics in at_best), math.nan)


def _judged(one: Finalist, sign: int, level: float) -> Finalist:
    mean = _estimate(one.repeats, level)
    test = _estimate(one.tests, level) if one.tests else None
    return replace(one, estimate=mean, optimism=sign * (mean.value - one.value), test=test)


def _estimate(values: Sequence[float], level: float) -> Estimate:
    """The mean with its interval over seeds."""
    return estimate([Repeats.of(values)], level)


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _measured(one: Finalist, metric: str) -> str:
    """A finalist's repeats beside its single run."""
    some = f", {one.diverged} more diverged" if one.diverged else ""
    seeds = f"{metric} {_with_interval(one.estimate)} over {len(one.repeats) - one.diverged} seeds{some}"
    luck = f": {number(one.optimism)} of that was luck" if one.optimism > 0 else ""
    return f"{seeds} (its best single run said {number(one.value)}{luck})"


def _with_interval(found: Estimate) -> str:
    half = (found.high - found.low) / 2
    return number(found.value) if math.isnan(half) else f"{number(found.value)} ± {half:.2g}"


def _described(one: Finalist, direction: str) -> Mapping[str, Any]:
    held: dict[str, Any] = {}
    if one.test is not None:
        sign = -1 if direction == "maximize" else 1
        held = {
            "test": {"mean": one.test.value, "low": one.test.low, "high": one.test.high, "repeats": list(one.tests)},
            "test_optimism": sign * (one.test.value - one.value),
        }
    return {
        "trial": one.trial,
        "config": dict(one.config),
        "value": one.value,
        "mean": one.estimate.value,
        "low": one.estimate.low,
        "high": one.estimate.high,
        "repeats": list(one.repeats),
        "diverged": one.diverged,
        "optimism": one.optimism,
        "dropped": one.dropped,
        **held,
    }
