from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.errors import SettingError, TaskError
from rheostat.models.mlp import MLP
from rheostat.probe import noise_scale as module
from rheostat.probe.noise_scale import NoisePoint, NoiseScale, estimate, noise_scale
from rheostat.probe.sandbox import sandbox, update
from rheostat.train.task import Task
from rheostat.types import Config


def direct(model: nn.Module, x: Tensor, y: Tensor, loss: Any) -> tuple[float, float]:
    """|G|^2 and tr(Sigma) of the whole training set, from the gradient of every example."""
    gradients = []
    for one, target in zip(x.split(1), y.split(1), strict=True):
        model.zero_grad()
        loss(model(one), target).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    all_of_them = torch.stack(gradients).double()
    mean = all_of_them.mean(0)
    return float(mean.square().sum()), float((all_of_them - mean).square().sum(1).mean())


def test_an_mlp_at_the_start_and_after_two_epochs() -> None:
    """Within a fifth of the direct computation, and within three standard errors."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(600) % 10
    x = torch.randn(10, 12, generator=generator)[y] + torch.randn(600, 12, generator=generator)
    task = Task(lambda config: MLP(12, 10, layers=1, units=16), (x, y), (x, y), device="cpu")
    config = Config(optimizer="adam", lr=3e-3, batch_size=32)
    found = noise_scale(task, config, epochs=(0, 2))
    with sandbox(task, config, 0, epochs=2) as training:
        for epoch, point in zip((0, 2), found.points, strict=True):
            signal, noise = direct(training.model, x, y, F.cross_entropy)
            assert point.epoch == epoch
            assert point.signal == pytest.approx(signal, rel=0.2)
            assert point.noise == pytest.approx(noise, rel=0.2)
            assert point.scale == pytest.approx(noise / signal, rel=0.2)
            assert abs(point.scale - noise / signal) < 3 * point.error
            for number in (0, 1) if epoch == 0 else ():
                training.begin_epoch()
                for batch in training.batches.epoch(number):
                    update(training, batch)


@settings(max_examples=10)
@given(
    st.integers(1, 6),
    st.floats(0.1, 3.0),
    st.floats(0.3, 3.0),
    st.sampled_from(["mse", "binary_cross_entropy"]),
    st.integers(0, 10**6),
)
def test_linear_models(inputs: int, noise: float, distance: float, loss: str, seed: int) -> None:
    """Linear and logistic regression, with all weights 0, where gradients are (0 - y) x times 2, and (1/2 - y) x."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(512, inputs, generator=generator)
    weights = F.normalize(torch.randn(inputs, 1, generator=generator), dim=0) * distance
    y = x @ weights + noise * torch.randn(512, 1, generator=generator)
    if loss == "binary_cross_entropy":
        y = (y > 0).float()
    gradients = (-2 * y if loss == "mse" else 0.5 - y) * x  # (N, inputs)
    task = Task(lambda config: zeros(inputs), (x, y), (x[:8], y[:8]), loss=loss, metrics=(), device="cpu")
    signal, variance = float(gradients.mean(0).square().sum()), float(gradients.var(0, correction=0).sum())
    single = noise_scale(task, {"batch_size": 4}, epochs=[0], batch_size=1).points[0]
    assert (single.signal, single.noise) == pytest.approx((signal, variance), rel=1e-3)  # nothing is left to chance
    fours = noise_scale(task, {"batch_size": 4}, epochs=[0]).points[0]
    assert fours.signal == pytest.approx(signal, rel=1e-3)
    assert abs(fours.scale - variance / signal) < max(0.2 * variance / signal, 6 * fours.error)


