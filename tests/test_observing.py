"""rheostat.observe in a loop of one's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import rheostat
from rheostat import Float, Space, Study
from rheostat.diagnose.classifier import FILE
from rheostat.errors import SettingError

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randint(3, (300,), generator=GENERATOR)
X = torch.randn(300, 6, generator=GENERATOR) + Y[:, None]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seen: rheostat.observing.Watch | None) -> None:
    for _ in range(6):
        model.train()
        for rows in torch.arange(240).split(24):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X[rows]), Y[rows])
            loss.backward()
            if seen is not None:
                seen.loss(loss)
            optimizer.step()
        model.eval()
        with torch.no_grad():
            val_loss = float(F.cross_entropy(model(X[240:]), Y[240:]))
        if seen is not None:
            seen.epoch(train_loss=loss.item(), val_loss=val_loss)


def test_any_loop_is_observed_and_trains_as_without() -> None:
    model, twin = network(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with rheostat.observe(model, optimizer, batch_size=24, optimizer_name="sgd") as seen:
        train(model, optimizer, seen)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.1), None)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    run = seen.observations
    assert run.epochs == 6 and list(run.first) == [0, 1, 2, 4, 8]
    assert list(run.layers["update_ratio"]) == ["0", "2"] and list(run.layers["dead"]) == ["0"]
    assert run.curves["lr"].tolist() == [0.1] * 6
    first = run.layers["gradient_norm"]["0"]
    assert math.isfinite(first[0]) and "batch_loss_sd" in run.curves
    assert not model._forward_hooks and not model._forward_pre_hooks  # nothing stays behind
    optimizer.step()
    assert seen.observations.epochs == 6


def test_a_pass_that_raises_leaves_nothing_behind() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with rheostat.observe(model, optimizer) as seen:
        with pytest.raises(RuntimeError):
            model(torch.zeros(2, 5))
        model(X).sum().backward()
        optimizer.step()
    seen.epoch(val_loss=1.0)
    assert "0" in seen.observations.layers["dead"]
    assert not torch.overrides._get_current_function_mode_stack()


def test_metrics_that_are_no_numbers_are_refused() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with rheostat.observe(model, optimizer) as seen, pytest.raises(SettingError, match="give numbers"):
        seen.epoch(val_loss="low")  # type: ignore[arg-type]


@pytest.mark.skipif(not FILE.exists(), reason="the classifier is not fitted")
def test_it_goes_into_a_study_and_is_diagnosed(tmp_path: Path) -> None:
    def objective(trial: rheostat.Trial) -> None:
        model = network(trial.seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=trial.lr)
        with rheostat.observe(model, optimizer, lr=trial.lr) as seen:
            for _ in trial.epochs(3, model=model, optimizer=optimizer):
                loss = F.cross_entropy(model(X), Y)
                loss.backward()
                optimizer.step()
                trial.report(**seen.epoch(val_loss=loss.item()))
        assert seen.diagnose().verdict

    study = Study("own", Space(lr=Float(1e-3, 1e-1, log=True)), metric="val_loss", storage=tmp_path / "s.db")
    study.optimize(objective, trials=2, progress="none")
    assert any(name.startswith("update_ratio/") for name in study.trials[0].reports[0].metrics)
