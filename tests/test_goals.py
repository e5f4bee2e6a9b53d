"""Studies with several objectives and with limits, from the user's side."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import rheostat
from rheostat import Float, Int, Space, Study, Task, Trial
from rheostat.cli import app
from rheostat.errors import RheostatError, SettingError, StudyError, TaskError
from rheostat.ledger import Ledger
from rheostat.train import checkpoint
from rheostat.types import Goals, Limit, Outcome, Report, Start, Status

SPACE = Space(x=Float(0, 1), y=Float(0, 1))
EPOCHS = 9


def study(folder: Path, **changes: Any) -> Study:
    arguments: dict[str, Any] = {"name": "s", "space": SPACE, "metric": "error", "seed": 0, **changes}
    return Study(storage=folder / "studies.db", **arguments)


def measured(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
    """Schaffer's problem (1985), approached by training: the front has x between 0.25 and 0.75, and y = 0."""
    away = 2 * config["y"] + 0.3 * epoch**-0.7
    return {"error": (config["x"] - 0.25) ** 2 * 4 + away, "cost": (config["x"] - 0.75) ** 2 * 4 + away}


def trade_off(trial: Trial) -> None:
    for epoch in trial.epochs():
        trial.report(**measured(trial.config, epoch + 1))


ALSO = {"cost": "minimize"}
REFERENCE = {"error": 2.0, "cost": 2.0}


@pytest.mark.parametrize("schedule", [pytest.param("auto", marks=pytest.mark.slow), "asha"])
def test_a_front_is_found_that_random_search_finds_worse_with_as_many_epochs(tmp_path: Path, schedule: str) -> None:
    volumes: dict[str, list[float]] = {schedule: [], "random": []}
    for seed in range(3):
        found = study(tmp_path, name=f"{schedule}-{seed}", seed=seed, also=ALSO)
        found.optimize(trade_off, trials=40, epochs=EPOCHS, schedule=schedule, progress="none")
        full = math.ceil(sum(t.epochs for t in found.trials) / EPOCHS)
        drawn = study(tmp_path, name=f"random-{schedule}-{seed}", seed=seed, also=ALSO)
        drawn.optimize(trade_off, trials=full, epochs=EPOCHS, search="random", schedule="fifo", progress="none")
        volumes[schedule].append(found.hypervolume(REFERENCE))
        volumes["random"].append(drawn.hypervolume(REFERENCE))
        assert max(t.epochs for t in found.trials) == EPOCHS > min(t.epochs for t in found.trials)  # some ended early
    assert np.mean(volumes[schedule]) > np.mean(volumes["random"]) + 0.1


def test_the_front_is_what_no_trial_dominates_and_the_best_is_on_it(tmp_path: Path) -> None:
    found = study(tmp_path, also=ALSO).optimize(trade_off, trials=30, epochs=EPOCHS, progress="none")
    points = {t.number: (t.value, t.also["cost"]) for t in found.trials}
    front = [n for n, p in points.items() if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points.values())]
    assert sorted(t.number for t in found.front()) == front and len(front) > 1
    values = [t.value for t in found.front()]
    assert values == sorted(values) and found.best.number == found.front()[0].number
    assert found.best.value == min(t.value for t in found.trials)
    with pytest.raises(SettingError, match="objectives error, cost"):
        found.hypervolume({"error": 1.0})


def test_a_metric_may_be_maximised(tmp_path: Path) -> None:
    """The same decisions, whichever way round the measures are told."""

    def other_way(trial: Trial) -> None:
        for epoch in trial.epochs():
            now = measured(trial.config, epoch + 1)
            trial.report(score=-now["error"], gain=-now["cost"])

    one = study(tmp_path / "one", also=ALSO, limits=["cost <= 0.9"])
    other = study(
        tmp_path / "other", metric="score", direction="maximize", also={"gain": "maximize"}, limits=["gain >= -0.9"]
    )
    one.optimize(trade_off, trials=25, epochs=EPOCHS, progress="none")
    other.optimize(other_way, trials=25, epochs=EPOCHS, progress="none")
    assert [(t.config, t.epochs, bool(t.broken)) for t in one.trials] == [
        (t.config, t.epochs, bool(t.broken)) for t in other.trials
    ]
    assert [t.number for t in one.front()] == [t.number for t in other.front()]
    volume = other.hypervolume({"score": -2.0, "gain": -2.0})
    assert volume == pytest.approx(one.hypervolume(REFERENCE)) and volume > 0
    assert any("needed -0.9" in words for t in other.trials for words in t.broken)


