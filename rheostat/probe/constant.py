"""What is the loss of the best prediction that does not look at the inputs?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rheostat.data.base import PADDING
from rheostat.train.task import Task

IGNORED = -100  # what F.cross_entropy leaves out


@dataclass(frozen=True)
class Constant:
    """Losses of predictions that are the same for every example.

    `best` is the lowest: the entropy of the label frequencies for classes and tokens, the variance for `mse`. `even`
    is that of equal scores, ln C for C classes; None for numbers.
    """

    best: float
    even: float | None = None
    classes: int = 0


def constant(task: Task, targets: Tensor, outputs: tuple[int, ...], label_smoothing: float = 0.0) -> Constant | None:
    """For these targets (N, ...) and a network that gives this shape; None for a loss of the user's own."""
    if task.loss in ("cross_entropy", "tokens", "sentences"):
        classes = outputs[1] if task.loss == "cross_entropy" else outputs[-1]
        return _classes(_frequencies(task.loss, targets, classes), label_smoothing)
    numbers = targets.double().reshape(len(targets), -1)  # (N, T)
    if task.loss == "mse":
        return Constant(float(numbers.var(0, correction=0).mean()))
    if task.loss == "l1":
        return Constant(float((numbers - numbers.median(0).values).abs().mean()))
    if task.loss == "huber":
        return Constant(_huber(numbers))
    if task.loss == "binary_cross_entropy":
        p = numbers.mean(0)
        return Constant(float(-(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean()), math.log(2), 2)
    return None


def _frequencies(loss: Any, targets: Tensor, classes: int) -> Tensor:
    """Of each class (C,), as shares."""
    if targets.is_floating_point():  # probabilities (N, C, ...)
        return targets.double().movedim(1, 0).reshape(classes, -1).mean(1)
    labels = targets.flatten()
    labels = labels[labels != (PADDING if loss == "sentences" else IGNORED)]
    counts = torch.bincount(labels, minlength=classes).double()
    return counts / counts.sum()


def _classes(shares: Tensor, label_smoothing: float) -> Constant:
    classes = len(shares)
    smoothed = (1 - label_smoothing) * shares + label_smoothing / classes
    return Constant(float(-torch.xlogy(smoothed, smoothed).sum()), math.log(classes), classes)


def _huber(numbers: Tensor) -> float:
    """The best constant is where the clipped residuals add up to 0; found by bisection."""
    low, high = numbers.amin(0), numbers.amax(0)
    for _ in range(60):
        middle = (low + high) / 2
        above = (numbers - middle).clamp(-1, 1).sum(0) > 0
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return float(torch.nn.functional.smooth_l1_loss(low.expand_as(numbers), numbers))
