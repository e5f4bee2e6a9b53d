"""The loop in which search, schedule, execution and records meet. Read `Session.run` top to bottom.

decide    the scheduler assigns epochs to trials, and the decision is recorded
train     the executor trains what was assigned
record    every report is durable before anyone acts on it
settle    what ended becomes visible to the next decision
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rheostat.errors import TaskError
from rheostat.execute.base import Executor
from rheostat.front import front
from rheostat.ledger import Ledger
from rheostat.records.store import Records, StudyRecord
from rheostat.schedule.base import Scheduler
from rheostat.schedule.outlook import enough
from rheostat.schedule.remaining import seconds_left
from rheostat.show.base import Watcher
from rheostat.train import checkpoint
from rheostat.types import (
    UNLIMITED,
    Assignment,
    Job,
    Notice,
    Outcome,
    Report,
    Snapshot,
    Start,
    Status,
    TrialRecord,
    trial_seed,
)
from rheostat.widening import Widening

POLL_SECONDS = 0.2
KEEP_BEST, KEEP_BYTES, COLLECT_SECONDS = 5, 10 * 2**30, 30.0
FAILURES_ALLOWED, FAILURE_RATE = 5, 0.5

Sink = Callable[[Sequence[Report]], None]


class Interrupted(BaseException):
    """Leaves training at the end of an epoch, in this process; not an Exception, so that no loop swallows it."""


@dataclass
class Plan:
    """How a study is to be run now."""

    scheduler: Scheduler
    max_epochs: int
    in_flight: int
    trials: int | None = None
    deadline: float | None = None  # of time.monotonic()
    watcher: Watcher | None = None
    min_gain: float | None = None  # the study ends where going on would hardly gain more
    widening: Widening | None = None  # of ranges that end too soon

    @property
    def in_order(self) -> bool:
        """Whether results change what is decided, and so the order does in which they are settled."""
        return self.scheduler.adaptive or self.min_gain is not None or self.widening is not None


@dataclass
class Session:
    """One process running one study, from its records to its end or an interruption."""

    records: Records
    study: StudyRecord
    plan: Plan
    checkpoints: Path
    state: str = "running"  # running, stopping, paused, stopped, finished
    ledger: Ledger = field(init=False)
    started: float = field(default_factory=time.monotonic)
    _settled: list[int] = field(default_factory=list)
    _asked: bool = False  # for the places that are free
    _enough: bool = False  # going on is not worth it
    _failures: int = 0
    _next_look: float = 0.0  # for commands
    _next_collection: float = 0.0
    _epochs_before: int = 0
    _spent: dict[int, Report] = field(default_factory=dict)  # the latest report of each trial, for its seconds
    _trained_seconds: float = 0.0  # of all trials, in this session

    def __post_init__(self) -> None:
        sign = -1 if self.study.direction == "maximize" else 1
        self.ledger = Ledger(self.study.metric, sign, self.plan.in_order, self.study.goals)
        with self.records.one_moment():
            trials = self.records.trials(self.study)
            reports, assignments = self.records.reports(self.study), self.records.assignments(self.study)
        self.ledger.restore(trials, reports, assignments)
        self.ledger.set_aside(trial.number for trial in trials if trial.source == "ask")
        if self.plan.widening is not None:
            self.plan.scheduler = self.plan.widening.take_up(self.ledger.history())
        self._epochs_before = self.ledger.epochs
        self._spent = {report.trial: report for report in reports if report.epoch_end and report.epoch}
        self._queue = self.records.queued(self.study)
        self.places = 1

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self, make_executor: Callable[[Sink], Executor]) -> str:
        """Train until the scheduler has nothing more to assign, or somebody ends it. Returns the final state."""
        self._watch(force=True)
        with self._signals():
            while self.state in ("running", "paused"):
                with suppress(Interrupted):  # trials stand where their last checkpoint is
                    if self.state == "paused":
                        self._wait_while_paused()
                    else:
                        self._go(make_executor)
        if self.state == "stopping":
            self.state = "stopped"
        self._collect()
        self._watch(force=True)
        return self.state

    def _go(self, make_executor: Callable[[Sink], Executor]) -> None:
        self._obey(None)
        self._copy_parents(row.trial for row in self.ledger.training)
        self._widen()
        self._weigh()
        self._decide()
        if not self.ledger.training:  # nothing to do: start no processes for it
            self.state = "finished"
            return
        executor = make_executor(self.sink)
        self.places = executor.places
        try:
            self._train(executor)
        finally:
            executor.close()

    def _train(self, executor: Executor) -> None:
        executor.submit([self._job(row.trial, row.until_epoch) for row in self.ledger.training])
        while True:
            self._obey(executor)
            executor.submit(self._decide())
            if not executor.busy:
                if self.state == "running" and not self.ledger.in_flight:
                    self.state = "finished"
                if self.state != "running":
                    return
            events = executor.poll(POLL_SECONDS)
            self._take_in(events)
            self._watch()

    def sink(self, reports: Sequence[Report]) -> None:
        """Make reports durable; called by the executor before it goes on."""
        self.records.append(self.study, reports)
        for report in reports:
            self.ledger.report(report)
            self._time(report)
        self._watch()
        self._obey(None)

    def _take_in(self, events: Sequence[Outcome | Notice]) -> None:
        outcomes = [event for event in events if isinstance(event, Outcome)]
        notices = [event for event in events if isinstance(event, Notice)]
        for outcome in outcomes:
            self._judge_failure(outcome)
        if outcomes:
            self.records.conclude(self.study, outcomes)
            for outcome in outcomes:
                self.ledger.conclude(outcome)
            self._asked = False
            if time.monotonic() > self._next_collection:
                self._collect()
        if notices:
            self._note(notices)

    def _decide(self) -> list[Job]:
        """Settle what may be settled, and ask the scheduler what to do with the places that became free.

        Where results matter, every settled assignment brings a decision of its own, with all free places; where
        they do not, places are given away one by one. Either way, no decision depends on how many ended together.
        """
        jobs: list[Job] = []
        while self.state == "running":
            row = self.ledger.settle_next()
            if row is not None:
                self._settled.append(row.number)
                self._asked = False
                self._widen()
                self._weigh()
            elif self._asked:
                break
            if self.plan.in_order:
                jobs += self._ask(self.plan.in_flight - self.ledger.in_flight)
            elif row is None:
                while self.ledger.in_flight < self.plan.in_flight and (found := self._ask(1)):
                    jobs += found
            self._asked = row is None or self.plan.in_order
        return jobs

    def _ask(self, free: int) -> list[Job]:
        if free <= 0:
            return []
        rng = np.random.default_rng([self.study.seed, self.ledger.decisions])
        assignments = [] if self._enough else self.plan.scheduler.next(self.ledger.history(), free, rng)
        assignments, queued = self._with_queue(list(assignments), free)
        if not assignments:
            return []
        decision = self.ledger.decide(assignments, dict.fromkeys(queued, "enqueue"))
        self.records.assign(self.study, decision.rows, decision.new_trials, self._settled, decision.stopped, queued)
        self._settled = []
        self._copy_parents(trial.number for trial in decision.new_trials)
        return [self._job(row.trial, row.until_epoch) for row in decision.rows]

    def _weigh(self) -> None:
        """Ask for no more where going on is not worth it; what is training and what was enqueued is still trained.

        By what is settled alone, so it comes at the same point with any number of workers; and the same study with a
        smaller number goes on as if it had never stopped.
        """
        least = self.plan.min_gain
        if least is None or self._enough:
            return
        said = enough(self.ledger.history(), self.plan.max_epochs, least)
        if said is not None:
            self._enough = True
            words = (
                f"ending here: {said.epochs} more epochs would improve {self.study.metric} by more than {least:g} with "
                f"a chance of {said.chance(least):.1%}, by {said.expected:.2g} on average; a smaller min_gain goes on"
            )
            self._note([Notice("enough", words)])

    def _widen(self) -> None:
        """Go on in a wider space where the best may lie outside; by what is settled alone, as `_weigh` does."""
        widening = self.plan.widening
        if widening is None:
            return
        known = len(widening.steps)
        scheduler = widening.look(self.ledger.history())
        if scheduler is None:
            return
        self.plan.scheduler, self._enough = scheduler, False
        if len(widening.steps) > known:
            self._note([widening.notice()])
            settings = {**self.study.settings, "widened": [step.describe() for step in widening.steps]}
            self.study = self.records.change_study(self.study, space=widening.steps[-1].space, settings=settings)

    def _copy_parents(self, trials: Iterable[int]) -> None:
        """Give new trials the checkpoints that they begin with; before anything is submitted, so before it changes."""
        for number in trials:
            trial = self.ledger.latest(number)
            if trial.parent is not None and trial.epochs == trial.born:
                checkpoint.inherit(self.checkpoints, trial.parent, trial.born, number)

    def _with_queue(self, assignments: list[Assignment], free: int) -> tuple[list[Assignment], dict[int, int]]:
        """Configurations that the user enqueued take the place of those the search would start."""
        queued: dict[int, int] = {}
        number = len(self.ledger.history().trials)
        for index, assignment in enumerate(assignments):
            if isinstance(assignment, Start):
                if self._queue and assignment.parent is None:
                    entry = next(iter(self._queue))
                    assignments[index] = Start(self._queue.pop(entry), assignment.until_epoch)
                    queued[number] = entry
                number += 1
        while self._queue and len(assignments) < free:
            entry = next(iter(self._queue))  # beyond the trials asked for, and so not weighed against others
            assignments.append(Start(self._queue.pop(entry), self.plan.max_epochs))
            queued[number] = entry
            number += 1
        return assignments, queued

    def _job(self, trial: int, until_epoch: int) -> Job:
        known = self.ledger.latest(trial)
        seed = trial_seed(self.study.seed, trial)
        return Job(trial, known.config, seed, until_epoch, self.plan.max_epochs, known.parent, known.born)

    # -- faults ----------------------------------------------------------------------------------------------

    def _judge_failure(self, outcome: Outcome) -> None:
        """The first trial's exception ends the run, and so do too many; a trial is tried again by the next run."""
        if outcome.status is not Status.FAILED:
            return
        self._failures += 1
        config = self.ledger.latest(outcome.trial).config
        if self.ledger.epochs == 0:
            raise TaskError(
                f"Trial {outcome.trial} failed before any trial had trained an epoch: {outcome.reason}. "
                f"Configuration: {dict(config)}. Mend it and run again: the trial will be tried again.\n\n"
                f"{outcome.detail}"
            )
        ended = sum(trial.status.ended for trial in self.ledger.history().trials)
        if self._failures >= FAILURES_ALLOWED and self._failures > FAILURE_RATE * ended:
            raise TaskError(
                f"{self._failures} of {ended} trials failed, the last one with {outcome.reason}. Mend the model or "
                f"narrow the space, and run again to continue. Configuration: {dict(config)}.\n\n{outcome.detail}"
            )
        self._note([Notice("trial failed", f"trial {outcome.trial} failed: {outcome.reason}", outcome.trial)])

    def _note(self, notices: Sequence[Notice]) -> None:
        self.records.log(self.study, notices)
        if self.plan.watcher is not None:
            for notice in notices:
                self.plan.watcher.note(notice)

    def _collect(self) -> None:
        """Keep the checkpoints of the best, of the front and of those that may go on, within the budget of disk."""
        trials = self.ledger.history().trials
        on_front = {t.number for t in front(trials)} if self.study.goals.also else set()
        ended = [t for t in trials if t.status.ended]
        ended.sort(key=lambda t: (not t.keeps_limits, t.number not in on_front, t.best, t.number))
        keep = max(KEEP_BEST, len(on_front))
        used = checkpoint.collect(self.checkpoints, [t.number for t in ended], keep, KEEP_BYTES)
        self._next_collection = time.monotonic() + COLLECT_SECONDS
        if used > KEEP_BYTES:
            message = f"paused trials hold {used / 2**30:.1f} GiB of checkpoints in {self.checkpoints}"
            self._note([Notice("disk", message)])

    # -- commands --------------------------------------------------------------------------------------------

    def _obey(self, executor: Executor | None) -> None:
        """Commands from other processes, the deadline, and Ctrl-C. Within an epoch's sink, leave training now."""
        now = time.monotonic()
        if now > self._next_look:
            self._next_look = now + POLL_SECONDS
            for command in self.records.take_commands(self.study):
                self._command(command)
            self._queue = self._queue or self.records.queued(self.study)
            self._asked = self._asked and not self._queue
        if self.plan.deadline is not None and now > self.plan.deadline and self.state == "running":
            self._note([Notice("time", "the time given is up; run the same command again to go on")])
            self.state = "stopped"
        if self.state in ("paused", "stopped"):
            raise Interrupted
        if self.state == "stopping" and executor is not None:
            executor.drop_waiting()

    def _command(self, command: str) -> None:
        states = {"pause": "paused", "resume": "running", "stop": "stopping", "cancel": "stopped"}
        self._note([Notice("command", f"told to {command}")])
        self.state = states[command]

    def _wait_while_paused(self) -> None:
        self._watch(force=True)
        while self.state == "paused":
            time.sleep(POLL_SECONDS)
            for command in self.records.take_commands(self.study):
                self._command(command)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C once: finish running trials. Twice: stop now. Nothing is lost either way."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(*_: object) -> None:
            if self.state == "running":
                self.state = "stopping"
                if self.plan.watcher is not None:
                    words = "finishing the trials in training; press Ctrl-C again to stop now"
                    self.plan.watcher.note(Notice("interrupt", words))
            else:
                self.state = "stopped"
                raise Interrupted

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # -- what people see -------------------------------------------------------------------------------------

    def _watch(self, force: bool = False) -> None:
        watcher = self.plan.watcher
        if watcher is not None and (force or watcher.due()):
            watcher.update(self.snapshot())

    def snapshot(self) -> Snapshot:
        """How the study stands now."""
        trials = tuple(self.ledger.latest(number) for number in range(len(self.ledger.history().trials)))
        seconds = time.monotonic() - self.started
        return Snapshot(
            study=self.study.name,
            metric=self.study.metric,
            sign=self.ledger.sign,
            trials=trials,
            trials_wanted=self.plan.trials,
            max_epochs=self.plan.max_epochs if self.plan.max_epochs < UNLIMITED else None,
            epochs=self.ledger.epochs,
            seconds=seconds,
            seconds_left=self._seconds_left(trials, seconds),
            places=self.places,
            training=frozenset(row.trial for row in self.ledger.training[: self.places]),
            state=self.state,
            goals=self.study.goals,
        )

    def _time(self, report: Report) -> None:
        before = self._spent.get(report.trial)
        if report.epoch_end and report.epoch and (before is None or report.seconds > before.seconds):
            self._trained_seconds += report.seconds - (before.seconds if before else 0.0)
            self._spent[report.trial] = report

    def _seconds_left(self, trials: Sequence[TrialRecord], seconds: float) -> float | None:
        """By what the trials so far have cost; None before there is evidence."""
        wanted = self.plan.trials
        if not wanted or self.ledger.epochs - self._epochs_before < 2 * self.places or not self._trained_seconds:
            return None
        costs = {number: report.seconds / report.epoch for number, report in self._spent.items()}
        schedule = self.study.settings.get("schedule", "")
        left = seconds_left(trials, costs, schedule, wanted, self.plan.max_epochs)
        # Trials train at the same time, as lanes perhaps, and deciding takes time as well.
        return None if left is None else left * seconds / self._trained_seconds
