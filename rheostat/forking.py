"""The counterfactuals of a trial, trained and recorded.

Their results are trials of the study, in its records and its tables. They take numbers but no place in logical time
(ADR 2): no scheduler decided them, and none learns from them, so a study that goes on afterwards decides by what it
had measured itself. A fork of a finished trial trains beyond the epochs of the study, at a rate of its own; that is
why it is compared with its siblings alone, and is never the best of the study.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence

from rheostat.errors import StudyError, TaskError, unknown
from rheostat.execute.base import Executor
from rheostat.execute.inline import Inline
from rheostat.probe.counterfactual import ARMS, FORKS, arms, jobs, length
from rheostat.probe.sandbox import Progress, nobody
from rheostat.records.store import NewTrial, TrialRow
from rheostat.results import TrialResult
from rheostat.study import Study
from rheostat.train import checkpoint
from rheostat.train.base import Runner
from rheostat.train.lane_runner import LANES, LaneRunner
from rheostat.train.loop import TaskRunner
from rheostat.train.task import Task
from rheostat.types import UNLIMITED, Config, Job, Notice, Outcome, Report, Status, trial_seed

USELESS = (Status.FAILED, Status.CANCELLED)  # such an arm is trained anew when it is asked for again


def train_arms(study: Study, number: int, task: Task, progress: Progress = nobody) -> None:
    """Train every counterfactual of a trial that is not in the records yet, and record it.

    They begin where the trial stands; where its checkpoint is gone, the trial is trained there again first, as it was
    (nothing is recorded of that). All are trained by the engine of the study, as lanes where that is lanes. One that
    was interrupted goes on.

    Raises StudyError for a trial that was not trained by Rheostat from this study's task, and TaskError where no arm
    could be trained.
    """
    trial, parent = _parent(study, number)
    reports = [r for r in study.records.reports(study.record, number) if r.epoch_end and r.epoch]
    # An epoch that brought no finite value ended the trial, and has no checkpoint.
    whole = [r.epoch for r in reports if math.isfinite(r.metrics.get(study.metric, math.nan))]
    epoch = max(whole, default=trial.born)
    rate = next((r.metrics.get("lr") for r in reports if r.epoch == epoch), None)
    epochs = length(parent.max_epochs)
    wanted = arms(trial.config, epoch, epochs, rate)
    study.records.claim(study.record)
    try:
        numbers = _recorded(study, trial, wanted, epoch, epochs)
        ready = [jobs(parent, {name: wanted[name]}, epoch, epochs, n)[name] for name, n in numbers.items()]
        if ready:
            _train(study, task, parent, ready, epoch, progress)
    finally:
        study.records.release(study.record)


def cost(study: Study, trial: TrialResult) -> int:
    """The epochs, at most, that it takes to train the counterfactuals of a trial, itself again where it has to be."""
    again = any(checkpoint.trial_folder(study.checkpoints, trial.number).glob("epoch-*"))
    return len(ARMS) * length(study.record.settings["epochs"]) + (0 if again else trial.epochs)


def _parent(study: Study, number: int) -> tuple[TrialRow, Job]:
    """The trial, and the job that it is."""
    rows = {row.number: row for row in study.records.trials(study.record)}
    if number not in rows:
        raise StudyError(unknown("trial", number, sorted(rows)))
    trial, settings = rows[number], study.record.settings
    if trial.arm:
        raise StudyError(f"Trial {number} is itself a probe of trial {trial.parent}: give that one.")
    if trial.source == "ask" or settings.get("epochs", UNLIMITED) == UNLIMITED:
        raise StudyError(
            f"Trial {number} of {study.name!r} was not trained by Rheostat, so it cannot be trained otherwise."
        )
    seed = trial_seed(study.seed, number)
    max_epochs = settings["epochs"]
    return trial, Job(number, trial.config, seed, max_epochs, max_epochs, trial.parent, trial.born)


def _recorded(study: Study, trial: TrialRow, wanted: dict[str, Config], epoch: int, epochs: int) -> dict[str, int]:
    """The numbers of the arms that are still to be trained; those that are not in the records yet are put there."""
    rows = study.records.trials(study.record)
    born = {name: epoch if name in FORKS else 0 for name in wanted}
    known = {row.arm: row for row in rows if row.parent == trial.number and row.status not in USELESS}
    known = {n: row for n, row in known.items() if (row.config, row.born) == (wanted.get(n), born.get(n))}
    new = [
        NewTrial(number, wanted[name], "probe", trial.number, born[name], name)
        for number, name in enumerate((name for name in wanted if name not in known), len(rows))
    ]
    if new:
        study.records.assign(study.record, [], new)
        words = f"{len(new)} probes of trial {trial.number}, {epochs} epochs each: {', '.join(t.arm for t in new)}"
        study.records.log(study.record, [Notice("probe", words, trial.number)])
    numbers = {name: row.number for name, row in known.items() if not row.status.ended}
    return numbers | {t.arm: t.number for t in new}


def _train(study: Study, task: Task, parent: Job, ready: Sequence[Job], epoch: int, progress: Progress) -> None:
    """Train the arms, with the trial itself before where its checkpoint is needed and gone."""
    settings, root = study.record.settings, study.checkpoints
    lanes = settings.get("engine") == "lanes"
    runner: Runner = LaneRunner(task, root, LANES) if lanes else TaskRunner(task, root)
    left = sum(job.until_epoch - job.born for job in ready)
    done = 0

    def sink(reports: Sequence[Report]) -> None:
        nonlocal done
        study.records.append(study.record, reports)  # those of the trial itself are there already, and stay
        done += sum(report.epoch_end and report.epoch > 0 for report in reports)
        progress(min(done / left, 1.0))

    executor = Inline(runner, sink, settings.get("threads"))
    forks = [job for job in ready if job.parent is not None]
    place = checkpoint.trial_folder(root, parent.trial)
    if forks and not (place / f"epoch-{epoch:05d}").exists():
        if parent.parent is not None:
            raise StudyError(
                f"Trial {parent.trial} of {study.name!r} began as a copy of trial {parent.parent}, and its checkpoint "
                "is gone: probe one of the best trials, or one that is paused."
            )
        left += epoch
        again = Job(parent.trial, parent.config, parent.seed, epoch, parent.max_epochs)
        _raise_where_none(_finish(executor, [again]), parent.trial)
    for job in forks:
        checkpoint.inherit(root, parent.trial, epoch, job.trial)
    outcomes = [_as_ended(outcome) for outcome in _finish(executor, ready)]
    study.records.conclude(study.record, outcomes)
    for job in ready:
        shutil.rmtree(checkpoint.trial_folder(root, job.trial), ignore_errors=True)
    _raise_where_none(outcomes, parent.trial)


def _raise_where_none(outcomes: Sequence[Outcome], trial: int) -> None:
    """Raises TaskError where all of these failed, with the traceback of the first."""
    if all(outcome.status is Status.FAILED for outcome in outcomes):
        raise TaskError(f"No probe of trial {trial} could be trained: {outcomes[0].reason}.\n\n{outcomes[0].detail}")


def _finish(executor: Executor, ready: Sequence[Job]) -> list[Outcome]:
    """Train jobs to their ends."""
    executor.submit(ready)
    outcomes: list[Outcome] = []
    while executor.busy:
        outcomes += [event for event in executor.poll(0) if isinstance(event, Outcome)]
    return outcomes


def _as_ended(outcome: Outcome) -> Outcome:
    """An arm that stands before the end of its schedule has done what it was to do."""
    if outcome.status is Status.PAUSED:
        return Outcome(outcome.trial, Status.DONE, outcome.epoch, outcome.reason)
    return outcome
