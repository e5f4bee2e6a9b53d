"""How noisy are gradients, and so how large may batches be before they are wasted? The gradient noise scale.

McCandlish et al. 2018, An Empirical Model of Large-Batch Training (arXiv 1812.06162). The gradient of a batch of B
examples is G, that of all of them, and noise with covariance Sigma / B. The simple noise scale is

    B_simple = tr(Sigma) / |G|^2                                                        (equation 2.9)

and, to the order of magnitude, the critical batch size: with B examples in a batch, training takes
S_min (1 + B_simple / B) updates and E_min (1 + B / B_simple) examples (equation 2.11). Both parts of it come from
gradients of two batch sizes (appendix A.1), here of k batches of b examples and of all k together:

    E |G_b|^2 = |G|^2 + tr(Sigma) f(b),      f(b) = 1 / b * (N - b) / (N - 1)

The last factor is that of drawing without replacement from N examples, as an epoch does; it is 1 in the paper, where
examples are endless.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rheostat.errors import Infeasible, SettingError, TaskError
from rheostat.probe.sandbox import Progress, examples, nobody, sandbox, update
from rheostat.probe.words import Rows, figure, percent, plain
from rheostat.train.loop import Training
from rheostat.train.task import Task
from rheostat.types import Config, Scalar

BATCHES = 128  # at least, where there are enough examples: the more, the more precise
GROUPS = 8  # of batches, left out in turn; each keeps a sum of gradients in memory
NOISY, WASTEFUL = 1 / 8, 4.0  # batch sizes, as multiples of the noise scale


@dataclass(frozen=True)
class NoisePoint:
    """The gradient and its noise after so many epochs.

    `signal` is |G|^2 and `noise` is tr(Sigma) for one example, both without bias, so that `signal` may fall below 0
    where it cannot be told from noise. `scale` is their ratio and `error` its standard error (a jackknife over groups
    of batches); both are infinite in that case.
    """

    epoch: int
    loss: float
    signal: float
    noise: float
    scale: float
    error: float


@dataclass(frozen=True)
class NoiseScale:
    """The noise scale along a training; it mostly grows as the loss falls. Sizes count examples, or rows of a text."""

    optimizer: str
    batch_size: int  # of the configuration
    measured_with: int  # examples in a batch
    points: tuple[NoisePoint, ...]

    @property
    def critical_batch_size(self) -> float:
        """The latest noise scale: where updates and examples are both twice what is possible at the least."""
        return self.points[-1].scale

    def updates(self, batch_size: float) -> float:
        """How many updates this batch size needs to a given loss, as a multiple of those of endless batches."""
        return 1 + self.critical_batch_size / batch_size

    def examples(self, batch_size: float) -> float:
        """How many examples this batch size needs, as a multiple of those of the smallest batches."""
        return 1 + batch_size / self.critical_batch_size

    @property
    def words(self) -> str:
        return "\n".join(_words(self))

    @property
    def table(self) -> Rows:
        titles = ("epoch", "loss", "gradient", "noise of one example", "noise scale")
        rows = [
            (
                str(point.epoch),
                figure(point.loss, 4),
                figure(math.sqrt(max(point.signal, 0.0))),
                figure(math.sqrt(max(point.noise, 0.0))),
                _scale(point),
            )
            for point in self.points
        ]
        return Rows(titles, tuple(rows), frozenset(titles))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values."""
        described = {**asdict(self), "critical_batch_size": self.critical_batch_size, "words": self.words}
        return {name: plain(value) for name, value in described.items()}


def noise_scale(
    task: Task,
    config: Mapping[str, Scalar],
    epochs: Sequence[int] = (0, 1, 3),
    batch_size: int | None = None,
    most_examples: int = 2**15,
    seed: int = 0,
    progress: Progress = nobody,
) -> NoiseScale:
    """Measure the gradient noise scale of a configuration after these epochs of its training.

    Each time, the gradients of up to `most_examples` examples are computed in batches of `batch_size` (by default that
    of the configuration, or less for `BATCHES` of them, or `GROUPS` where there is BatchNorm, whose gradients depend
    on it). Dropout counts as noise. Sequences of different lengths come in batches of like length, which adds to it.

    Raises TaskError where there are too few batches to measure noise, and SettingError for a wrong argument.
    """
    wanted = sorted(set(epochs))
    if not wanted or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in wanted):
        raise SettingError(f"epochs={list(epochs)!r}: give whole numbers from 0.")
    points: list[NoisePoint] = []
    with sandbox(task, config, seed, epochs=max(wanted[-1], 1)) as training:
        number = examples(task)
        configured = training.batches.batch_size
        small = batch_size or _small(training.model, number, configured)
        with sandbox(task, Config({**config, "batch_size": small, "accumulate": 1}), seed) as measuring:
            _check(measuring, most_examples)
            try:
                for epoch in range(wanted[-1] + 1):
                    progress(epoch / (wanted[-1] + 1))
                    if epoch in wanted:
                        measuring.model.load_state_dict(training.model.state_dict())
                        points.append(_point(measuring, epoch, number, most_examples))
                    if epoch < wanted[-1]:
                        training.begin_epoch()
                        for batch in training.batches.epoch(epoch):
                            update(training, batch)
            except Infeasible:  # the points so far stand
                pass
    return NoiseScale(str(config.get("optimizer") or "adam"), configured, small, tuple(points))


