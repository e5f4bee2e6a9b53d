"""Is a network fit to be trained? What to look at before any tuning.

The loss at the start beside that of the label frequencies, the same training with all inputs zero, and whether a few
examples can be learnt by heart: Karpathy 2019, A Recipe for Training Neural Networks; cs231n, Sanity checks. And the
sizes of activations and gradients from layer to layer (Glorot and Bengio 2010; He et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.errors import Infeasible, SettingError, TaskError
from rheostat.probe.constant import Constant, constant
from rheostat.probe.findings import (
    Finding,
    LayerStart,
    Overfit,
    about_inputs,
    about_layers,
    about_loss,
    about_overfitting,
)
from rheostat.probe.sandbox import Progress, endless, examples, nobody, sandbox, update
from rheostat.probe.words import Rows, figure, percent, plain
from rheostat.train.inside import own_parameters
from rheostat.train.loop import Training
from rheostat.train.optimizers import learning_rate
from rheostat.train.task import Task
from rheostat.train.units import activity
from rheostat.types import Config, Scalar

BATCHES = 50  # for the loss at the start
LOOKED_AT = 256  # examples, for activations
TOKENS = 32  # of each row of a text, to be learnt by heart
LEARNT = 0.05  # of the loss of the label frequencies
ERRORS = 3.0  # standard errors, beyond which a difference is no chance
OTHER_RATES = (10.0, 0.1)  # learning rates that are tried where the own one does not do


@dataclass(frozen=True)
class InitProbe:
    """What was found before training.

    `loss` is that of the untrained network, with its standard error over the batches. `constant` are the losses of
    predictions that do not look at the inputs; None for a loss of one's own. `with_inputs` and `without_inputs` are
    losses after a short training, on average over its last quarter; in the second one all inputs are zero.
    """

    loss: float
    error: float
    constant: Constant | None
    steps: int
    with_inputs: float
    without_inputs: float
    inputs_help: bool
    overfits: tuple[Overfit, ...]
    layers: tuple[LayerStart, ...]
    findings: tuple[Finding, ...]

    @property
    def good(self) -> bool:
        return all(finding.good for finding in self.findings)

    @property
    def words(self) -> str:
        return "\n".join(finding.text for finding in self.findings)

    @property
    def table(self) -> Rows:
        titles = ("layer", "kind", "parameters", "outputs", "dead", "saturated", "gradient")
        rows = [
            (
                layer.name or "(network)",
                layer.kind,
                f"{layer.parameters:,}",
                _cell(layer.output_rms),
                "" if math.isnan(layer.dead) else percent(layer.dead),
                "" if math.isnan(layer.saturated) else percent(layer.saturated),
                _cell(layer.gradient_rms),
            )
            for layer in self.layers
        ]
        return Rows(titles, tuple(rows), frozenset(titles[2:]))

    def describe(self) -> dict[str, Any]:
        """All of it as JSON-like values."""
        return {name: plain(value) for name, value in {**asdict(self), "good": self.good, "words": self.words}.items()}


def init_probe(
    task: Task,
    config: Mapping[str, Scalar],
    steps: int = 100,
    overfit_examples: int = 20,
    overfit_steps: int = 500,
    seed: int = 0,
    progress: Progress = nobody,
) -> InitProbe:
    """Look at a configuration before it is tuned: its loss at the start, its inputs, its layers, and 20 examples.

    Raises TaskError as training does.
    """
    if steps < 8 or overfit_examples < 1 or overfit_steps < 1:
        raise SettingError(
            f"steps={steps!r}, overfit_examples={overfit_examples!r}, overfit_steps={overfit_steps!r}: give whole "
            "numbers from 8, 1 and 1."
        )
    start = _start(task, config, seed)
    progress(0.1)
    real = _short_training(task, config, seed, steps, zeroed=False)
    progress(0.3)
    zero = _short_training(task, config, seed, steps, zeroed=True)
    progress(0.5)
    overfits = []
    for factor in (1.0, *OTHER_RATES):
        overfits.append(_overfit(task, config, seed, overfit_examples, overfit_steps, factor, start.constant))
        if overfits[-1].learnt:
            break
    helped = real[0] < zero[0] - ERRORS * math.hypot(real[1], zero[1])
    findings = (
        about_loss(start.loss, start.constant),
        about_inputs(real[0], zero[0], helped, steps),
        about_overfitting(overfits, overfit_steps),
        *([Finding(False, start.unseen)] if start.unseen else about_layers(start.layers)),
    )
    return InitProbe(
        start.loss,
        start.error,
        start.constant,
        steps,
        real[0],
        zero[0],
        helped,
        tuple(overfits),
        start.layers,
        findings,
    )


# -- the start -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Start:
    """The untrained network; `unseen` says why its layers could not be looked at."""

    loss: float
    error: float
    constant: Constant | None
    layers: tuple[LayerStart, ...]
    unseen: str


def _start(task: Task, config: Mapping[str, Scalar], seed: int) -> _Start:
    losses, targets = [], []
    shapes: list[tuple[int, ...]] = []
    layers: tuple[LayerStart, ...] = ()
    unseen = ""
    with sandbox(task, config, seed) as training:
        model = training.model.train()
        watching = model.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
        gradients: dict[nn.Parameter, Tensor] = {}
        first: tuple[Tensor, ...] = ()
        for batch in islice(training.batches.epoch(0), BATCHES):
            losses.append(float(training.backward(batch)))
            targets.append(batch[-1].cpu() if batch[-1].is_floating_point() else batch[-1].cpu().flatten())
            if not first:
                first = tuple(part[:LOOKED_AT].to(training.device) for part in batch)
                gradients = {p: p.grad.clone() for p in model.parameters() if p.grad is not None}
        watching.remove()
        try:
            layers = _layers(model, first[:-1], gradients)
        except TaskError as cause:
            unseen = str(cause)
    level = constant(task, torch.cat(targets), shapes[0], float(config.get("label_smoothing") or 0.0))
    return _Start(*_mean_and_error(losses), level, layers, unseen)


def _mean_and_error(losses: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error; 0 for a single one."""
    values = torch.tensor(losses, dtype=torch.float64)
    return float(values.mean()), float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _layers(
    model: nn.Module, inputs: tuple[Tensor, ...], gradients: Mapping[nn.Parameter, Tensor]
) -> tuple[LayerStart, ...]:
    owners = own_parameters(model)
    return tuple(
        LayerStart(
            name,
            type(model.get_submodule(name)).__name__,
            sum(p.numel() for p in owners[name].values()),
            seen.output_rms,
            seen.dead,
            seen.saturated,
            _rms([gradients[p] for p in owners[name].values() if p in gradients]),
        )
        for name, seen in activity(model, inputs).items()
    )


