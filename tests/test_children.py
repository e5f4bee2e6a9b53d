"""Trials that begin as copies of others: exact, whatever happens to the processes that train them (ADR 7)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rheostat.ledger import Ledger
from rheostat.records.store import NewTrial, Records, StudyRecord
from rheostat.schedule.pbt import PBT
from rheostat.search.random import Random
from rheostat.search.sobol import Sobol
from rheostat.session import Plan, Session, Sink
from rheostat.space import Choice, Float, Space
from rheostat.study import Study
from rheostat.train import checkpoint
from rheostat.train.lane_runner import LaneRunner
from rheostat.train.loop import TaskRunner
from rheostat.train.objective import ObjectiveRunner, Trial
from rheostat.train.task import Task
from rheostat.types import Config, Environment, Event, Job, Outcome, Report, Start, Status

SPACE = Space(lr=Float(1e-3, 1.0, log=True), momentum=Float(0.0, 0.9))


# -- in the books --------------------------------------------------------------------------------------------


def test_a_child_begins_with_its_parents_values_and_so_it_does_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger("v", 1, in_order=True)
    first = ledger.decide([Start(Config(lr=0.1), 2)])
    for epoch, value in ((1, 5.0), (2, 4.0)):
        ledger.report(Report(0, epoch, epoch, {"v": value}))
    ledger.conclude(Outcome(0, Status.PAUSED, 2))
    ledger.settle_next()
    second = ledger.decide([Start(Config(lr=0.2), 4, parent=0)])
    assert [(t.number, t.parent, t.born) for t in second.new_trials] == [(1, 0, 2)]
    assert [(r.from_epoch, r.until_epoch) for r in second.rows] == [(2, 4)]
    ledger.report(Report(1, 3, 3, {"v": 3.0}))
    assert ledger.history().trials[1].values == (5.0, 4.0)
    assert ledger.latest(1).values == (5.0, 4.0, 3.0)
    assert (ledger.latest(1).parent, ledger.latest(1).born, ledger.epochs) == (0, 2, 3)
    with Records(f"sqlite:///{tmp_path / 'studies.db'}") as records:
        study = a_study(records)
        records.assign(study, first.rows, first.new_trials)
        records.append(study, [Report(0, e, e, {"v": v}) for e, v in ((1, 5.0), (2, 4.0))])
        records.conclude(study, [Outcome(0, Status.PAUSED, 2)])
        records.assign(study, second.rows, second.new_trials, [0])
        records.append(study, [Report(1, 3, 3, {"v": 3.0})])
        again = Ledger("v", 1, in_order=True)
        again.restore(records.trials(study), records.reports(study), records.assignments(study))
    assert again.history() == ledger.history()
    assert again.latest(1) == ledger.latest(1)
    assert again.epochs == ledger.epochs


def test_decisions_see_of_a_probe_that_its_number_is_taken(tmp_path: Path) -> None:
    """It may train longer than the study, and with a configuration that its first epochs were not trained with."""
    with Records(f"sqlite:///{tmp_path / 'studies.db'}") as records:
        study = a_study(records)
        ledger = Ledger("v", 1, in_order=True)
        decision = ledger.decide([Start(Config(lr=0.1), 2)])
        records.assign(study, decision.rows, decision.new_trials)
        records.append(study, [Report(0, e, e, {"v": v}) for e, v in ((1, 5.0), (2, 4.0))])
        records.conclude(study, [Outcome(0, Status.DONE, 2)])
        new = [NewTrial(1, Config(lr=0.3), "probe", 0, 2, "lr_up"), NewTrial(2, Config(lr=0.1), "probe", 0, 0, "anew")]
        records.assign(study, [], new)
        records.append(study, [Report(1, 3, 3, {"v": 1.0}), Report(1, 4, 4, {"v": 2.0}), Report(2, 1, 1, {"v": 6.0})])
        records.conclude(study, [Outcome(1, Status.DONE, 4)])
        again = Ledger("v", 1, in_order=True)
        again.restore(records.trials(study), records.reports(study), records.assignments(study))
    assert [again.latest(n).values for n in (1, 2)] == [(5.0, 4.0, 1.0, 2.0), (6.0,)]  # for people to see
    assert [again.latest(n).status for n in (1, 2)] == [Status.DONE, Status.TRAINING]
    seen = again.history().trials
    assert [(t.number, t.status, t.values, t.parent, dict(t.config)) for t in seen[1:]] == [
        (number, Status.CANCELLED, (), None, {}) for number in (1, 2)
    ]
    again.settle_next()
    decided = again.decide([Start(Config(lr=0.5), 2)])
    assert decided.new_trials[0].number == 3 and decided.rows[0].number == 1  # no decision was anybody's probe


def a_study(records: Records) -> StudyRecord:
    return records.find_study("c") or records.create_study(
        "c",
        space=SPACE,
        metric="v",
        direction="minimize",
        seed=1,
        settings={},
        target={},
        environment=Environment(),
    )


# -- in the loop, with an executor that finishes things in any order -----------------------------------------


class Killed(BaseException):
    pass


class Lineage:
    """A network is the text of everything it was trained with: who its ancestors were, and until when."""

    def __init__(self, sink: Sink, places: int, chance: random.Random, root: Path, die_after: int | None) -> None:
        self.places, self._sink, self._chance, self._root, self._left = places, sink, chance, root, die_after
        self._jobs: list[Job] = []

    @property
    def busy(self) -> int:
        return len(self._jobs)

    def submit(self, jobs: Sequence[Job]) -> None:
        self._maybe_die()
        self._jobs += jobs

    def poll(self, timeout_seconds: float) -> list[Event]:
        self._maybe_die()
        if not self._jobs:
            return []
        job = self._chance.choice(self._jobs[: self.places])
        folder = checkpoint.trial_folder(self._root, job.trial)
        stored = checkpoint.latest(folder)
        assert stored is not None or job.parent is None, "the parent's checkpoint was kept"
        fresh: dict[str, Any] = {"trial": job.trial, "epoch": 0, "text": "", "value": 1.0, "told": []}
        state = fresh if stored is None else stored[1]
        if state["trial"] != job.trial:
            assert (state["trial"], state["epoch"]) == (job.parent, job.born)
            state = {**state, "told": []}
        if state["epoch"] < job.until_epoch:
            text = f"{state['text']} {job.config.key()}"
            noise = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32
            epoch, value = state["epoch"] + 1, state["value"] * (0.8 + 0.3 * noise)
            told = [*state["told"], [epoch, value]]
            state = {"trial": job.trial, "epoch": epoch, "text": text, "value": value, "told": told}
            checkpoint.save(folder, epoch, {"w": torch.zeros(1)}, state)
            self._maybe_die()
        self._sink([Report(job.trial, epoch, epoch, {"v": value}) for epoch, value in state["told"]])
        if state["epoch"] < job.until_epoch:
            return []
        self._maybe_die()
        self._jobs.remove(job)
        if hashlib.sha256(state["text"].encode()).digest()[0] < 8:
            return [Outcome(job.trial, Status.INFEASIBLE, state["epoch"], "NaN")]
        status = Status.DONE if job.until_epoch == job.max_epochs else Status.PAUSED
        return [Outcome(job.trial, status, job.until_epoch)]

    def _maybe_die(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise Killed

    def drop_waiting(self) -> None:
        del self._jobs[self.places :]

    def close(self) -> None:
        pass


def run_lineages(folder: Path, chance: int, places: int, kill_every: int | None = None) -> list[Any]:
    order = random.Random(chance)
    records = Records(f"sqlite:///{folder / 'studies.db'}")
    study = a_study(records)
    for _ in range(1_000):
        scheduler = PBT(SPACE, Random(SPACE), 18, 8, population=6, interval=2, quantile=0.35)
        session = Session(records, study, Plan(scheduler, 8, in_flight=4, trials=18), folder / "checkpoints")
        die_after = None if kill_every is None else order.randint(1, kill_every)
        try:
            make: Callable[[Sink], Lineage] = lambda sink, n=die_after: Lineage(  # noqa: E731
                sink, places, order, folder / "checkpoints", n
            )
            assert session.run(make) == "finished"
            break
        except Killed:
            continue
    else:
        raise AssertionError("the study never ends")
    trials = [(t.number, t.config, t.status, t.reason, t.parent, t.born) for t in records.trials(study)]
    reports = [(r.trial, r.epoch, r.metrics) for r in records.reports(study)]
    decisions = [(a.trial, a.from_epoch, a.until_epoch, a.clock, a.outcome) for a in records.assignments(study)]
    records.close()
    return [trials, reports, decisions]


def test_a_study_with_children_does_not_depend_on_who_is_faster(tmp_path: Path) -> None:
    calm = run_lineages(tmp_path / "calm", 0, 1)
    children = [t for t in calm[0] if t[4] is not None]
    assert len(calm[0]) == 18 and len(children) >= 6
    assert all(min(e for n, e, _ in calm[1] if n == number) == born + 1 for number, *_, born in children)
    for chance in range(1, 5):
        assert run_lineages(tmp_path / f"{chance}", chance, 1 + chance % 4) == calm


@settings(max_examples=6)
@given(chance=st.integers(0, 10**6), kill_every=st.integers(8, 40))
def test_a_study_with_children_that_is_killed_again_and_again_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory, chance: int, kill_every: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    assert run_lineages(folder / "killed", chance, 2, kill_every) == run_lineages(folder / "calm", 0, 2)


# -- in training ---------------------------------------------------------------------------------------------


def whole_data() -> Task:
    """All data in one batch and nothing random after the initial weights: a copy trains as its parent would have."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 4, generator=generator), torch.randn(32, 1, generator=generator)

    def network(config: Config) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    return Task(network, (x, y), (x, y), loss="mse", metric="val_loss", device="cpu")