def zeros(inputs: int) -> nn.Module:
    model = nn.Linear(inputs, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model


def test_a_quadratic_has_a_known_noise_scale() -> None:
    """Loss (w - x)^2 / 2 with x ~ N(m, s^2 I) in d dimensions: G = w - m, tr(Sigma) = d s^2."""
    d, s, distance = 5, 2.0, 1.5
    generator = torch.Generator().manual_seed(1)
    x = s * torch.randn(4096, d, generator=generator)
    x += distance / math.sqrt(d) - x.mean(0)
    task = Task(lambda config: Point(d), (x, x), (x[:8], x[:8]), loss=half_square, metrics=(), device="cpu")
    point = noise_scale(task, {"batch_size": 16}, epochs=[0]).points[0]
    assert point.signal == pytest.approx(distance**2, rel=1e-3)
    assert point.noise == pytest.approx(d * s**2, rel=0.2)
    assert point.scale == pytest.approx(d * s**2 / distance**2, rel=0.2)


class Point(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        return self.w.expand_as(x)


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean() / 2


@given(
    st.floats(0.01, 100),
    st.floats(0.01, 1e4),
    st.integers(1, 64),
    st.integers(2, 100),
    st.sampled_from([None, 10_000]),
)
def test_the_estimate_undoes_the_expectation(signal: float, noise: float, b: int, k: int, number: int | None) -> None:
    def expected(n: int) -> float:
        return signal + noise / n * (1 if number is None else (number - n) / (number - 1))

    found = estimate(expected(b), expected(b * k), b, b * k, number)
    assert found == pytest.approx((signal, noise), rel=1e-6, abs=1e-6 * (signal + noise))


def test_the_estimate_is_unbiased_where_examples_are_drawn_without_replacement() -> None:
    """Over many orders of ten numbers, in batches of two, of which three are seen."""
    values = torch.tensor([0.0, 1.0, 5.0, -2.0, 3.0, 0.5, 7.0, -1.0, 2.0, 4.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(50_000, 10, generator=generator).argsort(1)
    batches = values[orders[:, :6]].view(-1, 3, 2).mean(2)
    signal, noise = estimate(float(batches.square().mean()), float(batches.mean(1).square().mean()), 2, 6, 10)
    assert signal == pytest.approx(float(values.mean() ** 2), rel=0.05)
    assert noise == pytest.approx(float(values.var(correction=0)), rel=0.05)


def test_nothing_of_it_is_seen_outside_and_the_same_seed_gives_the_same() -> None:
    x, y = torch.randn(100, 4), torch.arange(100) % 3
    shared = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    task = Task(lambda config: shared, (x, y), (x, y), device="cpu")
    before = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    state = torch.get_rng_state()
    found = [noise_scale(task, {"batch_size": 8}, epochs=(0, 1)) for _ in range(2)]
    assert found[0] == found[1]
    assert found[0].measured_with == 8  # BatchNorm: as in training
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_its_words_follow_the_batch_size() -> None:
    def words(batch_size: int, scale: float = 400.0, optimizer: str = "adam") -> str:
        points = (NoisePoint(0, 2.3, 1.0, 40.0, 40.0, 4.0), NoisePoint(3, 0.4, 0.1, 40.0, scale, 25.0))
        return NoiseScale(optimizer, batch_size, 16, points).words

    assert "40 ± 4 after 0 epochs and 400 ± 25 after 3" in words(100)
    assert "20% of a step's squared length is signal: 5 times the fewest updates, 1.25 times the fewest" in words(100)
    assert (
        "Most of it is noise" in words(16) and "1.4 for adaptive" in words(16) and "2 for SGD" in words(16, 400, "sgd")
    )
    assert "Most of the batch adds nothing" in words(2000)
    assert "noise" not in words(400).splitlines()[-1]
    assert "cannot be told from its noise" in words(16, math.inf)


def test_the_description_is_plain() -> None:
    found = NoiseScale("adam", 32, 16, (NoisePoint(0, 2.3, -0.1, 40.0, math.inf, math.inf),))
    described = json.loads(json.dumps(found.describe(), allow_nan=False))
    assert described["points"][0]["scale"] is None
    assert found.table.rows[0][-1] == "not measurable"


def test_too_few_batches_and_wrong_arguments() -> None:
    x = torch.randn(20, 3)
    task = Task(lambda config: nn.Linear(3, 1), (x, x[:, :1]), (x, x[:, :1]), loss="mse", metrics=(), device="cpu")
    with pytest.raises(TaskError, match=r"from 2 batches of 10 in an epoch.*at least 8"):
        noise_scale(task, {"batch_size": 10}, batch_size=10)
    with pytest.raises(SettingError, match=r"epochs=\[-1\]"):
        noise_scale(task, {"batch_size": 2}, epochs=[-1])
    assert module.noise_scale(task, {"batch_size": 2, "lr": 1e-3}, epochs=[0]).measured_with == 1


def test_a_training_that_diverges_keeps_its_first_point() -> None:
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 1e3
    task = Task(lambda config: nn.Linear(3, 1), (x, x[:, :1]), (x, x[:, :1]), loss="mse", metrics=(), device="cpu")
    found = noise_scale(task, {"batch_size": 4, "optimizer": "sgd", "lr": 1e9}, epochs=(0, 3))
    assert [point.epoch for point in found.points] == [0]
