"""The user's handle: optimize, ask and tell, continuing, results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rheostat
from rheostat import Choice, Float, Int, Space, Study
from rheostat.errors import RheostatError, SettingError, StudyError

SPACE = Space(x=Float(-1, 1), kind=Choice(["a", "b"]), n=Int(1, 9))


def study(folder: Path, **changes: Any) -> Study:
    arguments = {"name": "s", "space": SPACE, "metric": "loss", "storage": folder / "studies.db", "seed": 5, **changes}
    return Study(**arguments)


def quadratic(trial: rheostat.Trial) -> float:
    return float(trial.x**2 + (trial.kind == "b"))


def test_optimize_finds_and_continues(tmp_path: Path) -> None:
    first = study(tmp_path).optimize(quadratic, trials=10, progress="none")
    assert len(first.trials) == 10 and first.best.value == min(t.value for t in first.trials if t.value is not None)
    assert first.best.config.kind == "a" and first.best.epoch == 1
    again = study(tmp_path).optimize(quadratic, trials=25, progress="none")
    whole = study(tmp_path / "whole").optimize(quadratic, trials=25, progress="none")
    assert [t.config for t in again.trials] == [t.config for t in whole.trials]
    assert [t.value for t in again.trials] == [t.value for t in whole.trials]
    assert rheostat.load("s", str(tmp_path / "studies.db")).best.config == again.best.config


def test_a_metric_may_be_maximised(tmp_path: Path) -> None:
    found = study(tmp_path, direction="maximize").optimize(quadratic, trials=20, progress="none")
    assert found.best.value == max(t.value for t in found.trials if t.value is not None)


@pytest.mark.parametrize("schedule", ["asha", "hyperband", "median", "fifo"])
def test_every_schedule_runs_an_own_loop(tmp_path: Path, schedule: str) -> None:
    def objective(trial: rheostat.Trial) -> None:
        model = nn.Linear(1, 1)
        for epoch in trial.epochs(model=model):
            trial.report(loss=trial.x**2 + 1 / (1 + epoch))

    found = study(tmp_path).optimize(objective, trials=12, epochs=9, schedule=schedule, progress="none")
    assert len(found.trials) == 12 and max(t.epochs for t in found.trials) == 9
    best = found.best
    assert best.epoch == best.trial.epochs == 9
    assert best.load(lambda config: nn.Linear(1, 1)).weight.shape == (1, 1)
    assert best.trial.curve("loss") == sorted(best.trial.curve("loss"), reverse=True)


def test_ask_and_tell(tmp_path: Path) -> None:
    handle = study(tmp_path)
    asked = [handle.ask() for _ in range(4)]
    assert [a.number for a in asked] == [0, 1, 2, 3] and len({a.config for a in asked}) == 4
    handle.tell(asked[0], 0.5)
    handle.tell(asked[1], 0.9, epoch=1)
    handle.tell(asked[1], 0.4, epoch=2)
    handle.tell(asked[1])
    handle.tell(asked[2], status="infeasible", reason="too wide")
    handle.tell(asked[3], float("nan"))
    assert [str(t.status) for t in handle.trials] == ["done", "done", "infeasible", "infeasible"]
    assert handle.best.number == 1 and handle.best.epoch == 2
    for wrong in (asked[0], 17):
        with pytest.raises(StudyError, match="not waiting"):
            handle.tell(wrong, 1.0)
    with pytest.raises(StudyError, match="has no loss"):
        handle.tell(handle.ask())
    with pytest.raises(SettingError, match="Unknown status"):
        handle.tell(4, 1.0, status="well")


def test_what_is_asked_is_what_optimize_would_try(tmp_path: Path) -> None:
    asked = [study(tmp_path / "ask").ask().config for _ in range(5)]
    tried = study(tmp_path / "opt").optimize(quadratic, trials=5, progress="none").trials
    assert asked == [t.config for t in tried]


ASK = """
import sys
import rheostat
study = rheostat.load("s", sys.argv[1])
for _ in range(20):
    trial = study.ask()
    study.tell(trial, trial.config.x ** 2)
