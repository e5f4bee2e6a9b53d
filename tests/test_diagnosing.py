"""Diagnoses of real studies, and counterfactuals that are trials of them."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

import rheostat
from rheostat import diagnosing
from rheostat.diagnose.base import Observations
from rheostat.diagnosing import diagnose_study, improve, probe, show
from rheostat.errors import SettingError, StudyError
from rheostat.forking import train_arms
from rheostat.models.mlp import MLP
from rheostat.results import TrialResult
from rheostat.space import Float, Prior
from rheostat.study import Study
from rheostat.train import checkpoint
from rheostat.train.task import Task
from rheostat.types import Status

X = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] + 0.2 * X[:, 1] > 0).long()
TASK = Task(lambda c: MLP(6, 2, 1, c.units), (X, Y), (X[:30], Y[:30]), metric="val_loss", device="cpu")
SPACE = {"lr": Float(1e-3, 1e-1, log=True), "units": 8, "batch_size": 20, "schedule": "linear"}
ARMS = ["same", "lr_up", "lr_down", "cooldown", "larger", "other_seed"]


def a_study(folder: Path, trials: int = 3, engine: str = "loop", schedule: str = "fifo") -> Study:
    """Random search draws by the number of the decision alone."""
    return rheostat.tune(
        TASK,
        SPACE,
        name="s",
        trials=trials,
        epochs=4,
        search="auto" if schedule == "freeze-thaw" else "random",
        schedule=schedule,
        workers=1,
        engine=engine,
        storage=folder / "s.db",
        progress="none",
    )


@pytest.fixture(autouse=True)
def transparent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier of one thought, so that what is tested here does not depend on how the real one was fitted."""

    def judge(runs: Sequence[Observations], effects: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
        found = []
        for run, effect in zip(runs, effects, strict=True):
            name, p = "lr_too_low", 0.9 if effect.get("probe_lr_up", 0.0) < 0 else 0.3
            if run.status is Status.INFEASIBLE:
                name, p = "diverged", 1.0
            found.append({"healthy": 1 - p, name: p})
        return found

    monkeypatch.setattr(diagnosing, "probabilities_of", judge)


def measured(trial: TrialResult) -> list[tuple[int, float, float]]:
    return [(r.epoch, r.metrics["train_loss"], r.metrics["val_loss"]) for r in trial.reports if r.epoch_end]


# -- counterfactuals as trials -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["loop", pytest.param("lanes", marks=pytest.mark.slow)])
def test_counterfactuals_are_recorded_as_trials_and_never_the_best(tmp_path: Path, engine: str) -> None:
    study = a_study(tmp_path, engine=engine)
    before = study.trials
    worst = max(before, key=lambda t: t.value or 0.0).number
    found = probe(study, worst, TASK)
    arms = study.trials[3:]
    assert study.trials[:3] == before and study.best.number < 3
    assert [(t.number, t.source, t.parent, t.arm, t.status) for t in arms] == [
        (3 + n, "probe", worst, name, Status.DONE) for n, name in enumerate(ARMS)
    ]
    assert [[epoch for epoch, *_ in measured(t)] for t in arms] == [[5, 6]] * 4 + [[1, 2]] * 2
    rates = {t.arm: t.reports[-1].metrics["lr"] for t in arms}
    assert rates["lr_up"] == pytest.approx(9 * rates["lr_down"], rel=1e-4)
    low = {t.arm: min(loss for *_, loss in measured(t)) for t in arms}
    assert found.effects["probe_lr_up"] == pytest.approx(math.log(low["lr_up"] / low["same"]))
    assert found.effects["probe_same"] == pytest.approx(math.log(low["same"] / (before[worst].value or 0.0)))
    first = min(loss for *_, loss in measured(before[worst])[:2])
    assert found.effects["probe_larger"] == pytest.approx(math.log(low["larger"] / first))
    assert math.isnan(found.effects["probe_no_regularisation"])
    assert found.trial.number == worst and found.diagnosis.causes[0].name == "lr_too_low" and found.diagnosis.sure
    assert not any((study.checkpoints / f"{t.number:05d}").exists() for t in arms)


def test_a_study_goes_on_after_a_probe_as_if_there_had_been_none(tmp_path: Path) -> None:
    study, calm = a_study(tmp_path / "a"), a_study(tmp_path / "b", trials=6)
    probe(study, 1, TASK)
    study = a_study(tmp_path / "a", trials=6)
    own = [t for t in study.trials if not t.arm]
    assert [t.config for t in own] == [t.config for t in calm.trials]
    assert [t.number for t in own] == [0, 1, 2, 9, 10, 11]
    assert all(t.status is Status.DONE and t.epochs == 4 for t in own)
    assert study.outlook() is not None and len(study.front()) == 1


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("freeze-thaw", "median", "hyperband")]