BASE = {"lr": 0.05, "batch_size": 32, "optimizer": "adam"}


def values(reports: Sequence[Report], trial: int) -> list[tuple[int, float]]:
    return [(r.epoch, r.metrics["val_loss"]) for r in reports if r.trial == trial and r.epoch_end]


def train(runner: Any, job: Job) -> tuple[Outcome, list[Report]]:
    found: list[Report] = []
    while True:
        for event in runner.run([job], found.append):
            if isinstance(event, Outcome):
                return event, found


@pytest.mark.parametrize("make", [TaskRunner, lambda task, root: LaneRunner(task, root, 4)], ids=["loop", "lanes"])
@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "schedule": "cosine", "clip_norm": 0.1}], ids=["plain", "hooks"])
def test_a_copy_with_the_same_configuration_goes_on_as_its_parent(
    tmp_path: Path, make: Any, changes: dict[str, Any]
) -> None:
    config = Config({**BASE, **changes})
    runner = make(whole_data(), tmp_path)
    train(runner, Job(0, config, 7, 3, 6))
    checkpoint.inherit(tmp_path, 0, 3, 1)
    _, rest = train(runner, Job(0, config, 7, 6, 6))
    outcome, copied = train(runner, Job(1, config, 8, 6, 6, parent=0, born=3))
    assert outcome == Outcome(1, Status.DONE, 6)
    assert values(copied, 1) == [v for v in values(rest, 0) if v[0] > 3] and len(values(copied, 1)) == 3
    best = checkpoint.load_best(tmp_path / "00001")[0]
    assert best == min(values(copied, 1), key=lambda v: v[1])[0]