"""


def test_several_processes_ask_and_tell_at_once(tmp_path: Path) -> None:
    handle = study(tmp_path)
    command = [sys.executable, "-c", ASK, str(tmp_path / "studies.db")]
    others = [subprocess.Popen(command) for _ in range(3)]
    assert [other.wait() for other in others] == [0, 0, 0]
    assert len(handle.trials) == 60 and {str(t.status) for t in handle.trials} == {"done"}
    assert all(t.value == pytest.approx(t.config.x**2) for t in handle.trials)
    assert len({t.config for t in handle.trials}) == 60


def test_asked_trials_and_optimize_share_a_study(tmp_path: Path) -> None:
    handle = study(tmp_path)
    asked = handle.ask()
    handle.optimize(quadratic, trials=6, progress="none")  # leaves alone what somebody else trains
    assert [str(t.status) for t in handle.trials] == ["training", *["done"] * 5]
    handle.tell(asked, 0.1)
    assert {str(t.status) for t in handle.trials} == {"done"} and len(handle.trials) == 6


def test_enqueue_is_checked_and_tried_next(tmp_path: Path) -> None:
    handle = study(tmp_path)
    handle.enqueue({"x": 0.25, "kind": "b", "n": 2})
    handle.enqueue({"x": 0.5, "kind": "b", "n": 2})
    with pytest.raises(RheostatError, match="Did you mean 'kind'"):
        handle.enqueue({"x": 0.5, "kin": "b", "n": 2})
    assert handle.ask().config.x == 0.25
    handle.tell(0, 1.0)
    assert handle.optimize(quadratic, trials=3, progress="none").trials[1].config.x == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric": "error"}, "metric: loss -> error"),
        ({"direction": "maximize"}, "direction: minimize -> maximize"),
        ({"seed": 6}, "seed: 5 -> 6"),
        ({"space": Space(SPACE.tuned, m=Float(0, 1))}, "m: absent -> float 0 to 1"),
        ({"space": Space(x=Float(-1, 1), kind="a", n=Int(1, 9))}, "kind: one of .* -> fixed to 'a'"),
        ({"data_fingerprint": "other"}, "data: abc -> other"),
        ({"load_if_exists": False}, "exists already"),
    ],
)
def test_an_incompatible_continuation_prints_the_difference(tmp_path: Path, changes: Any, words: str) -> None:
    study(tmp_path, data_fingerprint="abc").optimize(quadratic, trials=3, progress="none")
    with pytest.raises(StudyError, match=words):
        study(tmp_path, **changes)
    assert len(study(tmp_path).trials) == 3


def test_a_wider_space_keeps_every_trial_and_says_so(tmp_path: Path) -> None:
    study(tmp_path).optimize(quadratic, trials=5, progress="none")
    wide = Space(x=Float(-2, 2), kind=Choice(["a", "b", "c"]), n=Int(1, 9))
    again = study(tmp_path, space=wide).optimize(quadratic, trials=30, progress="none")
    assert len(again.trials) == 30 and any(abs(t.config.x) > 1 for t in again.trials[5:])
    notices = [notice for _, notice in again.records.events(again.record)]
    assert any("the space changed" in n.message and "x: float -1 to 1 -> float -2 to 2" in n.message for n in notices)


def test_other_epochs_or_threads_are_refused(tmp_path: Path) -> None:
    study(tmp_path).optimize(quadratic, trials=2, epochs=3, schedule="fifo", progress="none")
    with pytest.raises(StudyError, match="epochs = 3 and cannot be continued with 4"):
        study(tmp_path).optimize(quadratic, trials=3, epochs=4, schedule="fifo", progress="none")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trials": 0}, "trials=0"),
        ({"trials": -3}, "trials=-3"),
        ({"minutes": float("nan")}, "minutes=nan"),
        ({"workers": 0}, "workers=0"),
        ({"schedule": "ahsa", "epochs": 3}, "Did you mean 'asha'"),
        ({"search": "sobl"}, "Did you mean 'sobol'"),
        ({"schedule": "asha"}, "give epochs="),
        ({"in_flight": 0}, "in_flight=0"),
    ],
)
def test_wrong_settings_are_refused_in_words(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        study(tmp_path).optimize(quadratic, progress="none", **{"trials": 3, **settings})


@pytest.mark.parametrize("name", ["", "a/b", ".hidden"])
def test_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match="give a name"):
        study(tmp_path, name=name)


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="No studies at"):
        rheostat.load("s", str(tmp_path / "none.db"))
    study(tmp_path)
    with pytest.raises(StudyError, match="Did you mean 's'|Known: s"):
        rheostat.load("ss", str(tmp_path / "studies.db"))
    with pytest.raises(StudyError, match="no result yet"):
        _ = study(tmp_path).best


def test_the_best_network_is_loaded_with_its_best_weights(tmp_path: Path) -> None:
    x = torch.randn(200, 4)
    y = (x[:, 0] > 0).long()
    task = rheostat.Task(lambda config: nn.Linear(4, 2), (x[:150], y[:150]), (x[150:], y[150:]), name="t")
    found = rheostat.tune(
        task,
        Space(lr=Float(1e-3, 1, log=True)),
        trials=4,
        epochs=3,
        workers=1,
        progress="none",
        storage=tmp_path / "s.db",
    )
    model = found.best.load()
    error = float((model(x[150:]).argmax(1) != y[150:]).float().mean())
    assert error == pytest.approx(found.best.value) and not model.training
    with pytest.raises(StudyError, match=r"best.load\(build_model\)"):
        rheostat.load("t", str(tmp_path / "s.db")).best.load()


def test_a_grid_ends_when_it_is_used_up(tmp_path: Path) -> None:
    found = study(tmp_path, space=Space(x=Choice([1, 2, 3]), kind="a")).optimize(
        lambda trial: float(trial.x), search="grid", trials=50, progress="none"
    )
    assert sorted(t.config.x for t in found.trials) == [1, 2, 3]


def test_the_seed_fixes_the_configurations(tmp_path: Path) -> None:
    def configs(folder: str, seed: int, search: str) -> list[Any]:
        found = study(tmp_path / folder, seed=seed).optimize(quadratic, trials=6, search=search, progress="none")
        return [t.config for t in found.trials]

    for search in ("sobol", "random"):
        assert configs(f"{search}1", 1, search) == configs(f"{search}1b", 1, search)
        assert configs(f"{search}1", 1, search) != configs(f"{search}2", 2, search)
    assert np.isfinite(study(tmp_path / "sobol1", seed=1).best.value)
