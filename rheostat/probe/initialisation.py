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
from rheostat.probe.sandbox import Progress, endless, examples, nobody, sandbox, update
from rheostat.probe.words import Rows, figure, listed, percent, plain
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
TOO_HIGH, TOO_LOW = 1.5, 0.5  # times the loss that a network without knowledge should have
NATS = 1.0  # above which it is too high in any case: outputs of size 1 are usual, and cost half of it
ERRORS = 3.0  # standard errors, beyond which a difference is no chance
OTHER_RATES = (10.0, 0.1)  # learning rates that are tried where the own one does not do
HALF = 0.5  # of a layer: dead or saturated
# Their gradients are of another size: few rows of an embedding have any, and norms have few parameters.
OTHER_SIZES = ("Embedding", "Norm", "Norm1d", "Norm2d", "Norm3d")
VANISHING, EXPLODING = 1e-3, 70.0  # gradient of the first layer to that of the last: AutoTrainer (Zhang et al. 2021)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, whether it is as it should be, and what to do if not."""

    good: bool
    text: str


@dataclass(frozen=True)
class LayerStart:
    """A layer with parameters before the first update; NaN where there is no such thing.

    `output_rms` is the root mean square of its outputs, `gradient_rms` that of the gradient of its parameters in one
    batch; `dead` the share of rectified units behind it that are zero on a whole batch, `saturated` that of tanh and
    sigmoid units beyond 0.95 of their range.
    """

    name: str
    kind: str
    parameters: int
    output_rms: float
    dead: float
    saturated: float
    gradient_rms: float


@dataclass(frozen=True)
class Overfit:
    """Whether a few examples were learnt by heart: at which learning rate, from which loss to which, in what time."""

    examples: int
    lr: float
    first: float
    lowest: float
    steps: int
    learnt: bool


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
        _about_loss(start.loss, start.constant),
        _about_inputs(real[0], zero[0], helped, steps),
        _about_overfitting(overfits, overfit_steps),
        *([Finding(False, start.unseen)] if start.unseen else _about_layers(start.layers)),
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


# -- findings ------------------------------------------------------------------------------------------------


def _about_loss(loss: float, level: Constant | None) -> Finding:
    if not math.isfinite(loss):
        return Finding(
            False, f"The loss at the start is {loss}: look for wrong data, or weights that are far too large."
        )
    if level is None:
        return Finding(
            True, f"The loss at the start is {figure(loss, 3)}; what it should be is not known for this loss."
        )
    if level.even is None:
        return _about_numbers(loss, level)
    should = f"ln {level.classes} = {figure(level.even, 3)} without knowledge"
    if level.even - level.best > 0.05 * level.even:
        should += f", and {figure(level.best, 3)} with the label frequencies alone"
    said = f"The loss at the start is {figure(loss, 3)}; it should be {should}"
    if loss > max(TOO_HIGH * level.even, level.even + NATS):
        cure = "Make the last layer's weights smaller, or normalise the inputs."
        return Finding(False, f"{said}: the network is sure of what it cannot know. {cure}")
    if loss < TOO_LOW * level.best:
        return Finding(False, f"{said}: so low only a pretrained network can be, or one that sees the labels.")
    hint = ""
    if level.even - level.best > 0.1 * level.even and loss > (level.even + level.best) / 2:
        hint = " Set the last bias to the logarithms of the frequencies to save the first updates."
    return Finding(True, f"{said}: good.{hint}")


def _about_numbers(loss: float, level: Constant) -> Finding:
    said = f"The loss at the start is {figure(loss, 3)}; always the best constant would give {figure(level.best, 3)}"
    if loss > 2 * TOO_HIGH * level.best:
        cure = "Standardise the targets, or set the last bias to their mean and make the last weights smaller."
        return Finding(False, f"{said}. {cure}")
    if loss < TOO_LOW * level.best:
        return Finding(False, f"{said}: so low only a pretrained network can be, or one that sees the targets.")
    return Finding(True, f"{said}: good.")


def _about_inputs(real: float, zero: float, helped: bool, steps: int) -> Finding:
    said = f"After {steps} updates the loss is {figure(real, 3)}, and {figure(zero, 3)} where all inputs are zero"
    if not math.isfinite(real):
        return Finding(
            False, f"In {steps} updates the loss leaves the finite numbers: try a lower lr (rheostat probe lr)."
        )
    if helped:
        return Finding(True, f"{said}: it learns from its inputs.")
    return Finding(
        False,
        f"{said}: it learns nothing from its inputs. See that inputs and labels belong together and are not constant, "
        "and try another lr (rheostat probe lr).",
    )


def _about_overfitting(tried: Sequence[Overfit], steps: int) -> Finding:
    own, last = tried[0], tried[-1]
    if own.learnt:
        return Finding(
            True, f"It learns {own.examples} examples by heart in {own.steps} updates: network and training work."
        )
    said = f"With lr={figure(own.lr)} it does not learn {own.examples} examples by heart in {steps} updates (loss "
    said += f"{figure(own.first, 3)} to {figure(own.lowest, 3)})"
    if last.learnt:
        return Finding(False, f"{said}, but with lr={figure(last.lr)} in {last.steps}: the learning rate is to blame.")
    rates = listed([figure(overfit.lr) for overfit in tried[1:]])
    return Finding(
        False,
        f"{said}, nor with lr={rates}. Something is wrong with the network, the loss or the labels, or the network is "
        "too small: mend that before any tuning.",
    )


def _about_layers(layers: Sequence[LayerStart]) -> list[Finding]:
    """At most one finding on each of dead units, saturated ones, and gradients."""
    found = []
    dead = [layer for layer in layers if layer.dead > HALF]
    if dead:
        shares = listed([f"{percent(layer.dead)} of {layer.name}" for layer in dead[:3]])
        cure = "Use He initialisation, biases of 0 or a little more, a norm layer, or leaky_relu or gelu."
        found.append(Finding(False, f"Units that are zero for every example: {shares}. {cure}"))
    saturated = [layer for layer in layers if layer.saturated > HALF]
    if saturated:
        shares = listed([f"{percent(layer.saturated)} of {layer.name}" for layer in saturated[:3]])
        cure = "Make the weights smaller, normalise the inputs, or use relu."
        found.append(Finding(False, f"Saturated units, through which hardly any gradient comes: {shares}. {cure}"))
    trained = [layer for layer in layers if layer.gradient_rms >= 0 and not layer.kind.endswith(OTHER_SIZES)]
    if len(trained) > 1:
        first, last = trained[0], trained[-1]
        ratio = first.gradient_rms / last.gradient_rms if last.gradient_rms > 0 else math.inf
        said = f"The gradient of {first.name} is {figure(ratio)} times that of {last.name}"
        if ratio < VANISHING:
            cure = "Use relu, a norm layer, residual connections, or a gated cell."
            found.append(Finding(False, f"{said}: it vanishes on the way. {cure}"))
        elif ratio > EXPLODING:
            cure = "Make the weights smaller, add a norm layer, or clip gradients (clip_norm=1)."
            found.append(Finding(False, f"{said}: it explodes on the way. {cure}"))
    if not found and layers:
        found.append(Finding(True, "No layer is dead or saturated, and gradients keep their size from layer to layer."))
    return found


def _cell(value: float) -> str:
    return "" if math.isnan(value) else figure(value)