def test_a_limit_is_kept_where_little_of_the_space_keeps_it(tmp_path: Path) -> None:
    """One configuration in twenty keeps it, and the metric pulls away: the best of a few dozen lies at its edge."""

    def objective(trial: Trial) -> None:
        for epoch in trial.epochs():
            trial.report(error=1 - trial.x + 0.2 / (epoch + 1), size=trial.x * 100 + trial.y * 20)

    kept, best = [], []
    for seed in range(2):
        found = study(tmp_path, name=f"s{seed}", seed=seed, limits=["size <= 14"])  # a triangle of 5 %
        found.optimize(objective, trials=40, epochs=EPOCHS, progress="none")
        kept.append(sum(not t.broken for t in found.trials) / 40)
        best.append(found.best.value)
        assert found.best.trial.also["size"] <= 14 and not found.best.trial.broken
        assert found.best.value == min(t.value for t in found.trials if t.also["size"] <= 14)
        worst = max(found.trials, key=lambda t: t.also["size"])
        assert worst.broken == [f"size {worst.also['size']:.4g}, allowed 14"]
    assert min(kept) > 0.15  # by chance it is 0.05
    assert max(best) < 1 - 0.06 + 0.2 / EPOCHS  # at the edge x is 0.14; the better of two at random has 0.06


def test_while_nothing_keeps_the_limits_the_breach_shrinks(tmp_path: Path) -> None:
    def objective(trial: Trial) -> float:
        trial.report(error=-trial.y, size=1 + (trial.x - 0.3) ** 2 + (trial.y - 0.6) ** 2)

    found = study(tmp_path, limits=["size <= 1"])
    found.optimize(objective, trials=40, progress="none")
    sizes = [t.also["size"] - 1 for t in found.trials]
    assert np.median(sizes[-15:]) < 0.3 * np.median(sizes[:10])
    assert found.front() == [] and found.hypervolume({"error": 1}) == 0
    nearest = min(found.trials, key=lambda t: t.also["size"]).number
    with pytest.raises(StudyError, match=f"keeps its limits. The nearest is trial {nearest}: size 1.*allowed 1"):
        _ = found.best


def test_a_limit_that_all_keep_changes_no_result(tmp_path: Path) -> None:
    """It is no objective: by order, the search sees what it would see without it."""
    plain = study(tmp_path / "plain").optimize(trade_off, trials=20, epochs=EPOCHS, schedule="asha", progress="none")
    limited = study(tmp_path / "limited", limits=["cost <= 1000"])
    limited.optimize(trade_off, trials=20, epochs=EPOCHS, schedule="asha", progress="none")
    assert [(t.config, t.epochs) for t in plain.trials] == [(t.config, t.epochs) for t in limited.trials]


@pytest.mark.parametrize("schedule", ["auto", "hyperband"])
def test_a_study_in_pieces_is_the_whole_study(tmp_path: Path, schedule: str) -> None:
    goals: dict[str, Any] = {"also": ALSO, "limits": ["cost <= 2"]}
    whole = study(tmp_path / "whole", **goals)
    whole.optimize(trade_off, trials=20, epochs=EPOCHS, schedule=schedule, progress="none")
    calls = 0

    def breaks_off(trial: Trial) -> None:
        nonlocal calls
        for epoch in trial.epochs():
            calls += 1
            if calls % 17 == 0:
                raise KeyboardInterrupt
            trial.report(**measured(trial.config, epoch + 1))

    pieces = study(tmp_path / "pieces", **goals)
    for _ in range(100):
        try:
            pieces.optimize(breaks_off, trials=20, epochs=EPOCHS, schedule=schedule, progress="none")
            break
        except KeyboardInterrupt:
            pieces = study(tmp_path / "pieces")  # what is not given stays as it was
    assert calls > 40 and pieces.goals == whole.goals
    assert table(pieces) == table(whole)


