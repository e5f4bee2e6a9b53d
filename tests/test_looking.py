"""What is shown of a trial's network, from a study as a user has one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rheostat
from rheostat.looking import layers, network_json, show_network, train_again
from rheostat.models.mlp import MLP
from rheostat.space import Float
from rheostat.study import Study
from rheostat.train.network import total
from rheostat.train.task import Task

X = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
TASK = Task(lambda c: MLP(6, 2, 1, 8), (X, Y), (X[:30], Y[:30]), device="cpu")
SPACE = {"lr": Float(1e-3, 1e-1, log=True), "batch_size": "full", "optimizer": "adam"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return rheostat.tune(
        TASK, SPACE, name="s", trials=4, epochs=4, workers=1, engine="loop", storage=tmp_path / "s.db", progress="none"
    )


def test_a_trial_is_shown_with_its_costs(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    show_network(study, study.trials[1], TASK)
    out = capsys.readouterr().out
    assert "hidden.0.linear" in out and "a batch of 80 holds 296 B" in out and "again" not in out
    cost = total(layers(study, study.trials[1], TASK))
    assert cost.parameters == 74 and cost.optimizer_bytes >= 2 * 4 * 74  # Adam's two moments


def test_every_trial_of_a_study_comes_out_as_it_did(study: Study) -> None:
    """Those that a scheduler paused and continued too."""
    for trial in study.trials:
        played = train_again(study, trial, TASK, trial.epochs)
        assert (played.compared, played.difference) == (trial.epochs, 0.0)


def test_training_again_is_shown_and_drawn(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = study.trials
    show_network(study, study.best.trial, TASK, epochs=2, folder=tmp_path / "figures")
    out = capsys.readouterr().out
    assert "again for 2 epochs" in out and "same bit for bit" in out and "update / weights" in out
    page = tmp_path / "figures" / f"s-{study.best.number}-network.html"
    assert str(page) in out and "after 2 epochs" in page.read_text()
    assert study.trials == before  # nothing is written to the study


def test_without_training_again_the_kept_weights_are_drawn(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_network(study, study.best.trial, TASK, folder=tmp_path)
    page = tmp_path / f"s-{study.best.number}-network.html"
    assert f"after its best epoch, {study.best.epoch}" in page.read_text()
    shutil.rmtree(study.checkpoints)
    show_network(study, study.best.trial, TASK, folder=tmp_path)
    assert "untrained" in page.read_text()


def test_json_has_the_layers_and_the_moments(study: Study) -> None:
    found = json.loads(json.dumps(network_json(study, study.trials[0], TASK, epochs=1)))
    assert [layer["name"] for layer in found["layers"]][-1] == "output"
    assert found["layers"][0]["cost"]["multiply_adds"] == 48
    assert found["replay"] == {"compared": 1, "difference": 0.0, "reason": ""}
    assert [moment["epoch"] for moment in found["moments"]] == [0, 1]
    assert "moments" not in network_json(study, study.trials[0], TASK)


def test_a_task_whose_data_come_by_a_loader_is_understood(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=16)
    show_network(study, study.trials[0], replace(TASK, train=loader, validation=loader))
    assert "a batch of 16 holds" in capsys.readouterr().out
