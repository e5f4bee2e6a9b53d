from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.train.spectrum import LARGEST, WIDEST, Spectrum, singular_values, spectrum


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 10**6), scale=st.floats(1e-6, 1e6))
def test_singular_values_are_those_of_the_decomposition(rows: int, columns: int, seed: int, scale: float) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    values = torch.linalg.svdvals(weight.double())
    found = spectrum(weight)
    assert found.largest == pytest.approx(values[:LARGEST].tolist(), rel=1e-6, abs=1e-6 * float(values[0]))
    assert found.stable_rank == pytest.approx(float(weight.double().square().sum() / values[0] ** 2), rel=1e-6)
    shares = values / values.sum()
    assert found.effective_rank == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4)
    assert 1 - 1e-9 <= found.stable_rank <= found.effective_rank + 1e-9 <= min(rows, columns) + 1e-6


def test_a_convolution_is_read_as_a_matrix_of_its_channels() -> None:
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    assert spectrum(weight) == spectrum(weight.reshape(4, 12))


def test_ranks_of_known_matrices() -> None:
    one = spectrum(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 4)))
    assert (one.stable_rank, one.effective_rank) == pytest.approx((1, 1), abs=1e-5)
    full = spectrum(5 * torch.eye(6))
    assert (full.stable_rank, full.effective_rank) == pytest.approx((6, 6))
    assert spectrum(torch.zeros(2, 3)) == Spectrum((0.0, 0.0), 0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_has_no_spectrum(bad: float) -> None:
    found = spectrum(torch.tensor([[1.0, bad], [0.0, 1.0]]))
    assert found.largest == () and math.isnan(found.stable_rank)


def test_a_very_wide_matrix_is_left_alone() -> None:
    assert singular_values(torch.zeros(WIDEST + 1, WIDEST + 1)) is None
    assert singular_values(torch.zeros(WIDEST + 1, 3)) is not None