def table(found: Study) -> list[Any]:
    return [(t.config, t.status, t.value, t.also, t.broken, t.epochs) for t in found.trials]


KILLED = """
import os, sys
from tests.test_goals import ALSO, EPOCHS, Path, measured, study

def dies(trial):
    for epoch in trial.epochs():
        trial.report(**measured(trial.config, epoch + 1))
        if trial.number == 9:
            os.kill(os.getpid(), 9)

study(Path(sys.argv[1]), also=ALSO, limits=["cost <= 2"]).optimize(dies, trials=20, epochs=EPOCHS, progress="none")
"""


@pytest.mark.slow
def test_one_worker_or_two_give_the_same_study(tmp_path: Path) -> None:
    tables = []
    for workers in (1, 2):
        found = study(tmp_path / str(workers), also=ALSO, limits=["cost <= 2"])
        found.optimize(trade_off, trials=20, epochs=EPOCHS, workers=workers, in_flight=8, progress="none")
        tables.append(table(found))
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_killed_study_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole", also=ALSO, limits=["cost <= 2"])
    whole.optimize(trade_off, trials=20, epochs=EPOCHS, progress="none")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=environment, check=False)
    assert ended.returncode == -9
    killed = study(tmp_path / "killed").optimize(trade_off, trials=20, epochs=EPOCHS, progress="none")
    assert table(killed) == table(whole)


def test_what_is_measured_once_holds_until_it_is_measured_again(tmp_path: Path) -> None:
    def objective(trial: Trial) -> None:
        for epoch in trial.epochs():
            trial.report(error=1 / (epoch + 1))
            if epoch in (0, 2):
                trial.report(cost=trial.x + epoch)
            if epoch == 3:
                trial.report(cost=math.nan)

    found = study(tmp_path, also=ALSO, limits=["cost <= 2.5"]).optimize(objective, trials=3, epochs=5, progress="none")
    for trial in found.trials:
        expected = trial.config.x + (2 if trial.epochs > 2 else 0)
        assert trial.also == {"cost": pytest.approx(expected)}
        assert trial.broken == ([f"cost {expected:.4g}, allowed 2.5"] if expected > 2.5 else [])


def test_trials_of_which_an_objective_is_never_a_number_are_not_on_the_front(tmp_path: Path) -> None:
    def objective(trial: Trial) -> None:
        for epoch in trial.epochs():
            now = measured(trial.config, epoch + 1)
            trial.report(error=now["error"], cost=math.nan if trial.number % 3 == 0 else now["cost"])

    found = study(tmp_path, also=ALSO, limits=["cost <= 1"])
    found.optimize(objective, trials=20, epochs=EPOCHS, progress="none")
    assert found.trials[0].broken == ["cost not measured, allowed 1"] and math.isnan(found.trials[0].also["cost"])
    assert found.front() and all(t.number % 3 for t in found.front())
    assert str(found.trials[0].status) in ("done", "paused")  # it did not diverge


def test_a_goal_that_is_not_reported_ends_the_first_trial_with_what_to_do(tmp_path: Path) -> None:
    def objective(trial: Trial) -> None:
        for _ in trial.epochs():
            trial.report(error=1.0)

    with pytest.raises(TaskError, match=r"without 'cost'.*reported: error. Call trial.report\(cost="):
        study(tmp_path, also=ALSO).optimize(objective, trials=3, epochs=3, progress="none")


def at_once(trial: Trial) -> None:
    trial.report(**measured(trial.config, EPOCHS))