def test_a_copy_trains_with_its_own_hyperparameters_and_its_parents_optimiser(tmp_path: Path) -> None:
    task = whole_data()
    runner = TaskRunner(task, tmp_path)
    train(runner, Job(0, Config(BASE), 7, 3, 6))
    checkpoint.inherit(tmp_path, 0, 3, 1)
    _, copied = train(runner, Job(1, Config({**BASE, "lr": 0.5, "beta1": 0.5}), 8, 6, 6, parent=0, born=3))
    weights, state = checkpoint.latest(tmp_path / "00000") or ({}, {})
    network, (x, y) = task.model(Config(BASE)), (task.train if isinstance(task.train, tuple) else (None, None))
    network.load_state_dict(weights)
    adam = torch.optim.Adam(network.parameters(), lr=0.5, betas=(0.5, 0.999))
    moments = {i: dict(s) for i, s in state["optimizer"]["state"].items()}
    adam.load_state_dict({"state": moments, "param_groups": adam.state_dict()["param_groups"]})
    for _, value in values(copied, 1):
        adam.zero_grad()
        nn.functional.mse_loss(network(x), y).backward()
        adam.step()
        assert value == pytest.approx(nn.functional.mse_loss(network(x), y).item(), rel=1e-5)


@pytest.mark.parametrize("damage", ["gone", "network", "optimiser of another kind"])
def test_a_copy_that_cannot_be_made_fails_alone_and_says_why(tmp_path: Path, damage: str) -> None:
    runner = TaskRunner(whole_data(), tmp_path)
    train(runner, Job(0, Config(BASE), 7, 3, 6))
    if damage != "gone":
        checkpoint.inherit(tmp_path, 0, 3, 1)
    if damage == "network":
        wider = whole_data()
        wider = Task(lambda config: nn.Linear(4, 1), wider.train, wider.validation, loss="mse", metric="val_loss")
        runner = TaskRunner(wider, tmp_path)
    config = Config({**BASE, "patience": 3}) if damage.startswith("optimiser") else Config(BASE)
    outcome, reports = train(runner, Job(1, config, 8, 6, 6, parent=0, born=3))
    assert (outcome.status, outcome.epoch) == (Status.FAILED, 3) and not reports
    assert ("gone or damaged" if damage == "gone" else "copy of trial 0") in outcome.reason


def test_a_copy_is_taken_once_and_outlives_its_parents_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "00000", 3, {"w": torch.ones(2)}, {"epoch": 3})
    checkpoint.inherit(tmp_path, 0, 3, 1)
    checkpoint.save(tmp_path / "00000", 4, {"w": torch.zeros(2)}, {"epoch": 4})
    checkpoint.inherit(tmp_path, 0, 4, 1)  # it has begun
    checkpoint.inherit(tmp_path, 0, 3, 2)  # gone: nothing to take
    weights, state = checkpoint.latest(tmp_path / "00001") or ({}, {})
    assert state["epoch"] == 3 and weights["w"].tolist() == [1.0, 1.0]
    assert checkpoint.latest(tmp_path / "00002") is None


