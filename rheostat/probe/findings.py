"""What a look at an untrained network says: findings, each with what to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rheostat.probe.constant import Constant
from rheostat.probe.words import figure, listed, percent

TOO_HIGH, TOO_LOW = 1.5, 0.5  # times the loss that a network without knowledge should have
NATS = 1.0  # above which it is too high in any case: outputs of size 1 are usual, and cost half of it
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


def about_loss(loss: float, level: Constant | None) -> Finding:
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


def about_inputs(real: float, zero: float, helped: bool, steps: int) -> Finding:
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


def about_overfitting(tried: Sequence[Overfit], steps: int) -> Finding:
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


def about_layers(layers: Sequence[LayerStart]) -> list[Finding]:
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
