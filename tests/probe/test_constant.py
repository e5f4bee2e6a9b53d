from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor, nn
from torch.nn import functional as F

from rheostat.probe.constant import constant
from rheostat.train.task import LOSSES, Task


def task(loss: object) -> Task:
    x, y = torch.zeros(4, 2), torch.zeros(4, 1)
    return Task(lambda config: nn.Linear(2, 1), (x, y), (x, y), loss=loss, metrics=(), device="cpu")  # type: ignore[arg-type]


@given(st.sampled_from(["mse", "l1", "huber", "binary_cross_entropy"]), st.integers(1, 2), st.integers(0, 10**6))
def test_no_constant_is_better(loss: str, columns: int, seed: int) -> None:
    """Beside scipy's minimiser, a column at a time."""
    rng = np.random.default_rng(seed)
    y = torch.tensor(rng.standard_t(2, (31, columns)) * 3 + 1)
    if loss == "binary_cross_entropy":
        y = (y > 0).double()

    def of(value: float, column: Tensor) -> float:
        return float(LOSSES[loss](torch.full_like(column, value), column))

    lowest = [
        optimize.minimize_scalar(of, bounds=(-40, 40), args=(y[:, i],), method="bounded", options={"xatol": 1e-9}).fun
        for i in range(columns)
    ]
    found = constant(task(loss), y, (31, columns))
    assert found is not None and found.best == pytest.approx(np.mean(lowest), rel=1e-4, abs=1e-6)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.sampled_from([0.0, 0.1]))
def test_classes_cost_the_entropy_of_their_frequencies(labels: list[int], smoothing: float) -> None:
    y = torch.tensor(labels)
    found = constant(task("cross_entropy"), y, (len(y), 5), smoothing)
    shares = torch.bincount(y, minlength=5) / len(y) * (1 - smoothing) + smoothing / 5
    scores = shares.clamp(min=1e-30).log().expand(len(y), 5)
    assert found is not None and (found.even, found.classes) == (math.log(5), 5)
    assert found.best == pytest.approx(float(F.cross_entropy(scores, y, label_smoothing=smoothing)), abs=1e-5)


def test_probabilities_as_targets_and_classes_of_pixels() -> None:
    p = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    assert constant(task("cross_entropy"), p, (2, 2)).best == pytest.approx(  # type: ignore[union-attr]
        float(F.cross_entropy(torch.tensor([[0.4, 0.6]]).log().expand(2, 2), p))
    )
    pixels = torch.tensor([[[0, 1], [1, -100]]])
    assert constant(task("cross_entropy"), pixels, (1, 2, 2, 2)).best == pytest.approx(  # type: ignore[union-attr]
        -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3))
    )


def test_tokens_with_and_without_padding() -> None:
    tokens = torch.tensor([4, 4, 5, 0, 0, 0])
    assert constant(task("tokens"), tokens, (2, 3, 8)).best == pytest.approx(  # type: ignore[union-attr]
        -(0.5 * math.log(0.5) + 1 / 3 * math.log(1 / 3) + 1 / 6 * math.log(1 / 6))
    )
    found = constant(task("sentences"), tokens, (2, 3, 8))
    assert found is not None and found.even == pytest.approx(math.log(8))
    assert found.best == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))


def test_a_loss_of_ones_own_has_none() -> None:
    assert constant(task(lambda outputs, targets: outputs.mean()), torch.zeros(3, 1), (3, 1)) is None