def test_checkpoints_are_copied_where_files_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    checkpoint.save(tmp_path / "00000", 3, {"w": torch.ones(2)}, {"epoch": 3})
    monkeypatch.setattr(os, "link", refuse)
    checkpoint.inherit(tmp_path, 0, 3, 1)
    assert (checkpoint.latest(tmp_path / "00001") or ({}, {}))[1] == {"epoch": 3}


def objective(trial: Trial) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=trial.lr, momentum=0.9)
    x = torch.eye(3)
    for _ in trial.epochs(model=model if trial.config.get("kept", True) else None, optimizer=optimizer):
        optimizer.zero_grad()
        loss = ((model(x) - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        trial.report(v=loss.item(), lr=optimizer.param_groups[0]["lr"])


def test_a_copy_in_the_users_own_loop(tmp_path: Path) -> None:
    runner = ObjectiveRunner(objective, "v", "minimize", tmp_path)
    train(runner, Job(0, Config(lr=0.1), 1, 3, 6))
    checkpoint.inherit(tmp_path, 0, 3, 1)
    checkpoint.inherit(tmp_path, 0, 3, 2)
    _, rest = train(runner, Job(0, Config(lr=0.1), 1, 6, 6))
    _, same = train(runner, Job(1, Config(lr=0.1), 2, 5, 6, parent=0, born=3))
    assert [(r.epoch, r.metrics) for r in same] == [(r.epoch, r.metrics) for r in rest if 3 < r.epoch < 6]
    _, again = train(runner, Job(1, Config(lr=0.1), 2, 6, 6, parent=0, born=3))  # continued from its own checkpoint
    assert [(r.epoch, r.metrics) for r in again] == [(r.epoch, r.metrics) for r in rest if r.epoch > 3]
    _, other = train(runner, Job(2, Config(lr=0.2), 3, 6, 6, parent=0, born=3))
    assert [r.metrics["lr"] for r in other] == [0.2] * 3 and other[0].metrics["v"] == same[0].metrics["v"]


def test_a_loop_that_keeps_nothing_cannot_be_copied(tmp_path: Path) -> None:
    runner = ObjectiveRunner(objective, "v", "minimize", tmp_path)
    outcome, _ = train(runner, Job(1, Config(lr=0.1, kept=False), 2, 5, 6, parent=0, born=3))
    assert outcome.status is Status.FAILED and "copy of trial 0" in outcome.reason


# -- kill -9 -------------------------------------------------------------------------------------------------


def noisy_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (500,), generator=generator)
    x = torch.randn(500, 10, generator=generator) + 0.5 * y[:, None]

    def network(config: Config) -> nn.Module:
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(16, 3))

    return Task(network, (x[:400], y[:400]), (x[400:], y[400:]), name="children", device="cpu")


def run_study(folder: Path, engine: str, workers: int) -> None:
    space = Space(lr=Float(1e-4, 1.0, log=True), dropout=Float(0.0, 0.5), batch_size=Choice([8, 16]))
    study = Study("children", space, metric="val_error", storage=folder / "studies.db")
    scheduler = PBT(space, Sobol(space, study.seed), 36, 12, population=8, interval=2, quantile=0.25)
    study.train(noisy_task(), trials=36, epochs=12, schedule=scheduler, engine=engine, workers=workers, progress="none")


def recorded(folder: Path) -> list[Any]:
    with Records(f"sqlite:///{folder / 'studies.db'}") as records:
        study = records.study("children")
        trials = [(t.number, t.config, t.status, t.reason, t.parent, t.born) for t in records.trials(study)]
        reports = [
            (r.trial, r.epoch, r.step, {n: v for n, v in r.metrics.items() if n != "examples_per_second"})
            for r in records.reports(study)
        ]
        return [trials, repr(reports)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["loop", "lanes"])
def test_population_based_training_survives_kill_9(tmp_path: Path, engine: str) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    run_study(calm, engine, 1)
    chance = random.Random(engine)
    command = [sys.executable, __file__, str(killed), engine]
    kills = 0
    while kills < 4:
        process = subprocess.Popen(command)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(timeout=chance.uniform(3.0, 6.0)) == 0
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        time.sleep(0.2)
    run_study(killed, engine, 2)
    trials, _ = recorded(killed)
    assert sum(parent is not None for *_, parent, _ in trials) > 8
    assert recorded(killed) == recorded(calm)


if __name__ == "__main__":
    run_study(Path(sys.argv[1]), sys.argv[2], 2)
