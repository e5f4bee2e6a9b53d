"""A study: hyperparameters to tune, a metric to tune them for, and everything tried so far."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from rheostat.changes import changes, goal_changes, keeping_priors
from rheostat.environment import describe_environment
from rheostat.errors import SettingError, StudyError, WorkerError, unknown
from rheostat.execute.base import Executor
from rheostat.execute.inline import Inline, training_threads
from rheostat.execute.local import LocalWorkers
from rheostat.front import hypervolume
from rheostat.ledger import Ledger
from rheostat.methods import AUTO, BOTH, choose, is_schedule, make_scheduler, make_searcher
from rheostat.records.store import Records, StudyRecord, existing, storage_url
from rheostat.results import Best, TrialResult, best_of, frame, front_of, nearest, objectives, record_of, results
from rheostat.schedule.base import Scheduler
from rheostat.schedule.goals import GoalReader, WithGoals
from rheostat.schedule.outlook import Outlook, outlook
from rheostat.search.transfer import Earlier, Lessons, learn
from rheostat.session import Plan, Session, Sink
from rheostat.show.base import Watcher
from rheostat.show.console import make_console
from rheostat.space import Hyperparameter, Space
from rheostat.train.base import Runner
from rheostat.types import (
    DIRECTIONS,
    UNLIMITED,
    Config,
    Goals,
    History,
    Notice,
    Outcome,
    Report,
    Scalar,
    Start,
    Status,
    trial_seed,
)
from rheostat.widening import Widening, steps_of

if TYPE_CHECKING:
    from torch import nn

    from rheostat.train.objective import Objective
    from rheostat.train.task import Task

IN_FLIGHT = 8  # trials whose results decisions wait for; a constant, so that results do not depend on the machine
IN_FLIGHT_OF_LANES = 32  # as many fill the lanes of two workers
SHARE_OF_EPOCHS = 0.2  # that are trained where trials are stopped or paused early; about what ASHA does
ENGINES = ("auto", "loop", "lanes")
WORKER_BYTES = 700 * 2**20  # a worker process with torch in it


@dataclass(frozen=True)
class Asked:
    """A trial to be trained by hand."""

    number: int
    config: Config
    seed: int


class Study:
    """A named study in a storage; made if it does not exist, else continued.

    `metric` is a name under which results are reported, `direction` minimize or maximize. `storage` is a database
    URL or a path; by default `$RHEOSTAT_STORAGE`, else `.rheostat/studies.db`. The seed fixes every configuration,
    initial weight and batch of the study.

    `also` are further objectives with their directions, `limits` what a trial must keep (docs/objectives.md), both by
    metrics that trials report:

        Study("s", space, metric="val_error", also={"parameters": "minimize"}, limits=["latency_ms <= 5"])

    A study that is continued keeps those that are not given.

    A new study learns from `earlier` ones, given themselves or by their names in this storage: what to try first, and
    priors for what has none (docs/search.md). All of it is kept with the new study, which needs them no more.

    Raises StudyError when a study of this name exists that cannot be continued with these arguments, and prints
    what differs, and when nothing can be learnt from earlier ones; StorageError when the storage cannot be used.
    """

    def __init__(
        self,
        name: str,
        space: Space | Mapping[str, Hyperparameter | Scalar],
        *,
        metric: str = "val_loss",
        direction: str = "minimize",
        also: Mapping[str, str] | None = None,
        limits: Sequence[str] | None = None,
        storage: str | Path | None = None,
        seed: int | None = None,
        load_if_exists: bool = True,
        earlier: str | Study | Sequence[str | Study] = (),
        target: Mapping[str, Any] | None = None,
        data_fingerprint: str = "",
    ) -> None:
        if direction not in DIRECTIONS:
            raise SettingError(unknown("direction", direction, DIRECTIONS))
        goals = Goals.parse(metric, also or {}, limits or ())
        if not name or "/" in name or name.startswith("."):
            raise SettingError(f"name={name!r}: give a name without '/' that does not begin with a dot.")
        space = space if isinstance(space, Space) else Space(space)
        self.records = Records(storage_url(storage))
        learnt = ""
        if self.records.find_study(name) is None:
            lessons = self._lessons(space, earlier) if earlier else None
            space, learnt = (space, "") if lessons is None else (lessons.space, str(lessons))
            record = self.records.create_study(
                name,
                space=space,
                metric=metric,
                direction=direction,
                seed=seed or 0,
                settings={},
                target=target or {},
                environment=describe_environment(data_fingerprint),
                goals=goals,
            )
            if lessons is not None:
                self.records.enqueue(record, lessons.first)
                self.records.log(record, [Notice("earlier", learnt)])
        elif not load_if_exists:
            raise StudyError(f"A study named {name!r} exists already: use another name, or load_if_exists=True.")
        else:
            record = self._continue(name, space, metric, direction, seed, data_fingerprint)
            kept = record.goals
            goals = Goals(kept.also if also is None else goals.also, kept.limits if limits is None else goals.limits)
            record = self._change_goals(record, goals)
        self._take_up(record)
        self._learnt = learnt

    def _take_up(self, record: StudyRecord) -> None:
        self._record = record
        self._builder: Callable[[Config], nn.Module] | None = None
        self._ledger: Ledger | None = None  # of ask and tell
        self._learnt = ""  # from earlier studies, in words, until a run has shown them
        self.state = ""  # how the last run ended: finished, or stopped

    @classmethod
    def load(cls, name: str, storage: str | Path | None = None) -> Study:
        """An existing study, to read or to continue. Raises StudyError, naming the studies there are."""
        study = cls.__new__(cls)
        study.records = existing(storage)
        study._take_up(study.records.study(name))
        return study

    def _continue(
        self, name: str, space: Space, metric: str, direction: str, seed: int | None, data_fingerprint: str
    ) -> StudyRecord:
        """The recorded study, with the new space where every old trial can be kept."""
        record = self.records.study(name)
        began = steps_of(record.settings, record.space)[0].space
        if keeping_priors(began, space).describe() == began.describe():
            space = record.space  # which may have been widened since
        space = keeping_priors(record.space, space)
        kept, broken = changes(record.space, space)
        pairs: list[tuple[str, object, object]] = [
            ("metric", record.metric, metric),
            ("direction", record.direction, direction),
            ("seed", record.seed, record.seed if seed is None else seed),
            (
                "data",
                record.environment.data_fingerprint,
                data_fingerprint or record.environment.data_fingerprint,
            ),
        ]
        broken += [f"{what}: {old} -> {new}" for what, old, new in pairs if old != new]
        if broken:
            raise StudyError(
                f"Study {name!r} cannot be continued like this, because its trials would not be comparable:\n  "
                + "\n  ".join(broken)
                + "\nGive the study another name, or the same settings as before."
            )
        if kept:
            settings = {name: value for name, value in record.settings.items() if name != "widened"}
            record = self.records.change_study(record, space=space, settings=settings)
            words = "the space changed, and all earlier trials are kept: " + "; ".join(kept)
            self.records.log(record, [Notice("space", words)])
        return record

    def _change_goals(self, record: StudyRecord, goals: Goals) -> StudyRecord:
        """The study with other goals, for which all trials must have been measured."""
        if goals == record.goals:
            return record
        found = results(
            self.records.trials(record), self.records.reports(record), record.metric, record.direction, goals
        )
        for name in goals.metrics:
            if lacking := [t.number for t in found if t.value is not None and math.isnan(t.also[name])]:
                raise StudyError(
                    f"Study {record.name!r} cannot be continued with {name!r} as a goal: {len(lacking)} of its "
                    f"{len(found)} trials did not report it, the first of them trial {lacking[0]}. Give the study "
                    "another name, or the same goals as before."
                )
        words = "the goals changed, and all earlier trials are kept: " + "; ".join(goal_changes(record.goals, goals))
        self.records.log(record, [Notice("goals", words)])
        return self.records.change_study(record, space=record.space, settings=record.settings, goals=goals)

    def _lessons(self, space: Space, earlier: str | Study | Sequence[str | Study]) -> Lessons:
        """What earlier studies teach, each counted once."""
        given = [earlier] if isinstance(earlier, str | Study) else earlier
        studies = [Study.load(one, self.records.url) if isinstance(one, str) else one for one in given]
        return learn(space, [one._as_earlier() for one in {one.record.uid: one for one in studies}.values()])

    def _as_earlier(self) -> Earlier:
        records = [
            (record_of(trial, self.metric, self.direction), trial.broken) for trial in self.trials if not trial.arm
        ]
        trials = [replace(record, status=Status.INFEASIBLE) if broken else record for record, broken in records]
        return Earlier(self.name, self.space, tuple(trials))

    # -- training --------------------------------------------------------------------------------------------

    def optimize(
        self,
        objective: Objective,
        *,
        trials: int | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        min_gain: float | None = None,
        widen: bool = False,
        search: str = AUTO,
        schedule: str | Scheduler = AUTO,
        workers: int | None = 1,
        threads: int | None = None,
        in_flight: int | None = None,
        progress: str | Watcher = "auto",
    ) -> Study:
        """Tune the user's own training loop, which is called with a `Trial`.

        `trials` is how many there shall be in all, also after a continuation; `epochs` the most that a trial may
        train (without it, the objective decides, and trials are not stopped against others). By default a model of
        the learning curves chooses configurations and how long they train, where `epochs` is given; without it all
        train to the end. docs/search.md has the other methods. With `workers` other than 1 the objective runs in
        that many processes (None: as many as the machine allows).

        With `min_gain` the study ends when going on is not worth it: when as many epochs again, and at least 8 full
        trainings, would improve the metric by more than that, in its units, with a chance below 5 % (see `outlook`).
        With `widen`, ranges at whose edge the best trials lie are widened on the way, and no trial is lost.
        """
        from rheostat.train.objective import ObjectiveRunner

        search, schedule = self._methods(search, schedule, epochs is not None)
        if epochs is None and schedule not in ("fifo", "median") and isinstance(schedule, str):
            raise SettingError(f"schedule={schedule!r} needs to know how many epochs a trial may train: give epochs=.")
        runner = ObjectiveRunner(objective, self.metric, self.direction, self.checkpoints, self.goals.metrics)
        return self._run(
            runner,
            trials=trials,
            epochs=UNLIMITED if epochs is None else epochs,
            minutes=minutes,
            min_gain=min_gain,
            widen=widen,
            search=search,
            schedule=schedule,
            workers=workers,
            threads=threads,
            in_flight=in_flight,
            progress=progress,
            data_bytes=0,
        )

    def train(
        self,
        task: Task,
        *,
        trials: int | None = 60,
        epochs: int = 20,
        minutes: float | None = None,
        min_gain: float | None = None,
        widen: bool = False,
        search: str = AUTO,
        schedule: str | Scheduler = AUTO,
        workers: int | None = None,
        threads: int = 1,
        engine: str = "auto",
        in_flight: int | None = None,
        progress: str | Watcher = "auto",
    ) -> Study:
        """Tune a task that Rheostat trains itself; the arguments are those of `optimize`.

        `threads` is how many processor threads train one trial. Sums come out differently with another number, so
        it is kept with the study, and does not follow from the number of workers. So is `engine`: "loop" trains one
        trial after another in each worker, "lanes" up to 16 of one structure as one program (docs/lanes.md), and
        "auto" tries both on a little of the task and takes the faster.

        Raises TaskError before anything is trained when the network, the data or the space do not fit together.
        """
        from rheostat.train.lane_runner import LANES, LaneRunner
        from rheostat.train.loop import TaskRunner, check, measured

        if engine not in ENGINES:
            raise SettingError(unknown("engine", engine, ENGINES))
        for name in self.goals.metrics:
            if name not in (known := measured(task)):
                raise SettingError(unknown("metric", name, known) + " These are what trials of this task report.")
        search, schedule = self._methods(search, schedule)
        check(task, self.space.sample(np.random.default_rng(0))[0])
        self._builder = task.model
        why = ""
        if engine == "auto":
            share = 1.0 if schedule == "fifo" else SHARE_OF_EPOCHS
            with training_threads(threads):
                engine, why = self._choose_engine(task, int((trials or 10**6) * epochs * share))
        lanes = engine == "lanes"
        return self._run(
            LaneRunner(task, self.checkpoints, LANES) if lanes else TaskRunner(task, self.checkpoints),
            engine=engine,
            engine_reason=why,
            trials=trials,
            epochs=epochs,
            minutes=minutes,
            min_gain=min_gain,
            widen=widen,
            search=search,
            schedule=schedule,
            workers=workers,
            threads=threads,
            in_flight=in_flight,
            progress=progress,
            data_bytes=task.data_bytes(),
        )

    def _methods(
        self, search: str, schedule: str | Scheduler, epochs_known: bool = True
    ) -> tuple[str, str | Scheduler]:
        """What "auto" stands for: what the study began with; for a new one, what suits it."""
        if not isinstance(schedule, str):
            return ("sobol" if search == AUTO else search), schedule
        settings = self._record.settings
        if search == schedule == AUTO and settings and is_schedule(settings["schedule"]):
            return settings["search"], settings["schedule"]
        return choose(search, schedule, epochs_known)

    def _choose_engine(self, task: Task, epochs: int) -> tuple[str, str]:
        """The engine that this study began with; for a new one, the faster one, and why."""
        from rheostat.train.engine import choose

        if self._record.settings:
            return self._record.settings.get("engine", "loop"), ""  # studies of before there were lanes
        return choose(task, self.space.sample(np.random.default_rng(0), 32), epochs)

    def _run(
        self,
        runner: Runner,
        *,
        trials: int | None,
        epochs: int,
        minutes: float | None,
        min_gain: float | None,
        widen: bool,
        search: str,
        schedule: str | Scheduler,
        workers: int | None,
        threads: int | None,
        in_flight: int | None,
        progress: str | Watcher,
        data_bytes: int,
        engine: str = "loop",
        engine_reason: str = "",
    ) -> Study:
        _positive(trials=trials, epochs=epochs, minutes=minutes, workers=workers, threads=threads, in_flight=in_flight)
        _positive(min_gain=min_gain)
        if min_gain is not None:
            self._need_one_goal("min_gain")
        asked = None if trials is None else trials + self._probes()
        widening = self._plan_widening(search, schedule, asked, epochs) if widen else None
        scheduler = self._plan_scheduler(self.space, search, schedule, asked, epochs)
        places = workers or default_workers(data_bytes, trials, threads or 1)
        watcher = make_console(progress) if isinstance(progress, str) else progress
        flight = self._keep_settings(trials, epochs, min_gain, widen, search, schedule, threads, engine, in_flight)
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        plan = Plan(scheduler, epochs, flight, asked, deadline, watcher, min_gain, widening)
        if in_flight is None:
            plan.in_flight = max(flight, places if plan.in_order else places * runner.lanes)
        if self._learnt:
            watcher.note(Notice("earlier", self._learnt))
            self._learnt = ""
        if engine_reason:
            notice = Notice("engine", f"engine {engine}: {engine_reason}")
            self.records.log(self._record, [notice])
            watcher.note(notice)
        self._ledger = None  # the session keeps its own
        self.records.claim(self._record)
        try:
            session = Session(self.records, self._record, plan, self.checkpoints)
            self.state = session.run(lambda sink: self._executor(runner, sink, places, workers, threads, watcher))
        finally:
            self._record = self.records.study(self.name)  # the space may be wider now
            self.records.release(self._record)
            watcher.close()
        return self

    def _probes(self) -> int:
        """How many trials are probes of others: they come on top of those that are asked for."""
        return sum(bool(trial.arm) for trial in self.records.trials(self._record))

    def _executor(
        self, runner: Runner, sink: Sink, places: int, asked: int | None, threads: int | None, watcher: Watcher
    ) -> Executor:
        if places == 1:
            return Inline(runner, sink, threads)
        try:
            executor = LocalWorkers(runner, sink, places, threads)
        except WorkerError as cause:
            if asked is not None:
                raise
            watcher.note(Notice("workers", f"{cause} Training in this process."))
            return Inline(runner, sink, threads)
        self.records.claim(self._record, address=str(executor.folder))
        return executor

    def _plan_scheduler(
        self, space: Space, search: str, schedule: str | Scheduler, trials: int | None, epochs: int
    ) -> Scheduler:
        if isinstance(schedule, str):
            schedule = make_scheduler(search, schedule, space, self._record.seed, trials, epochs)
        return WithGoals(schedule) if self.goals else schedule

    def _plan_widening(self, search: str, schedule: str | Scheduler, trials: int | None, epochs: int) -> Widening:
        if self.goals.also:
            raise SettingError(
                f"widen asks where {self.metric} is best, but study {self.name!r} has further objectives: leave it out."
            )
        if not isinstance(schedule, str):
            raise SettingError(
                f"widen makes a scheduler for each space: give its name, not a {type(schedule).__name__}."
            )
        settings = self._record.settings
        return Widening(
            steps_of(settings, self.space),
            lambda space: self._plan_scheduler(space, search, schedule, trials, epochs),
            self.metric,
            -1 if self.direction == "maximize" else 1,
            anew=bool(settings) and "widen" not in settings,
        )

    def _keep_settings(
        self,
        trials: int | None,
        epochs: int,
        min_gain: float | None,
        widen: bool,
        search: str,
        schedule: str | Scheduler,
        threads: int | None,
        engine: str,
        in_flight: int | None,
    ) -> int:
        """Record how the study is run; refuse what would make old and new trials incomparable."""
        old = self._record.settings
        new: dict[str, Any] = {
            "trials": trials,
            "epochs": epochs,
            "search": search,
            "schedule": schedule if isinstance(schedule, str) else type(schedule).__name__,
            "threads": threads,
            "engine": engine,
            "in_flight": in_flight or old.get("in_flight", IN_FLIGHT_OF_LANES if engine == "lanes" else IN_FLIGHT),
        }
        if min_gain is not None:
            new["min_gain"] = min_gain
        if widen:
            new["widen"] = True
        if "widened" in old:
            new["widened"] = old["widened"]
        reasons = {
            "epochs": "the learning rate of every trial is laid out over them",
            "threads": "results differ in their last digits",
            "engine": "results differ in their last digits",
        }
        old = {"engine": "loop", **old} if old else old  # studies of before there were lanes
        for name, reason in reasons.items():
            if old and old[name] != new[name]:
                was, now = (("as many as it likes" if v in (None, UNLIMITED) else v) for v in (old[name], new[name]))
                raise StudyError(
                    f"Study {self.name!r} has {name} = {was} and cannot be continued with {now}: {reason}. "
                    "Use the same as before, or another name."
                )
        if old != new:
            self._record = self.records.change_study(self._record, space=self.space, settings=new)
        flight: int = new["in_flight"]
        return flight

    # -- by hand ---------------------------------------------------------------------------------------------

    def ask(self) -> Asked:
        """A new trial to be trained by hand; `tell` its results."""
        for attempt in range(100):
            try:
                return self._ask(self._books(again=attempt > 0))
            except StudyError:
                if attempt == 99:
                    raise
        raise AssertionError("unreachable")

    def _ask(self, ledger: Ledger) -> Asked:
        queue = self.records.queued(self._record)
        entry = next(iter(queue), None)
        rng = np.random.default_rng([self.seed, ledger.decisions])
        searcher = make_searcher(BOTH, self.space, self.seed)
        history = GoalReader().read(ledger.history()) if self.goals else ledger.history()
        found = [queue[entry]] if entry is not None else searcher.suggest(history, 1, rng)
        if not found:
            raise StudyError(f"Every configuration of the space of {self.name!r} has been tried.")
        decision = ledger.decide([Start(found[0], UNLIMITED)])
        trial = replace(decision.new_trials[0], source="ask")
        queued = {} if entry is None else {trial.number: entry}
        self.records.assign(self._record, decision.rows, [trial], queued=queued)
        return Asked(trial.number, trial.config, trial_seed(self.seed, trial.number))

    def tell(
        self,
        trial: Asked | int,
        value: float | None = None,
        *,
        epoch: int | None = None,
        status: str = "done",
        reason: str = "",
        **metrics: float,
    ) -> None:
        """The result of an asked trial: with `epoch` (from 1) a report on the way, without it the last word.

        A value that is NaN or infinite makes the trial infeasible; so does `status="infeasible"`, with a reason.
        Raises StudyError for a trial that was not asked or has ended already.
        """
        number = trial if isinstance(trial, int) else trial.number
        if status not in ("done", "infeasible", "failed"):
            raise SettingError(unknown("status", status, ("done", "infeasible", "failed")))
        ledger = self._books()
        if not ledger.is_open(number) and not (ledger := self._books(again=True)).is_open(number):
            raise StudyError(f"Trial {number} of {self.name!r} is not waiting for a result: ask for one first.")
        if value is not None:
            metrics = {**metrics, self.metric: float(value)}
        trained = ledger.latest(number).epochs
        if epoch is None and not metrics and not trained and status == "done":
            raise StudyError(f"Trial {number} has no {self.metric}: tell(trial, value), or status='failed'.")
        at = epoch if epoch is not None else trained + (1 if metrics else 0)
        if missing := [name for name in self.goals.metrics if not trained and metrics and name not in metrics]:
            raise StudyError(f"Trial {number} has no {missing[0]}: tell(trial, value, {missing[0]}=...).")
        if metrics:
            report = Report(number, at, at, metrics)
            self.records.append(self._record, [report])
            ledger.report(report)
        if epoch is None:
            ended = Status(status)
            if value is not None and not math.isfinite(value):
                ended, reason = Status.INFEASIBLE, f"{self.metric} = {value}"
            outcome = Outcome(number, ended, at, reason)
            self.records.conclude(self._record, [outcome])
            ledger.conclude(outcome)
            ledger.settle_next()

    def _books(self, again: bool = False) -> Ledger:
        """The ledger of ask and tell, read from the records once, and again where another process has written."""
        if self._ledger is None or again:
            sign = -1 if self.direction == "maximize" else 1
            self._ledger = Ledger(self.metric, sign, in_order=False, goals=self.goals)
            with self.records.one_moment():
                self._ledger.restore(
                    self.records.trials(self._record),
                    self.records.reports(self._record),
                    self.records.assignments(self._record),
                )
        return self._ledger

    def enqueue(self, config: Mapping[str, Scalar]) -> None:
        """Try this configuration next. Raises SpaceError where it does not fit the space."""
        self.records.enqueue(self._record, [self.space.complete(config)])

    @property
    def queued(self) -> list[Config]:
        """The configurations that wait to be tried next."""
        return list(self.records.queued(self._record).values())

    # -- results ---------------------------------------------------------------------------------------------

    @property
    def record(self) -> StudyRecord:
        """The study as it is recorded: space, settings, target, environment."""
        return self._record

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def space(self) -> Space:
        return self._record.space

    @property
    def metric(self) -> str:
        return self._record.metric

    @property
    def direction(self) -> str:
        return self._record.direction

    @property
    def goals(self) -> Goals:
        """The further objectives and the limits."""
        return self._record.goals

    @property
    def seed(self) -> int:
        return self._record.seed

    @property
    def checkpoints(self) -> Path:
        """The folder of this study's checkpoints, beside the database."""
        return self.records.folder / f"{self.name}-{self._record.uid}"

    @property
    def trials(self) -> list[TrialResult]:
        """Every trial so far, in order of number."""
        with self.records.one_moment():
            rows, reports = self.records.trials(self._record), self.records.reports(self._record)
        return results(rows, reports, self.metric, self.direction, self.goals)

    @property
    def best(self) -> Best:
        """The best trial so far by the metric. Raises StudyError while none has a value, or none keeps all limits."""
        trials = self.trials
        best = best_of(trials, self.direction, self.goals)
        if best is None:
            near = nearest(trials, self.goals)
            raise StudyError(
                f"Study {self.name!r} has no result yet: run it, or see `rheostat trials {self.name}`."
                if near is None
                else f"No trial of study {self.name!r} keeps its limits. The nearest is trial {near.number}: "
                f"{'; '.join(near.broken)}. Try more trials, or other limits."
            )
        return Best(best, self.seed, self.checkpoints, self._model_builder())

    def front(self) -> list[TrialResult]:
        """The trials that no other dominates, from the best value on, each as it was at its best epoch.

        Without further objectives, those with the best value.
        """
        return front_of(self.trials, self.direction, self.goals)

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """How much the front dominates, up to a value of each objective that is just too bad.

        Raises SettingError where the reference does not name every objective.
        """
        directions = {self.metric: self.direction, **dict(self.goals.also)}
        if reference.keys() != directions.keys():
            raise SettingError(
                f"reference {dict(reference)}: give a value for each of the objectives {', '.join(directions)}."
            )
        end = np.array([-reference[n] if d == "maximize" else reference[n] for n, d in directions.items()])
        points = [objectives(trial, self.direction, self.goals) for trial in self.front()]
        return hypervolume(np.array(points, dtype=float).reshape(-1, len(end)), end)

    def outlook(self, epochs: int | None = None) -> Outlook | None:
        """What so many more epochs, all trials together, would gain: by default as many as were trained so far.

        `expected` and the interval from `low` to `high` (5 and 95 %) are in the units of the metric and never negative,
        also where it is maximised; `chance(0.001)` is the probability to gain more than that, `share_begun` the part
        that trials bring that have begun. docs/search.md says how far this holds. None while fewer than two trials
        have different values. Raises SettingError where the study has further objectives or limits.
        """
        self._need_one_goal("outlook")
        ledger = self._books(again=True)
        trials = tuple(ledger.latest(trial.number) for trial in ledger.history().trials if not trial.arm)
        return outlook(History(trials), self._record.settings.get("epochs", UNLIMITED), epochs)

    def _need_one_goal(self, asked: str) -> None:
        if self.goals:
            raise SettingError(
                f"{asked} speaks of {self.metric} alone, but study {self.name!r} has further objectives or limits: "
                "use trials or minutes to end it."
            )

    def frame(self) -> Any:
        """The trials as a pandas DataFrame."""
        return frame(self.trials, self.metric)

    def _model_builder(self) -> Callable[[Config], nn.Module] | None:
        if self._builder is None and self._record.target:
            from rheostat.targets import load_target

            target = dict(self._record.target)
            return lambda config: load_target(**target).task.model(config)
        return self._builder


def default_workers(data_bytes: int, trials: int | None, threads: int = 1) -> int:
    """As many processes as cores and memory allow; one where an accelerator does the work."""
    import torch

    if torch.accelerator.is_available():
        return 1
    memory = psutil.virtual_memory().available * 0.8 // (WORKER_BYTES + 3 * data_bytes)
    return max(min((os.cpu_count() or 1) // threads, int(memory), trials or 1_000_000), 1)


def _positive(**settings: float | None) -> None:
    for name, value in settings.items():
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise SettingError(f"{name}={value!r}: give a number above 0.")