@pytest.mark.parametrize("schedule", ["asha", "pbt", *SLOW])
def test_every_scheduler_bears_probes(tmp_path: Path, schedule: str) -> None:
    study = a_study(tmp_path, schedule=schedule)
    for trial in study.trials[:2]:
        probe(study, trial.number, TASK)
    study = a_study(tmp_path, trials=7, schedule=schedule)
    assert sum(not t.arm for t in study.trials) == 7 and study.state == "finished"


def test_what_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    first = probe(study, 0, TASK)
    trials = study.trials
    assert probe(study, 0, TASK) == first and study.trials == trials
    assert diagnose_study(study, 0) == [first]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 4, 11])
def test_an_interrupted_probe_goes_on_and_gives_the_same(tmp_path: Path, after: int) -> None:
    study, calm = a_study(tmp_path / "a"), a_study(tmp_path / "b")
    told: list[float] = []

    def dies(share: float) -> None:
        told.append(share)
        if len(told) == after:
            raise Killed

    with pytest.raises(Killed):
        train_arms(study, 1, TASK, dies)
    study = a_study(tmp_path / "a", trials=4)  # the study may go on in between, and does not take the probe up
    assert len([t for t in study.trials if not t.arm]) == 4
    probe(study, 1, TASK)
    probe(calm, 1, TASK)
    killed, whole = ([t for t in s.trials if t.arm] for s in (study, calm))
    assert [(t.number, t.arm, t.status) for t in killed] == [(t.number, t.arm, t.status) for t in whole]
    assert [measured(t) for t in killed if t.arm != "other_seed"] == [
        measured(t) for t in whole if t.arm != "other_seed"
    ]


def test_a_trial_without_its_checkpoint_is_trained_there_again(tmp_path: Path) -> None:
    study, calm = a_study(tmp_path / "a"), a_study(tmp_path / "b")
    shutil.rmtree(checkpoint.trial_folder(study.checkpoints, 2))
    before = study.trials
    assert probe(study, 2, TASK).effects == pytest.approx(probe(calm, 2, TASK).effects, nan_ok=True, abs=0.0)
    assert study.trials[:3] == before


def test_a_trial_that_diverged_at_once_is_begun_in_other_ways(tmp_path: Path) -> None:
    study = Study("s", {**SPACE, "lr": Float(1e30, 1e31), "optimizer": "sgd"}, storage=tmp_path / "s.db")
    study.train(TASK, trials=1, epochs=4, schedule="fifo", workers=1, engine="loop", progress="none")
    assert study.trials[0].status is Status.INFEASIBLE
    found = probe(study, 0, TASK)
    assert {t.arm for t in study.trials if t.status is Status.INFEASIBLE and t.arm} >= {"same", "lr_up"}
    assert found.answer == "diverged" and not found.effects  # all arms diverged too, and so did the trial


def test_what_cannot_be_probed_is_said(tmp_path: Path) -> None:
    study = a_study(tmp_path, trials=1)
    probe(study, 0, TASK)
    with pytest.raises(StudyError, match="Trial 2 is itself a probe of trial 0"):
        probe(study, 2, TASK)
    with pytest.raises(StudyError, match="trial 99"):
        probe(study, 99, TASK)
    by_hand = Study("h", {"lr": Float(0.1, 1.0)}, storage=tmp_path / "s.db")
    by_hand.tell(by_hand.ask(), 0.5)
    with pytest.raises(StudyError, match="not trained by Rheostat"):
        probe(by_hand, 0, TASK)


