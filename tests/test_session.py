"""The loop, with an executor that finishes things in any order a real one might."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.errors import TaskError
from rheostat.methods import make_scheduler
from rheostat.records.store import Records, StudyRecord
from rheostat.session import Interrupted, Plan, Session, Sink
from rheostat.space import Float, Space
from rheostat.types import Config, Environment, Event, Job, Notice, Outcome, Report, Status

SPACE = Space(lr=Float(1e-5, 1e-1, log=True), momentum=Float(0, 1))


def measured(config: Config, epoch: int) -> float:
    """A learning curve that depends on the configuration alone, with crossings."""
    return abs(config.lr * 10 - 0.3) + (1 + config.momentum) / epoch


class Shuffled:
    """Trains up to `places` jobs at once; `chance` decides who is next, and what is told when."""

    def __init__(
        self,
        sink: Sink,
        places: int,
        chance: random.Random,
        die_after: int | None = None,
        checkpoints: dict[int, int] | None = None,
    ) -> None:
        self.places, self._sink, self._chance, self._left = places, sink, chance, die_after
        self._jobs: list[Job] = []
        self._trained = checkpoints if checkpoints is not None else {}  # epochs, by trial
        self._late: list[Event] = []

    @property
    def busy(self) -> int:
        return len(self._jobs) + len(self._late)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._jobs += jobs

    def poll(self, timeout_seconds: float) -> list[Event]:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Killed
        if self._late and (not self._jobs or self._chance.random() < 0.5):
            return [self._late.pop(0)]
        if not self._jobs:
            return []
        job = self._chance.choice(self._jobs[: self.places])
        epoch = self._trained.get(job.trial, 0)
        fate = random.Random(repr(job.config))
        infeasible, converged = fate.randint(1, 60), fate.randint(1, 60)
        if epoch < min(job.until_epoch, converged):  # else it died when it had trained, and is asked again
            epoch += 1
            if epoch == infeasible:
                return self._end(job, Outcome(job.trial, Status.INFEASIBLE, epoch - 1, "NaN"))
            self._trained[job.trial] = epoch
            self._sink([Report(job.trial, epoch, epoch * 10, {"v": measured(job.config, epoch)})])
        if converged <= epoch and converged < job.max_epochs:
            return self._end(job, Outcome(job.trial, Status.CONVERGED, converged, "no longer improves"))
        if epoch >= job.until_epoch:
            done = Status.DONE if job.until_epoch == job.max_epochs else Status.PAUSED
            return self._end(job, Outcome(job.trial, done, job.until_epoch))
        return []

    def _end(self, job: Job, outcome: Outcome) -> list[Event]:
        self._jobs.remove(job)
        if self._chance.random() < 0.3:
            self._late.append(outcome)  # the report is known, how it ended is not yet
            return []
        return [outcome]

    def drop_waiting(self) -> None:
        del self._jobs[self.places :]

    def close(self) -> None:
        pass


class Killed(BaseException):
    pass


def carry_out(
    folder: Path,
    schedule: str,
    chance: int = 0,
    places: int = 1,
    kill_every: int | None = None,
    trials: int = 20,
    min_gain: float | None = None,
) -> tuple[Records, StudyRecord]:
    """A whole study, or the rest of one; with `kill_every`, begun again after so many polls, until it ends."""
    folder.mkdir(exist_ok=True)
    records = Records(f"sqlite:///{folder / 'studies.db'}")
    study = records.find_study("s") or records.create_study(
        "s",
        space=SPACE,
        metric="v",
        direction="minimize",
        seed=1,
        settings={},
        target={},
        environment=Environment(),
    )
    order = random.Random(chance)
    checkpoints = {row.number: len(records.reports(study, row.number)) for row in records.trials(study)}
    for _ in range(10_000):
        scheduler = make_scheduler("auto" if schedule == "freeze-thaw" else "random", schedule, SPACE, 1, trials, 9)
        session = Session(records, study, Plan(scheduler, 9, 4, trials, min_gain=min_gain), folder)
        try:
            assert session.run(lambda sink: Shuffled(sink, places, order, kill_every, checkpoints)) == "finished"
            return records, study
        except Killed:
            continue
    raise AssertionError("the study never ends")


def table(records: Records, study: StudyRecord) -> list[Any]:
    trials = [(t.number, t.config, t.status, t.reason) for t in records.trials(study)]
    reports = [(r.trial, r.epoch, r.step, r.metrics) for r in records.reports(study)]
    decisions = [
        (a.trial, a.from_epoch, a.until_epoch, a.clock, a.outcome, a.end_epoch) for a in records.assignments(study)
    ]
    records.close()
    return [trials, reports, decisions]


@pytest.mark.parametrize("schedule", ["asha", "hyperband", "median", "fifo"])
def test_results_do_not_depend_on_who_is_faster(tmp_path: Path, schedule: str) -> None:
    alone = table(*carry_out(tmp_path / "alone", schedule, chance=0, places=1))
    assert len(alone[0]) == 20
    for chance in range(1, 6):
        several = table(*carry_out(tmp_path / f"{chance}", schedule, chance, places=1 + chance % 4))
        if schedule == "fifo":  # trials end in any order; what they are and measure is the same
            several[2].sort()
            alone[2].sort()
        assert several[:2] == alone[:2]
        assert [row[:3] for row in several[2]] == [row[:3] for row in alone[2]]


@settings(max_examples=15)
@given(chance=st.integers(0, 10**6), kill_every=st.integers(2, 40))
@pytest.mark.parametrize("schedule", ["asha", "fifo"])
def test_a_study_that_is_killed_again_and_again_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory, schedule: str, chance: int, kill_every: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    calm = table(*carry_out(folder / "calm", schedule, chance=0, places=2, trials=8))
    killed = table(*carry_out(folder / "killed", schedule, chance, places=2, kill_every=kill_every, trials=8))
    assert killed[:2] == calm[:2]
    assert [row[:3] for row in killed[2]] == [row[:3] for row in calm[2]]


def failing(sink: Sink, fails: int) -> Any:
    class Failing(Shuffled):
        def poll(self, timeout_seconds: float) -> list[Event]:
            if not self._jobs:
                return []
            job = self._jobs.pop(0)
            if job.trial % 10 < fails:
                return [Outcome(job.trial, Status.FAILED, 0, "ValueError: shapes", "Traceback ...")]
            for epoch in range(self._trained.get(job.trial, 0) + 1, job.until_epoch + 1):
                self._sink([Report(job.trial, epoch, epoch, {"v": 1.0})])
                self._trained[job.trial] = epoch
            return [Outcome(job.trial, Status.DONE, job.until_epoch)]

    return Failing(sink, 1, random.Random(0))


def session_for(folder: Path, watcher: Any = None) -> Session:
    records = Records(f"sqlite:///{folder / 'studies.db'}")
    study = records.find_study("f") or records.create_study(
        "f",
        space=SPACE,
        metric="v",
        direction="minimize",
        seed=1,
        settings={},
        target={},
        environment=Environment(),
    )
    plan = Plan(make_scheduler("random", "fifo", SPACE, 1, 20, 3), 3, 4, 20, watcher=watcher)
    return Session(records, study, plan, folder)


def test_the_first_failure_stops_the_run_and_is_tried_again(tmp_path: Path) -> None:
    session = session_for(tmp_path)
    with pytest.raises(TaskError, match=r"Trial 0 failed before any trial.*ValueError: shapes.*lr"):
        session.run(lambda sink: failing(sink, 10))
    session.records.close()
    again = session_for(tmp_path)
    assert again.run(lambda sink: failing(sink, 0)) == "finished"
    assert {t.status for t in again.records.trials(again.study)} == {Status.DONE}
    again.records.close()


def test_some_failures_are_counted_and_cost_only_their_trials(tmp_path: Path) -> None:
    session = session_for(tmp_path)
    session.ledger.epochs = 1  # something has trained before
    assert session.run(lambda sink: failing(sink, 2)) == "finished"
    statuses = [t.status for t in session.records.trials(session.study)]
    assert statuses.count(Status.FAILED) == 4 and statuses.count(Status.DONE) == 16
    session.records.close()


def test_too_many_failures_stop_the_study(tmp_path: Path) -> None:
    session = session_for(tmp_path)
    session.ledger.epochs = 1
    with pytest.raises(TaskError, match=r"of \d+ trials failed"):
        session.run(lambda sink: failing(sink, 8))
    session.records.close()


class Sends:
    """A watcher that sends a command after some looks."""

    def __init__(self, session_commands: list[tuple[int, str]]) -> None:
        self.commands, self.looks, self.notes = session_commands, 0, list[Notice]()
        self.session: Session | None = None

    def due(self) -> bool:
        self.looks += 1
        for at, command in self.commands:
            if at == self.looks and self.session is not None:
                self.session.records.send(self.session.study, command)
                self.session._next_look = 0.0
        return False

    def update(self, snapshot: object) -> None:
        if self.session is not None and self.session.state == "paused":
            self.session.records.send(self.session.study, "resume")

    def note(self, notice: Notice) -> None:
        self.notes.append(notice)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("command", "state"), [("stop", "stopped"), ("cancel", "stopped"), ("pause", "finished")])
def test_commands_are_obeyed_and_nothing_is_lost(tmp_path: Path, command: str, state: str) -> None:
    watcher = Sends([(10, command)])
    session = session_for(tmp_path, watcher)
    watcher.session = session
    assert session.run(lambda sink: failing(sink, 0)) == state
    session.records.close()
    again = session_for(tmp_path)
    assert again.run(lambda sink: failing(sink, 0)) == "finished"
    rows = again.records.trials(again.study)
    assert len(rows) == 20 and {t.status for t in rows} == {Status.DONE}
    assert len(again.records.reports(again.study)) == 60
    again.records.close()


def test_enqueued_configurations_come_next_and_count(tmp_path: Path) -> None:
    session = session_for(tmp_path)
    wanted = [Config(lr=0.05, momentum=0.5), Config(lr=0.06, momentum=0.5)]
    session.records.enqueue(session.study, wanted)
    assert session.run(lambda sink: failing(sink, 0)) == "finished"
    rows = session.records.trials(session.study)
    assert [row.config for row in rows[:2]] == wanted and [row.source for row in rows[:3]] == [
        "enqueue",
        "enqueue",
        "search",
    ]
    assert len(rows) == 20
    session.records.enqueue(session.study, [Config(lr=0.07, momentum=0.5)])
    session.records.close()
    again = session_for(tmp_path)  # all trials are done; the wish is granted all the same
    assert again.run(lambda sink: failing(sink, 0)) == "finished"
    assert len(again.records.trials(again.study)) == 21
    again.records.close()


def test_the_time_given_ends_the_run(tmp_path: Path) -> None:
    session = session_for(tmp_path)
    session.plan.deadline = 0.0
    assert session.run(lambda sink: failing(sink, 0)) == "stopped"
    session.records.close()
    assert issubclass(Interrupted, BaseException) and not issubclass(Interrupted, Exception)
