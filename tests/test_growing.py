"""Growing a width while that helps, then regularising."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rheostat import Config, Space, Task
from rheostat.errors import SettingError
from rheostat.growing import Growth, grow

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
Y = X.square().sum(1, keepdim=True)  # takes more than a few units


def network(config: Config) -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, config.get("units", 4)),
        nn.ReLU(),
        nn.Dropout(config.get("dropout", 0.0)),
        nn.Linear(config.get("units", 4), 1),
    )


TASK = Task(network, (X[:150], Y[:150]), (X[150:], Y[150:]), loss="mse", metrics=("rmse",), name="bowl", device="cpu")


def grown(folder: Path, **changes: Any) -> Growth:
    settings: dict[str, Any] = {"trials": 1, "epochs": 3, "seeds": 3, "workers": 1, "engine": "loop", "seed": 1}
    space = changes.pop("space", Space(lr=0.02, batch_size=10))
    task = changes.pop("task", TASK)
    return grow(task, space, storage=folder / "s.db", tell=lambda line: None, **{**settings, **changes})


def test_it_grows_while_that_helps_then_regularises(tmp_path: Path) -> None:
    growth = grown(tmp_path, start=1, factor=8, most=4096, task=replace(TASK, test=(X, Y)))
    verdicts = [str(step.arms[1].verdict) for step in growth.steps]
    assert verdicts[0] == "better" and verdicts[:-1].count("better") == len(verdicts) - 2  # all but the last width
    assert growth.steps[0].judged_on == "150 validation examples"  # test data are not looked at
    assert set(growth.steps[-1].arms[1].config or {}) >= {"weight_decay", "dropout"}
    kept = 8 ** (len(verdicts) - 2)
    assert growth.width == (8 * kept if growth.regularised else kept)
    assert growth.words[0].startswith("units=8 is better than units=1 (rmse")
    assert growth.words[-1].startswith(f"Use units={growth.width}")
    assert growth.config is not None and growth.config.units == growth.width
    assert growth.describe()["width"] == growth.width
    assert grown(tmp_path, start=1, factor=8, most=4096, task=replace(TASK, test=(X, Y))) == growth


def test_it_ends_at_the_largest_that_is_allowed(tmp_path: Path) -> None:
    growth = grown(tmp_path, start=1, factor=8, most=8)
    assert (growth.width, growth.regularised, len(growth.steps)) == (8, False, 1)
    assert "largest that was allowed" in growth.words[-1]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    for wrong in ({"factor": 1}, {"start": 0}, {"start": 16, "most": 16}):
        with pytest.raises(SettingError, match="whole numbers"):
            grown(tmp_path, **wrong)
    with pytest.raises(SettingError, match="reads no channels: grow units"):
        grown(tmp_path, hyperparameter="channels")