def _small(model: nn.Module, number: int | None, configured: int) -> int:
    if number is None:
        return configured
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        return max(min(configured, number // GROUPS), 2)
    return max(min(configured, number // BATCHES), 1)


def _check(measuring: Training, most_examples: int) -> None:
    size, batches = measuring.batches.batch_size, measuring.batches.steps_per_epoch
    if size < 1 or min(batches, most_examples // size) < GROUPS:
        raise TaskError(
            f"Noise cannot be measured from {batches} batches of {size} in an epoch (of {most_examples} examples at "
            f"most): give a smaller batch_size, so that there are at least {GROUPS}."
        )


# -- the estimate --------------------------------------------------------------------------------------------


def _point(measuring: Training, epoch: int, number: int | None, most_examples: int) -> NoisePoint:
    size = measuring.batches.batch_size
    sums: list[Tensor] = []  # of the gradients of each group
    squares, counts, losses = [0.0] * GROUPS, [0] * GROUPS, []
    measuring.model.train()
    batches = (batch for batch in measuring.batches.epoch(epoch) if len(batch[-1]) == size)
    for n, batch in enumerate(islice(batches, most_examples // size)):
        losses.append(float(measuring.backward(batch)))
        gradient = _flat(measuring)
        group = n % GROUPS
        squares[group] += _square(gradient)
        counts[group] += 1
        if len(sums) <= group:
            sums.append(gradient)
        else:
            sums[group] += gradient
    total, square, count = sums[0].clone(), sum(squares), sum(counts)
    for part in sums[1:]:
        total += part
    signal, noise = estimate(square / count, _square(total / count), size, size * count, number)
    left_out = []
    for part, part_square, part_count in zip(sums, squares, counts, strict=True):
        rest = count - part_count
        big = _square((total - part) / rest)
        left_out.append(_ratio(*estimate((square - part_square) / rest, big, size, size * rest, number)))
    return NoisePoint(
        epoch, sum(losses) / len(losses), signal, noise, _ratio(signal, noise), _jackknife_error(left_out)
    )


def estimate(small: float, big: float, b: int, kb: int, number: int | None = None) -> tuple[float, float]:
    """|G|^2 and tr(Sigma), without bias, from the mean squared norms of gradients of b and of kb examples.

    `number` is how many examples there are to draw from, without replacement (McCandlish et al. 2018, appendix A.1).

    >>> estimate(small=1 + 40 / 8, big=1 + 40 / 64, b=8, kb=64)
    (1.0, 40.0)
    """

    def f(n: int) -> float:
        return 1 / n if number is None or number < 2 else (number - n) / (n * (number - 1))

    noise = (small - big) / (f(b) - f(kb))
    return big - noise * f(kb), noise


def _flat(training: Training) -> Tensor:
    """The gradient of all parameters that are trained, (P,)."""
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])


def _square(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2


def _ratio(signal: float, noise: float) -> float:
    return max(noise, 0.0) / signal if signal > 0 else math.inf


def _jackknife_error(left_out: Sequence[float]) -> float:
    """Efron and Stein 1981: from the estimates without each of m groups."""
    m = len(left_out)
    if not all(map(math.isfinite, left_out)):
        return math.inf
    mean = sum(left_out) / m
    return math.sqrt((m - 1) / m * sum((value - mean) ** 2 for value in left_out))


# -- words ---------------------------------------------------------------------------------------------------


def _scale(point: NoisePoint) -> str:
    if not math.isfinite(point.scale):
        return "not measurable"
    return f"{figure(point.scale)} ± {figure(point.error)}"


def _words(found: NoiseScale) -> list[str]:
    first, last = found.points[0], found.points[-1]
    if not math.isfinite(last.scale):
        return [
            f"After {last.epoch} epochs the gradient cannot be told from its noise: the noise scale is larger than can "
            "be measured here, and so is the critical batch size."
        ]
    course = f"{_scale(first)} after {first.epoch} epochs and " if len(found.points) > 1 else ""
    batch, critical = found.batch_size, found.critical_batch_size
    lines = [
        f"The gradient noise scale is {course}{_scale(last)} after {last.epoch}. It is, roughly, the critical batch "
        "size: there, training takes twice as many updates as with endless batches, and twice as many examples as with "
        "single ones.",
        f"At batch size {batch}, {percent(batch / (batch + critical))} of a step's squared length is signal: "
        f"{figure(found.updates(batch), 3)} times the fewest updates, {figure(found.examples(batch), 3)} times the "
        "fewest examples.",
    ]
    if batch < NOISY * critical:
        factor = "2 for SGD" if found.optimizer in ("sgd", "momentum", "nesterov") else "1.4 for adaptive optimisers"
        lines.append(f"Most of it is noise: twice the batch, with lr times {factor}, needs nearly half the updates.")
    elif batch > WASTEFUL * critical:
        lines.append("Most of the batch adds nothing: a smaller one gets as far with fewer examples.")
    return lines