# -- within tune ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "probed", "tried"), [(0.3, 0, 0), (0.4, 1, 0), (0.5, 1, 1)])
def test_tune_spends_no_more_than_a_share_on_finding_out(tmp_path: Path, share: float, probed: int, tried: int) -> None:
    """Ten trials of four epochs: 12, 16 or 20 epochs, of which a probe takes 14 at most, and a trial 4."""
    study = rheostat.tune(
        TASK,
        {**SPACE, "lr": Float(1e-5, 1.0, log=True, prior=Prior(1e-4, 0.99)), "schedule": "constant"},
        name="d",
        trials=10,
        epochs=4,
        diagnose=share,
        search="random",
        schedule="fifo",
        workers=1,
        engine="loop",
        storage=tmp_path / "s.db",
        progress="none",
    )
    arms = [t for t in study.trials if t.arm]
    own = [t for t in study.trials if not t.arm]
    queued = [t for t in own if t.source == "enqueue"]
    assert (len({t.parent for t in arms}), len(queued)) == (probed, tried) and len(own) == 10 + tried
    assert sum(t.epochs for t in [*arms, *queued]) <= share * 40
    assert all(t.status is Status.DONE for t in study.trials)
    best = min(own[:10], key=lambda t: t.value or 0.0)
    assert {t.parent for t in arms} <= {best.number}
    assert [t.config.lr > best.config.lr for t in queued] == [True] * tried
    trials = study.trials
    assert improve(study, TASK, share) == [] and study.trials == trials  # the share is spent


def test_a_share_is_between_nothing_and_all(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"diagnose=1.5: give a share"):
        improve(a_study(tmp_path), TASK, 1.5)


# -- reading -------------------------------------------------------------------------------------------------


def test_all_trials_but_probes_are_diagnosed_from_the_records(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    probe(study, 1, TASK)
    found = diagnose_study(study)
    assert [one.trial.number for one in found] == [0, 1, 2]
    assert [bool(one.effects) for one in found] == [False, True, False]
    assert found[1] == diagnose_study(study, 1)[0]
    assert all(one.trial.value == t.value for one, t in zip(found, study.trials, strict=False))
    with pytest.raises(StudyError, match="Trial 3 is a probe of trial 1"):
        diagnose_study(study, 3)
    with pytest.raises(StudyError, match="no trial 77: it has trials 0 to 8"):
        diagnose_study(study, 77)


def test_a_user_loops_reports_are_enough(tmp_path: Path) -> None:
    study = Study("own", {"lr": Float(0.1, 1.0)}, metric="loss", storage=tmp_path / "s.db")
    study.optimize(lambda trial: [trial.report(loss=1 / e) for e in range(1, 6)][-1], trials=2, progress="none")
    assert [one.trial.epochs for one in diagnose_study(study)] == [5, 5]


def test_the_command_tells_of_a_study_and_of_a_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = a_study(tmp_path)
    show("s", None, False, tmp_path / "s.db", False)
    out = capsys.readouterr().out
    assert out.startswith("s  minimize val_loss  3 trials") and f"the best, trial {study.best.number}" in out
    assert ("nothing wrong" in out or "unsure" in out) and "\x1b" not in out
    show("s", 1, False, tmp_path / "s.db", False)
    out = capsys.readouterr().out
    assert out.startswith("trial 1 of s") and "30%  Learning rate too low" in out and "70%  Nothing wrong" in out
    assert re.search(r"\n +do +Multiply the learning rate", out)
    probe(study, 1, TASK)
    show("s", 1, False, tmp_path / "s.db", False)
    assert re.search(r"lr x3 +\S+ (lower|higher) than as it was", capsys.readouterr().out)


def test_an_empty_study_is_said_to_be_empty(tmp_path: Path) -> None:
    Study("e", {"lr": Float(0.1, 1.0)}, storage=tmp_path / "s.db")
    with pytest.raises(StudyError, match="no trials yet"):
        show("e", None, False, tmp_path / "s.db", False)


def test_json_is_what_the_documentation_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = a_study(tmp_path)
    probe(study, 0, TASK)
    show("s", 0, False, tmp_path / "s.db", True)
    one = json.loads(capsys.readouterr().out)
    show("s", None, False, tmp_path / "s.db", True)
    whole = json.loads(capsys.readouterr().out)
    assert whole["trials"][0] == one and len(whole["trials"]) == 3 and sum(whole["counts"].values()) == 3
    page = (Path(__file__).parents[1] / "docs" / "json.md").read_text(encoding="utf-8")
    documented = json.loads(re.sub(r", \.\.\.", "", re.findall(r"```\n(\{\"trial\": 7.*?)```", page, re.DOTALL)[0]))
    assert documented.keys() == one.keys()
    assert documented["causes"][0].keys() == one["causes"][0].keys()
    assert documented["causes"][0]["advice"].keys() == one["causes"][0]["advice"].keys()
    assert documented["effects"].keys() <= one["effects"].keys()
    assert all(f"`{name}`" in page for name in whole)
