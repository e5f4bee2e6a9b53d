"""What is left of a study: by simulated studies, by hand, and on a clock of its own with costs that vary 50-fold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rheostat import session
from rheostat.methods import make_scheduler
from rheostat.records.store import Records
from rheostat.schedule.remaining import expected_epochs, seconds_left
from rheostat.session import Plan, Session, Sink
from rheostat.space import Float, Int, Space
from rheostat.types import (
    UNLIMITED,
    Config,
    Environment,
    Event,
    Job,
    Notice,
    Outcome,
    Report,
    Snapshot,
    Status,
    TrialRecord,
)
from tests.schedule.test_contract import SPACE, Simulation


@pytest.mark.parametrize(("schedule", "within"), [("fifo", 0.0), ("asha", 0.15), ("freeze-thaw", 0.15)])
@pytest.mark.parametrize(("trials", "max_epochs"), [(30, 9), (40, 20), (3, 1)])
def test_epochs_of_simulated_studies(schedule: str, within: float, trials: int, max_epochs: int) -> None:
    sim = Simulation(make_scheduler("auto", schedule, SPACE, 0, trials, max_epochs), max_epochs, places=4, seed=0)
    for _ in sim.run():
        pass
    expected = expected_epochs(schedule, trials, max_epochs)
    assert expected is not None
    assert expected[1] == pytest.approx(sum(trial.epochs for trial in sim.trials), rel=within)
    assert expected[0] == (max_epochs if schedule == "fifo" else 1)


def trial(number: int, epochs: int, until: int, value: float, status: Status = Status.PAUSED) -> TrialRecord:
    return TrialRecord(number, Config(x=number), status, (value,) * epochs, until)


def test_seconds_by_hand() -> None:
    training = [trial(0, 10, 10, 0.1, Status.DONE), trial(1, 4, 10, 0.2, Status.TRAINING)]
    costs = {0: 1.0, 1: 5.0}
    assert seconds_left(training, {}, "fifo", 4, 10) is None
    assert seconds_left(training, costs, "fifo", 4, 10) == 6 * 5.0 + 2 * 10 * 3.0
    assert seconds_left(training, costs, "fifo", 2, 10) == 6 * 5.0
    # Nine trials of ASHA until epoch 3: one each, and two more for those promoted, as the best third of six costs.
    begun = [trial(i, 1, 1, i / 10) for i in range(6)]
    halving = seconds_left(begun, {i: 8.0 if i < 2 else 2.0 for i in range(6)}, "asha", 9, 3)
    assert halving == pytest.approx(3 * 1 * 4.0 + 9 / 2.6 * 2 * 8.0)
    endless = [trial(0, 4, 10**9, 0.1, Status.DONE), trial(1, 1, 10**9, 0.2, Status.TRAINING)]
    assert seconds_left(endless[1:], costs, "fifo", 4, UNLIMITED) is None
    assert seconds_left(endless, costs, "fifo", 4, UNLIMITED) == 3 * 5.0 + 2 * 4 * 3.0
    # Of a schedule that nothing is known of: as the trials so far.
    assert seconds_left(begun, dict.fromkeys(range(6), 2.0), "mine", 9, 3) == 3 * 2.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Timed:
    """Trains two trials at once; an epoch takes as long as the network is wide."""

    places = 2

    def __init__(self, sink: Sink, clock: Clock) -> None:
        self._sink, self._clock = sink, clock
        self._jobs: list[Job] = []
        self._due: dict[int, float] = {}
        self._epochs: dict[int, int] = {}

    @property
    def busy(self) -> int:
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._jobs += jobs

    def poll(self, timeout_seconds: float) -> list[Event]:
        for job in self._jobs[: self.places]:
            self._due.setdefault(job.trial, self._clock.now + job.config.width)
        job = min(self._jobs[: self.places], key=lambda job: self._due[job.trial])
        self._clock.now = self._due.pop(job.trial)
        epoch = self._epochs[job.trial] = self._epochs.get(job.trial, 0) + 1
        value = abs(math.log(job.config.width / 50)) + job.config.x + 1 / epoch
        self._sink([Report(job.trial, epoch, epoch, {"v": value}, seconds=epoch * job.config.width)])
        if epoch < job.until_epoch:
            return []
        self._jobs.remove(job)
        return [Outcome(job.trial, Status.DONE if epoch == job.max_epochs else Status.PAUSED, epoch)]

    def drop_waiting(self) -> None: ...

    def close(self) -> None: ...


class Looks:
    """Keeps the time and what was said to be left."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.said = clock, list[tuple[float, float]]()

    def due(self) -> bool:
        return True

    def update(self, snapshot: Snapshot) -> None:
        if snapshot.seconds_left is not None:
            self.said.append((self.clock.now, snapshot.seconds_left))

    def note(self, notice: Notice) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("schedule", ["fifo", "asha"])
def test_the_eta_of_a_study_whose_epochs_cost_from_1_to_50_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    clock = Clock()
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=clock.monotonic))
    space = Space(width=Int(1, 50, log=True), x=Float(0.0, 1.0))
    records = Records(f"sqlite:///{tmp_path / 'studies.db'}")
    study = records.create_study(
        "s",
        space=space,
        metric="v",
        direction="minimize",
        seed=0,
        settings={"schedule": schedule},
        target={},
        environment=Environment(),
    )
    looks = Looks(clock)
    plan = Plan(make_scheduler("sobol", schedule, space, 0, 40, 9), 9, in_flight=6, trials=40, watcher=looks)
    running = Session(records, study, plan, tmp_path, started=0.0)
    assert running.run(lambda sink: Timed(sink, clock)) == "finished"
    records.close()
    middle = [(at, left) for at, left in looks.said if 1 / 3 < at / clock.now < 0.7]
    ratios = [left / (clock.now - at) for at, left in middle]
    assert len(ratios) > 10
    assert 0.6 < np.median(ratios) < 1.5
