"""The choice between the loop and lanes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import rheostat
from rheostat import Choice, Float, Int, Space
from rheostat.errors import StudyError
from rheostat.train import engine
from rheostat.train.task import Task
from rheostat.types import Config

MUCH = 10**9  # epochs to train


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(config: Config) -> nn.Module:
    units = config.get("units", 8)
    activation = nn.Tanh() if config.get("activation") == "tanh" else nn.ReLU()
    dropout = nn.Dropout(config.get("dropout", 0.0))
    return nn.Sequential(nn.Linear(6, units), activation, dropout, nn.Linear(units, 3))


def a_task(**changes: Any) -> Task:
    torch.manual_seed(0)
    x, y = torch.randn(96, 6), torch.randint(3, (96,))
    return Task(**{"model": build, "train": (x, y), "validation": (x, y), "device": "cpu", **changes})


def examples(**space: Any) -> list[Config]:
    return Space(lr=Float(1e-4, 1e-1, log=True), **space).sample(np.random.default_rng(0), 32)


def test_what_makes_a_program_is_found_by_building_networks() -> None:
    parts = {"units": Int(4, 64), "activation": Choice(["relu", "tanh"]), "dropout": Float(0, 0.5)}
    configs = examples(**parts, batch_size=Choice([16, 32]), weight_decay=Float(0, 1), label_smoothing=Float(0, 0.1))
    assert set(engine.structural(a_task(), configs)) == {"units", "activation", "batch_size", "label_smoothing"}


def test_one_small_network_trains_as_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUICK_SECONDS", 1.0)
    name, why = engine.choose(a_task(), examples(dropout=Float(0, 0.5)), MUCH)
    assert name == "lanes" and "own lr, dropout:" in why


def test_few_structures_are_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUICK_SECONDS", 1.0)
    name, why = engine.choose(a_task(), examples(units=Choice([8, 16])), MUCH)
    assert name == "lanes" and "in groups by units" in why


@pytest.mark.parametrize(("gain", "expected"), [(2.0, "lanes"), (1.0, "loop")])
def test_between_quick_and_busy_both_are_measured(gain: float, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "QUICK_SECONDS", 0.0)

    def seconds(what: Any) -> float:
        what()
        return 16.0 / gain if "Lanes" in what.__qualname__ else 1.0

    monkeypatch.setattr(engine, "seconds", lambda what: seconds(what) * 1e-3)
    name, why = engine.choose(a_task(), examples(), MUCH)
    assert name == expected and f"{gain:.1f}" in why


@pytest.mark.parametrize(
    ("changes", "space", "epochs", "words"),
    [
        ({}, {"units": Int(4, 256)}, MUCH, "units"),
        ({}, {}, 1, "too little"),
        ({"validate_every_steps": 2}, {}, MUCH, "validate_every_steps"),
        ({"train": DataLoader(TensorDataset(torch.ones(9, 6), torch.ones(9).long()))}, {}, MUCH, "DataLoader"),
        ({"model": lambda config: nn.Linear(6, 1 // 0)}, {}, MUCH, "ZeroDivisionError"),
    ],
)
def test_the_loop_where_lanes_would_not_pay(
    changes: dict[str, Any], space: dict[str, Any], epochs: int, words: str
) -> None:
    name, why = engine.choose(a_task(**changes), examples(**space), epochs)
    assert name == "loop" and words in why


def test_a_step_that_keeps_a_core_busy_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.0)
    name, why = engine.choose(a_task(), examples(), MUCH)
    assert name == "loop" and "busy" in why


def test_a_study_keeps_the_engine_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "choose", lambda *_: ("lanes", "because"))
    arguments: dict[str, Any] = {"storage": tmp_path / "s.db", "epochs": 2, "workers": 1, "progress": "none"}
    space = Space(lr=Float(1e-3, 1e-1, log=True))
    study = rheostat.tune(a_task(), space, name="s", trials=3, **arguments)
    assert study._record.settings["engine"] == "lanes" and study._record.settings["in_flight"] == 32
    with closing(sqlite3.connect(tmp_path / "s.db")) as database:
        assert ("engine", "engine lanes: because") in database.execute("SELECT kind, message FROM events").fetchall()
    monkeypatch.setattr(engine, "choose", lambda *_: ("loop", "no"))
    again = rheostat.tune(a_task(), space, name="s", trials=5, **arguments)
    assert again._record.settings["engine"] == "lanes" and len(again.trials) == 5
    with pytest.raises(StudyError, match="engine"):
        rheostat.tune(a_task(), space, name="s", trials=6, engine="loop", **arguments)
