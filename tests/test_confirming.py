"""Confirmation: what is repeated, what is said of it, and that it goes on where it was cut off."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rheostat
from rheostat import Choice, Float, Study, Task
from rheostat.confirming import CONFIRMED, DIVERGED, TIED, UNFINISHED, Confirmation, confirm
from rheostat.errors import SettingError, StudyError
from rheostat.train.task import evaluate
from tests.test_bad_inputs import TASK, Run, run  # noqa: F401 - a fixture


def noisy(trial: rheostat.Trial) -> float:
    """Its mean is x, with noise of 0.1 between seeds."""
    return float(trial.x + 0.1 * np.random.default_rng(trial.seed).standard_normal())


def tuned(folder: Path, xs: list[float], objective: Any = noisy, **changes: Any) -> Study:
    """A study that has tried these values of x."""
    arguments = {"metric": "loss", "storage": folder / "studies.db", "seed": 3, **changes}
    study = Study("s", {"x": Choice(xs)}, **arguments)
    for x in xs:
        study.enqueue({"x": x})
    return study.optimize(objective, trials=len(xs), epochs=1, schedule="fifo", progress="none")


def numbers(found: Confirmation) -> list[Any]:
    return [found.verdict, *((one.trial, one.repeats, one.dropped) for one in found.finalists)]


def test_a_winner_is_confirmed_with_what_its_single_run_owed_to_luck(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.0, 2.0, 4.0, 6.0])
    found = confirm(study, noisy, share=4.0, progress="none")
    assert found.verdict == CONFIRMED and found.best.config == {"x": 0.0} and len(found.best.repeats) == 5
    assert [one.config["x"] for one in found.finalists] == [0.0, 2.0, 4.0, 6.0]
    assert [one.dropped for one in found.finalists] == [None, 3, 3, 3]
    best, values = found.best, np.array(found.best.repeats)
    half = 2.776 * values.std(ddof=1) / math.sqrt(5)  # Student's t with 4 degrees of freedom, from a table
    assert best.estimate.value == pytest.approx(values.mean())
    assert (best.estimate.low, best.estimate.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), rel=1e-3
    )
    assert best.value == study.best.value and best.optimism == pytest.approx(values.mean() - best.value)
    assert len(set(best.repeats)) == 5 and best.value not in best.repeats  # with seeds of their own
    assert (
        found.words()[0].startswith("Confirmed: trial 0's configuration, loss ") and "over 5 seeds" in found.words()[0]
    )
    assert found.trained == 4 * 3 + 2 <= found.budget == 16


def test_equal_configurations_are_tied(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.0, 1e-9, 2e-9])
    found = confirm(study, noisy, share=10, progress="none")
    assert found.verdict == TIED and found.best.dropped is None
    assert found.words()[0].startswith("Tied: the configurations of trials ")
    assert all(f" {one.trial}" in found.words()[0] for one in found.tied)
    assert found.best.optimism == pytest.approx(np.mean(found.best.repeats) - found.best.value)


def test_what_is_maximised_reads_in_the_users_direction(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.0, 2.0, 4.0], direction="maximize")
    found = confirm(study, noisy, share=4.0, progress="none")
    best = found.best
    assert best.config == {"x": 4.0} and best.estimate.low < best.estimate.value < best.estimate.high
    assert best.optimism == pytest.approx(best.value - np.mean(best.repeats))


def test_the_budget_bounds_who_takes_part(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.01 * i for i in range(10)])
    assert len(confirm(study, noisy, share=0.1, progress="none").finalists) == 2  # never fewer than two, three times
    found = confirm(study, noisy, share=0.9, progress="none")
    assert len(found.finalists) == 3 and found.trained == 9 == found.budget
    assert [one.trial for one in found.finalists] != [0, 1, 2] or found.best.trial == 0


def test_a_configuration_takes_part_once_and_a_lone_one_is_repeated(tmp_path: Path) -> None:
    study = tuned(tmp_path, [1.0, 2.0])
    study.enqueue({"x": 1.0})
    study.optimize(noisy, trials=3, epochs=1, progress="none")
    found = confirm(study, noisy, finalists=1, progress="none")
    assert [one.config for one in found.finalists] == [{"x": 1.0}] and len(found.best.repeats) == 5
    assert found.best.trial == study.best.number and found.verdict == CONFIRMED
    assert len(confirm(study, noisy, progress="none").finalists) == 2


def test_the_study_itself_is_left_as_it_was(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.0, 0.1, 0.2])
    before = [(t.config, t.value) for t in study.trials]
    found = confirm(study, noisy, progress="none")
    assert [(t.config, t.value) for t in Study.load("s", tmp_path / "studies.db").trials] == before
    beside = Study.load(found.repeats_in, tmp_path / "studies.db")
    assert sorted(t.value for t in beside.trials) == sorted(v for one in found.finalists for v in one.repeats)


def test_nothing_is_trained_twice_and_a_larger_share_goes_on(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.0, 0.02, 0.04])
    first = confirm(study, noisy, share=2, progress="none")

    def never(trial: rheostat.Trial) -> float:
        raise AssertionError("it was trained again")

    assert numbers(confirm(study, never, share=2, progress="none")) == numbers(first)
    more = confirm(study, noisy, share=5, progress="none")
    assert more.trained > first.trained
    kept = {one.trial: one.repeats for one in first.finalists}
    assert all(one.repeats[: len(kept[one.trial])] == kept[one.trial] for one in more.finalists if one.trial in kept)


def test_a_race_that_was_cancelled_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    calm = confirm(tuned(tmp_path / "calm", [0.0, 0.02, 0.5]), noisy, share=6, progress="none")
    storage, calls = tmp_path / "studies.db", 0

    def cancelled(trial: rheostat.Trial) -> float:
        nonlocal calls
        calls += 1
        if calls % 4 == 0:
            other = Study.load("s-repeats", storage)
            other.records.send(other.record, "cancel")
            other.records.close()
            time.sleep(0.3)  # for the session to look
        return noisy(trial)

    study, seen = tuned(tmp_path, [0.0, 0.02, 0.5]), []
    while not seen or seen[-1].verdict == UNFINISHED:
        seen.append(confirm(study, cancelled, share=6, progress="none"))
        assert len(seen) < 20
    assert len(seen) > 1 and "Not confirmed yet: stopped after" in seen[0].words()[0]
    assert numbers(seen[-1]) == numbers(calm)


def test_repeats_that_diverge_are_told(tmp_path: Path) -> None:
    def diverges(trial: rheostat.Trial) -> float:
        return math.nan if trial.seed % 2 else noisy(trial)

    study = tuned(tmp_path, [0.0, 0.1])
    found = confirm(study, diverges, share=5, progress="none")
    assert sum(one.diverged for one in found.finalists) > 0
    one = next(one for one in found.finalists if one.diverged)
    assert one.estimate.value == pytest.approx(np.nanmean(one.repeats))
    assert f"{one.diverged} more diverged" in " ".join(found.words()) or one.dropped is None
    other = tuned(tmp_path / "all", [0.0, 0.1])
    lost = confirm(other, lambda trial: math.nan, progress="none")
    assert lost.verdict == DIVERGED and lost.words() == [
        "Not confirmed: all 3 repeats of trial 0's configuration diverged."
    ]
    json.dumps(lost.describe())


def test_what_cannot_be_confirmed_is_said(tmp_path: Path) -> None:
    study = tuned(tmp_path, [0.0, 1.0])
    for wrong in ({"share": 0.0}, {"share": math.nan}, {"finalists": 0}, {"level": 1.0}):
        with pytest.raises(SettingError):
            confirm(study, noisy, **wrong)
    with pytest.raises(StudyError, match="by hand"):
        confirm(Study("asked", {"x": Float(0, 1)}, storage=tmp_path / "studies.db"), noisy)
    with pytest.raises(StudyError, match="no result yet"):
        confirm(tuned(tmp_path / "none", [0.0], lambda trial: math.nan), noisy)

    def steps(trial: rheostat.Trial) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            trial.report(loss=trial.lr / (1 + epoch))

    grown = Study("grown", {"lr": Float(0.1, 1)}, metric="loss", storage=tmp_path / "studies.db")
    grown.optimize(steps, trials=4, epochs=4, schedule="pbt", progress="none")
    with pytest.raises(StudyError, match="on the way"):
        confirm(grown, steps)


# -- with a task ---------------------------------------------------------------------------------------------


def a_task() -> Task:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (900,), generator=generator)
    x = torch.randn(900, 6, generator=generator) + 0.7 * y[:, None]

    def network(config: rheostat.Config) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    parts = [(x[a:b], y[a:b]) for a, b in ((0, 500), (500, 700), (700, 900))]
    return Task(network, parts[0], parts[1], test=parts[2], name="small", device="cpu")


SMALL: dict[str, Any] = {"trials": 6, "epochs": 3, "engine": "loop", "progress": "none"}


def tune_small(folder: Path, workers: int = 1, **changes: Any) -> Study:
    space = {"lr": Float(1e-3, 0.1, log=True), "batch_size": 32}
    return rheostat.tune(a_task(), space, storage=folder / "studies.db", workers=workers, **{**SMALL, **changes})


def test_held_out_data_judge_the_repeats(tmp_path: Path) -> None:
    study = tune_small(tmp_path, confirm=True)
    task = a_task()
    found = confirm(study, task, workers=1, progress="none")  # read, not trained
    assert found.best.test is not None and len(found.best.tests) == len(found.best.repeats)
    beside = Study.load(found.repeats_in, tmp_path / "studies.db")
    best, one = beside.best.trial, next(one for one in found.finalists if one.config == beside.best.config)
    measured = evaluate(task, beside.best.load(task.model), task.test, torch.device("cpu"))["error"]
    assert one.tests[[t.number for t in beside.trials if t.config == best.config].index(best.number)] == measured
    described = found.describe()["finalists"][0]
    assert described["test"]["mean"] == pytest.approx(np.mean(found.best.tests))
    assert described["test_optimism"] == pytest.approx(np.mean(found.best.tests) - found.best.value)
    assert any(line.startswith("On held-out data: error ") for line in found.words())


def test_rates_far_beyond_the_noise_of_their_examples_take_no_part(tmp_path: Path) -> None:
    space = {"lr": Choice([0.03, 1e-7]), "batch_size": 32}
    study = rheostat.tune(
        a_task(),
        space,
        storage=tmp_path / "studies.db",
        workers=1,
        first=[{"lr": 0.03}, {"lr": 1e-7}],
        **{**SMALL, "trials": 2},
    )
    values = sorted(t.value for t in study.trials if t.value is not None)
    assert values[1] - values[0] > 0.25
    found = confirm(study, a_task(), share=5, workers=1, progress="none")
    assert [one.config["lr"] for one in found.finalists] == [0.03] and len(found.best.repeats) == 5


def test_the_command_confirms_and_says_so_in_json(run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "t.py").write_text(TASK)
    command = ("tune", "t.py", "--trials", "4", "--epochs", "2", "--workers", "1")
    code, out, err = run(*command, "--confirm", "--json")
    assert code == 0 and "Confirming" in err
    found = json.loads(out)["confirmation"]
    assert list(found) == ["verdict", "trial", "repeats_in", "level", "trained", "budget", "finalists"]
    assert found["verdict"] in (CONFIRMED, TIED) and found["repeats_in"] == "t-repeats"
    assert found["trial"] == found["finalists"][0]["trial"]
    code, out, _ = run(*command, "--confirm")
    assert code == 0 and ("Confirmed: trial" in out or "Tied: " in out)
    assert "confirmation" not in json.loads(run(*command, "--json")[1])


# -- workers, and kill -9 ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_any_number_of_workers_confirms_the_same(tmp_path: Path) -> None:
    found = []
    for workers in (1, 2):
        study = tune_small(tmp_path / str(workers))
        found.append(confirm(study, a_task(), share=2, workers=workers, progress="none"))
    assert numbers(found[0]) == numbers(found[1]) and found[0].best.tests == found[1].best.tests


@pytest.mark.slow
def test_a_confirmation_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    calm = confirm(tune_small(tmp_path / "calm"), a_task(), share=4, workers=1, progress="none")
    study, chance, kills = tune_small(tmp_path / "killed"), random.Random(0), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, __file__, str(tmp_path / "killed")])
        while process.poll() is None and not _has_more(tmp_path / "killed", kills):
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills > 1
    assert numbers(confirm(study, a_task(), share=4, workers=1, progress="none")) == numbers(calm)


def _has_more(folder: Path, kills: int) -> bool:
    """Whether the repeats have begun, and got further since the last kill."""
    try:
        beside = Study.load("small-repeats", folder / "studies.db")
    except StudyError:
        return False
    count = len(beside.trials)
    beside.records.close()
    return count > 3 * kills


if __name__ == "__main__":
    confirm(Study.load("small", Path(sys.argv[1]) / "studies.db"), a_task(), share=4, workers=1, progress="none")
