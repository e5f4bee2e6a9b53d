from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from rheostat.data.base import Padded, TokenStream
from rheostat.probe.sandbox import endless, examples, sandbox, update
from rheostat.train.loop import Training
from rheostat.train.task import Task
from rheostat.types import Config, Job, derive_seed

X, Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


def net(config: Config) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_it_trains_as_a_trial_does() -> None:
    task = Task(net, (X, Y), (X, Y), validate_every_steps=1, device="cpu")
    config = Config(lr=0.1, batch_size=8)
    trial = Training(task, Job(0, config, derive_seed(5, "probe"), 2, 2))
    for _ in range(2):
        trial.train_epoch()
    with sandbox(task, config, 5, epochs=2) as training:
        for _, batch in zip(range(6), endless(training), strict=False):
            update(training, batch)
        assert training.run.step == 6 and training.run.metrics == {}  # nothing is validated
        for name, tensor in trial.model.state_dict().items():
            assert torch.equal(tensor, training.model.state_dict()[name])


def test_nothing_is_left_behind_even_where_it_raises() -> None:
    shared = net(Config()).eval()
    shared[0].weight.grad = torch.ones(4, 3)  # type: ignore[index,union-attr]
    before = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    generator = torch.Generator().manual_seed(7)
    kept = generator.get_state()
    loader = DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, generator=generator)
    task = Task(lambda config: shared, loader, (X, Y), device="cpu")
    with pytest.raises(KeyError), sandbox(task, {"lr": 0.1}, 0) as training:
        for _, batch in zip(range(3), endless(training), strict=False):
            update(training, batch)
        torch.rand(3), np.random.rand(3), random.random()
        raise KeyError
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())
    assert torch.equal(shared[0].weight.grad, torch.ones(4, 3))  # type: ignore[index,union-attr,arg-type]
    assert not any(module.training for module in shared.modules())
    assert random.getstate() == state[0] and np.random.get_state()[1].tolist() == state[1]
    assert torch.equal(torch.get_rng_state(), state[2]) and torch.equal(generator.get_state(), kept)


def test_how_many_examples_there_are() -> None:
    def of(train: object) -> int | None:
        return examples(Task(net, train, (X, Y), device="cpu"))  # type: ignore[arg-type]

    assert of((X, Y)) == 20
    assert of(Padded((Y[:, None], Y))) == 20
    assert of(TokenStream(Y)) is None
    assert of(DataLoader(TensorDataset(X, Y))) is None
