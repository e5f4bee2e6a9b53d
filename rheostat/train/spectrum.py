"""The singular values of weights, and how many directions they use."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 32  # singular values that are kept
WIDEST = 2048  # of the shorter side: a larger matrix takes too long to be looked at after every epoch


@dataclass(frozen=True)
class Spectrum:
    """Of one matrix: its largest singular values, falling, and two measures of how many count.

    `stable_rank` is the sum of the squares of all by the largest square (Rudelson and Vershynin 2007), `effective_rank`
    is exp(entropy) of all as shares of their sum (Roy and Vetterli 2007). A matrix of equal singular values has its
    full rank in both, one of rank one has 1. All is empty or NaN where a matrix is not finite, or wider than `WIDEST`.
    """

    largest: tuple[float, ...] = ()
    stable_rank: float = math.nan
    effective_rank: float = math.nan


@torch.no_grad()
def spectrum(weight: Tensor) -> Spectrum:
    """Of a weight (out, ...), read as a matrix (out, rest).

    >>> found = spectrum(torch.diag(torch.tensor([4.0, 2.0, 2.0])))
    >>> found.largest, found.stable_rank, round(found.effective_rank, 2)
    ((4.0, 2.0, 2.0), 1.5, 2.83)
    """
    values = singular_values(weight)
    if values is None:
        return Spectrum()
    if values[0] == 0:
        return Spectrum(tuple(values[:LARGEST].tolist()), 0.0, 0.0)
    shares = values / values.sum()
    return Spectrum(
        tuple(values[:LARGEST].tolist()),
        float((values / values[0]).square().sum()),
        math.exp(-float(torch.xlogy(shares, shares).sum())),
    )


def singular_values(weight: Tensor) -> Tensor | None:
    """All of them, falling, float64, or None; from the product of the matrix with itself, which is small and square."""
    matrix = weight.detach().flatten(1).cpu().double()  # (out, rest)
    if min(matrix.shape) > WIDEST or not torch.isfinite(matrix).all() or not matrix.numel():
        return None
    square = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    squares: Tensor = torch.linalg.eigvalsh(square)
    return squares.clamp(min=0).sqrt().flip(0)
