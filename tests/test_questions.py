"""The ready-made questions are complete, and fit the networks that they say they fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from rheostat import Config, Space, Task, hyperparameters
from rheostat.errors import SettingError
from rheostat.families import FAMILIES, Build
from rheostat.questions import OF_THE_TRAINER, OWN, applied, explain, family_of, find, questions

X, Y = torch.randn(200, 4), torch.zeros(200, dtype=torch.long)
GIVEN: dict[str, dict[str, Any]] = {
    "mlp": {"inputs": 4, "outputs": 2},
    "cnn": {"shape": (1, 8, 8), "outputs": 2},
    "rnn": {"vocabulary": 10, "outputs": 2},
    "lm": {"vocabulary": 10},
    "transformer": {"vocabulary": 10},
    "seq2seq": {"source_vocabulary": 10, "target_vocabulary": 10},
}


def task(family: str) -> Task:
    network = next(f.network for f in FAMILIES if f.name == family)
    return Task(Build(network, GIVEN[family]), (X, Y), (X, Y), device="cpu")


NAMES = "depth width cell embedding batch optimizer schedule activation init decoder attention"


@pytest.mark.parametrize("name", [*NAMES.split(), "layers-cnn", "recurrent-layers"])
def test_every_question_is_there_with_its_source_and_values(name: str) -> None:
    question = find(name)
    assert question.asks.endswith("?") and question.source.startswith("A") and question.article and question.reading
    for varies in question.varies:
        assert varies.reference in varies.values and len(set(varies.values)) == len(varies.values) >= 3
        assert varies.name in hyperparameters.names() or varies.name.endswith("_cell")
        assert set(varies.families) <= {OWN, *(f.name for f in FAMILIES)}
    assert name in explain() and question.asks in explain(name)
    assert all(len(line) <= 88 for line in explain(name).splitlines())


@pytest.mark.parametrize("family", [f.name for f in FAMILIES])
def test_every_question_fits_the_families_it_names(family: str) -> None:
    """Each value makes a network."""
    for question in questions().values():
        for varies in question.varies:
            if family in varies.families:
                assert question.for_network(task(family), Space()) is not None
                if varies.name not in OF_THE_TRAINER:
                    small = [v for v in varies.values if not isinstance(v, int) or v <= 64]
                    for value in small:
                        task(family).model(Config({varies.name: value}))


def test_a_network_of_the_users_is_asked_what_it_reads() -> None:
    own = replace(task("mlp"), model=lambda config: nn.Linear(4, config.get("units", 3)))
    assert family_of(own) == OWN and family_of(task("cnn")) == "cnn"
    assert applied("width", own, Space(units=3))[1].name == "units"
    with pytest.raises(SettingError, match="These do: width, batch, optimizer, schedule"):
        applied("depth", own, Space(units=3))


def test_batches_fit_the_data() -> None:
    _, varies = applied("batch", task("mlp"), Space())
    assert varies.values == (16, 64, "full") and varies.reference == 64
    with pytest.raises(SettingError, match="Did you mean 'batch'"):
        find("batches")