def _rms(tensors: Sequence[Tensor]) -> float:
    if not tensors:
        return math.nan
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors) / sum(t.numel() for t in tensors))


# -- short trainings -----------------------------------------------------------------------------------------


def _short_training(
    task: Task, config: Mapping[str, Scalar], seed: int, steps: int, zeroed: bool
) -> tuple[float, float]:
    """The mean loss over the last quarter of the steps, and its standard error; infinite where it diverges."""
    losses: list[float] = []
    with sandbox(task, config, seed) as training:
        try:
            for batch in islice(endless(training), steps):
                *inputs, target = batch
                loss = update(training, (*map(_zeroed, inputs), target) if zeroed else batch)
                if loss is None:  # a hook has ended the training
                    break
                losses.append(loss)
        except Infeasible:
            return math.inf, 0.0
    return _mean_and_error(losses[-max(len(losses) // 4, 2) :]) if losses else (math.inf, 0.0)


def _zeroed(inputs: Tensor) -> Tensor:
    """Zeros in place of inputs; what is true or false, such as where a text begins anew, is no input."""
    return inputs if inputs.dtype == torch.bool else torch.zeros_like(inputs)


def _overfit(
    task: Task,
    config: Mapping[str, Scalar],
    seed: int,
    few: int,
    steps: int,
    factor: float,
    level: Constant | None,
) -> Overfit:
    """Train on a few examples alone, without anything that is meant to prevent it."""
    lr = learning_rate(config) * factor
    without = {name: 0.0 for name in ("dropout", "label_smoothing") if name in config}
    size = config.get("batch_size", 32)
    if isinstance(size, int) and not isinstance(size, bool):
        size = min(max(size, few), examples(task) or max(size, few))
    changed = Config({**config, **without, "weight_decay": 0.0, "batch_size": size, "accumulate": 1})
    losses: list[float] = []
    goal = math.nan
    with sandbox(task, changed, seed) as training:
        training.rate, training.plateau = (lambda step: lr), None
        batch = _few(task, next(iter(training.batches.epoch(0))), few)
        try:
            with _without_dropout(training.model):
                for loss in _repeated(training, batch, steps):
                    losses.append(loss)
                    goal = LEARNT * (level.best if level is not None and level.best > 0 else losses[0])
                    if loss <= goal:
                        break
        except Infeasible:
            pass
    lowest = min(losses, default=math.inf)
    first = losses[0] if losses else math.inf
    return Overfit(len(batch[-1]), lr, first, lowest, len(losses), lowest <= goal)


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    rates = {module: module.p for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd)}
    for module in rates:
        module.p = 0.0
    try:
        yield
    finally:
        for module, rate in rates.items():
            module.p = rate


def _repeated(training: Training, batch: tuple[Tensor, ...], steps: int) -> Iterator[float]:
    training.begin_epoch()
    for _ in range(steps):
        loss = update(training, batch)
        if loss is None:
            return
        yield loss


def _few(task: Task, batch: tuple[Tensor, ...], few: int) -> tuple[Tensor, ...]:
    rows = tuple(part[:few] for part in batch)
    return tuple(part[:, :TOKENS] if part.dim() == 2 else part for part in rows) if task.loss == "tokens" else rows


def _cell(value: float) -> str:
    return "" if math.isnan(value) else figure(value)