def test_ask_and_tell_know_the_goals(tmp_path: Path) -> None:
    handle = study(tmp_path, also=ALSO, limits=["cost <= 5"])
    for number in range(12):
        asked = handle.ask()
        if number == 0:
            with pytest.raises(StudyError, match=r"has no cost: tell\(trial, value, cost="):
                handle.tell(asked, 1.0)
        now = measured(asked.config, EPOCHS)
        handle.tell(asked, now["error"], cost=now["cost"])
    assert handle.front() and all(t.also["cost"] <= 5 for t in handle.front())
    again = study(tmp_path / "again", also=ALSO, limits=["cost <= 5"])
    again.optimize(at_once, trials=12, in_flight=1, progress="none")
    assert [t.config for t in again.trials] == [t.config for t in handle.trials]


# -- continuing ----------------------------------------------------------------------------------------------


def test_goals_may_change_where_all_trials_were_measured(tmp_path: Path) -> None:
    study(tmp_path, also=ALSO).optimize(trade_off, trials=5, epochs=EPOCHS, progress="none")
    looser = study(tmp_path, limits=["cost <= 1"])
    assert looser.goals == Goals((("cost", "minimize"),), (Limit("cost", 1.0),))
    assert "nothing -> cost <= 1" in looser.records.events(looser.record)[-1][1].message
    assert any(t.broken for t in looser.trials)
    assert study(tmp_path, also={}, limits=["cost <= 1.5"]).goals == Goals((), (Limit("cost", 1.5),))
    assert rheostat.load("s", str(tmp_path / "studies.db")).goals.limits == (Limit("cost", 1.5),)
    with pytest.raises(StudyError, match="'memory' as a goal: 5 of its 5 trials did not report it.*trial 0"):
        study(tmp_path, limits=["memory <= 1"])
    assert study(tmp_path).goals.limits == (Limit("cost", 1.5),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"also": {"cost": "down"}}, "also 'cost': Unknown direction 'down'"),
        ({"also": {"error": "minimize"}}, "tuned for already"),
        ({"limits": ["cost < 5"]}, "write METRIC <= NUMBER"),
        ({"limits": ["cost <= five"]}, "write METRIC <= NUMBER"),
        ({"limits": ["cost <= inf"]}, "write METRIC <= NUMBER"),
        ({"limits": ["cost <= 5", "cost <= 6"]}, "'cost' twice"),
        ({"limits": "cost <= 5"}, r"give a list, such as \['cost <= 5'\]"),
    ],
)
def test_goals_in_no_known_form(tmp_path: Path, changes: Any, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        study(tmp_path, **changes)


# -- what the ledger tells decisions ---------------------------------------------------------------------------


def test_decisions_see_goals_of_settled_epochs_and_copies_begin_with_their_parents() -> None:
    goals = Goals((("cost", "maximize"),), (Limit("size", 2.0),))
    ledger = Ledger("error", 1, True, goals)
    ledger.decide([Start(rheostat.Config(x=1), 2)])
    ledger.report(Report(0, 1, 1, {"error": 1.0, "cost": 3.0, "size": 1.0}))
    assert ledger.history().trials[0].also == () and ledger.latest(0).also == ((-3.0,),)
    ledger.report(Report(0, 1, 1, {"error": 9.0, "cost": 9.0}))  # told again
    ledger.report(Report(0, 2, 2, {"error": 0.5, "size": 2.5}))
    ledger.conclude(Outcome(0, Status.PAUSED, 2))
    ledger.settle_next()
    seen = ledger.history().trials[0]
    assert seen.also == ((-3.0,), (-3.0,)) and seen.excess == ((-1.0,), (0.5,)) and not seen.keeps_limits
    ledger.decide([Start(rheostat.Config(x=2), 3, parent=0)])
    assert ledger.history().trials[1].excess == seen.excess


# -- tasks that Rheostat trains --------------------------------------------------------------------------------


def a_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (160,), generator=generator)
    x = torch.randn(160, 10, generator=generator) + y[:, None]

    def network(config: rheostat.Config) -> nn.Module:
        return nn.Sequential(nn.Linear(10, config.units), nn.ReLU(), nn.Linear(config.units, 3))

    return Task(network, (x[:120], y[:120]), (x[120:], y[120:]), name="small", device="cpu")


