"""The shortest way in: a task, a space, and go."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rheostat.confirming import SHARE
from rheostat.confirming import confirm as confirm_best
from rheostat.diagnosing import improve
from rheostat.errors import SpaceError
from rheostat.methods import AUTO
from rheostat.schedule.base import Scheduler
from rheostat.show.base import Watcher
from rheostat.space import Hyperparameter, Space
from rheostat.study import Study
from rheostat.train.task import Task
from rheostat.types import Scalar

MOMENT = 1e-3  # minutes: where no time is left


def tune(
    task: Task | str,
    space: Space | Mapping[str, Hyperparameter | Scalar] | None = None,
    *,
    name: str | None = None,
    trials: int | None = None,
    epochs: int | None = None,
    minutes: float | None = None,
    min_gain: float | None = None,
    widen: bool = False,
    confirm: bool | float = False,
    diagnose: float | None = None,
    seed: int | None = None,
    also: Mapping[str, str] | None = None,
    limits: Sequence[str] | None = None,
    storage: str | Path | None = None,
    search: str = AUTO,
    schedule: str | Scheduler = AUTO,
    workers: int | None = None,
    threads: int = 1,
    engine: str = "auto",
    in_flight: int | None = None,
    progress: str | Watcher = "auto",
    target: Mapping[str, Any] | None = None,
    first: Sequence[Mapping[str, Scalar]] = (),
    earlier: str | Study | Sequence[str | Study] = (),
) -> Study:
    """Find the hyperparameters with which a task trains best; the study that did it.

    `task` is a Task, or what the command line takes (`digits`, a file, `file.py:object`), which brings its own
    space, its own numbers of trials and epochs, and its likeliest configuration to begin with. `trials` (60) is how
    many there shall be in all: the same call again continues the study of this name up to them. `epochs` (20) is
    the most that one may train. `workers` is how many processes train (None: as many as the machine allows; 1: this
    one). A new study tries the configurations `first` before any others, but for those that `earlier` studies, or
    their names in this storage, teach it to try. `also` and `limits` are the further objectives
    and the limits of the study: also={"parameters": "minimize"}, limits=["val_loss <= 0.5"]. With `widen`, ranges that
    turn out to end too soon are widened on the way (docs/advice.md). With `confirm`, the best configurations are then
    trained again with other seeds, for that share of the epochs (True: a quarter); `rheostat.confirm` says what came of
    it. With `diagnose`, before that, up to this share of the epochs goes into counterfactuals of the best trial and of
    those that diagnosis is unsure about, and into configurations that they say would be better (docs/diagnose.md).

    Raises TaskError, DataError or SpaceError before anything is trained where the parts do not fit together, and
    StudyError where a study of this name cannot be continued with these arguments.
    """
    if isinstance(task, str):
        from rheostat.targets import load_target  # readers are not needed where a Task is given

        target = target or {"target": task}
        loaded = load_target(**target)
        task, name = loaded.task, name or loaded.name
        trials = loaded.trials if trials is None else trials
        epochs = loaded.epochs if epochs is None else epochs
        if space is None:
            space, first = loaded.space, first or loaded.first(loaded.space, search)
    if space is None:
        raise SpaceError("Which hyperparameters? Give a space, such as Space(lr=Float(1e-5, 1e-1, log=True)).")
    study = Study(
        name or task.name,
        space,
        metric=task.metric,
        direction=task.direction,
        also=also,
        limits=limits,
        storage=storage,
        seed=seed,
        earlier=earlier,
        target=target,
        data_fingerprint=task.fingerprint(),
    )
    if first and not study.trials:
        for config in first:
            if study.space.complete(config) not in study.queued:
                study.enqueue(config)
    train = partial(
        study.train,
        task,
        trials=60 if trials is None else trials,
        epochs=20 if epochs is None else epochs,
        min_gain=min_gain,
        widen=widen,
        search=search,
        schedule=schedule,
        workers=workers,
        threads=threads,
        engine=engine,
        in_flight=in_flight,
        progress=progress,
    )
    began = time.monotonic()
    train(minutes=minutes)
    if diagnose is not None and study.state == "finished" and improve(study, task, diagnose):
        train(minutes=None if minutes is None else max(minutes - (time.monotonic() - began) / 60, MOMENT))
    if confirm and study.state == "finished":
        shown = progress if isinstance(progress, str) else lambda: progress
        confirm_best(study, task, share=SHARE if confirm is True else confirm, workers=workers, progress=shown)
    return study