@pytest.mark.parametrize("engine", ["loop", pytest.param("lanes", marks=pytest.mark.slow)])
def test_a_task_measures_the_number_of_its_parameters(tmp_path: Path, engine: str) -> None:
    found = rheostat.tune(
        a_task(),
        Space(lr=Float(1e-4, 1.0, log=True), units=Int(2, 64, log=True), batch_size=32),
        also={"parameters": "minimize"},
        limits=["parameters <= 500", "val_loss <= 100"],
        trials=8,
        epochs=3,
        workers=1,
        engine=engine,
        storage=tmp_path / "studies.db",
        progress="none",
    )
    for trial in found.trials:
        assert trial.also["parameters"] == 11 * trial.config.units + 3 * (trial.config.units + 1)
        assert bool(trial.broken) == (trial.also["parameters"] > 500)
    assert found.front() and all(t.also["parameters"] <= 500 for t in found.front())
    for trial in found.front():
        assert checkpoint.latest(checkpoint.trial_folder(found.checkpoints, trial.number)) is not None
    with pytest.raises(SettingError, match=r"Did you mean 'parameters'.*val_error"):
        rheostat.tune(a_task(), SPACE, also={"parameter": "minimize"}, name="t", storage=tmp_path / "studies.db")


def run(*words: str) -> str:
    ended = CliRunner().invoke(app, list(words))
    if isinstance(ended.exception, RheostatError):
        raise ended.exception
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_goals_on_the_command_line(tmp_path: Path) -> None:
    storage = ("--storage", str(tmp_path / "studies.db"))
    small = ("tune", "digits", "--trials", "6", "--epochs", "2", "--workers", "1", "--engine", "loop", *storage)
    goals = ("--also", "parameters", "--also", "examples_per_second=maximize", "--limit", "parameters <= 100000")
    shown = run(*small, *goals)
    assert "minimise val_error, minimise parameters, maximise examples_per_second, parameters <= 100000" in shown
    table = shown[shown.index("front     no other trial") :].splitlines()
    assert table[1].split() == ["trial", "val_error", "parameters", "examples_per_second", "differs", "from", "best"]
    found = json.loads(run(*small, "--json"))  # the same study
    assert found["also"] == {"parameters": "minimize", "examples_per_second": "maximize"}
    assert found["limits"] == ["parameters <= 100000"]
    assert [int(line.split()[0]) for line in table[2 : 2 + len(found["front"])]] == [f["trial"] for f in found["front"]]
    assert found["front"][0]["trial"] == found["best"]["trial"]
    assert set(found["front"][0]["values"]) == {"val_error", "parameters", "examples_per_second"}
    trials = json.loads(run("trials", found["study"], "--json", *storage))
    broken = [t["number"] for t in trials if t["broken"]]
    assert broken == [t["number"] for t in trials if t["also"]["parameters"] > 100000]
    listed = run("trials", found["study"], *storage)
    assert listed.count(", allowed 1e+05)") == len(broken) and "parameters" in listed.splitlines()[0]
    about = run("show", found["study"], *storage)
    assert "minimize parameters" in about and "parameters <= 100000" in about
    with pytest.raises(SettingError, match="write METRIC <= NUMBER"):
        run(*small, "--limit", "parameters", "--name", "other")


def test_ends_of_a_command_line_study_in_which_nothing_keeps_the_limits(tmp_path: Path) -> None:
    small = ("tune", "digits", "--trials", "3", "--epochs", "1", "--workers", "1", "--engine", "loop")
    with pytest.raises(StudyError, match=r"keeps its limits. The nearest is trial \d: parameters .*, allowed 3"):
        run(*small, "--limit", "parameters <= 3", "--storage", str(tmp_path / "studies.db"))
