"""Rectified units that never fire."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import worst_layer
from rheostat.diagnose.wording import change, multiplied, percent

MANY = 0.5  # of the units of a layer


def detect(run: Observations) -> Sequence[Symptom]:
    """More than half of the rectified units of a layer are zero on every one of the examples looked at."""
    layer, share, epoch = worst_layer(run, "dead", MANY)
    return [Symptom(f"{percent(share)} of the units of {layer} never fire.", epoch)] if epoch else []


def remedy(run: Observations) -> Action:
    _, _, epoch = worst_layer(run, "dead", MANY)
    if epoch == 1:
        return Action("Start biases at 0 and weights as He et al. 2015 do; or use leaky rectifiers, or a norm layer.")
    text = (
        f"Divide the learning rate by 3{multiplied(run, 'lr', 1 / 3)}; if units still die, use leaky rectifiers "
        "or a norm layer."
    )
    return change(run, text, times={"lr": 1 / 3})


PATHOLOGY = Pathology(
    name="dead_units",
    title="Dead units",
    words="Rectified units that are zero for every example get no gradient and never recover: part of the network "
    "is lost.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("bad_initialisation", "lr_too_high", "vanishing_gradient"),
    leads_to=("frozen_layer", "not_learning", "class_collapse"),
    probe="other_seed",
    sources=(
        "cs231n, Neural networks 1: as much as 40% of units can die where the rate is too high",
        "SageMaker Debugger, DeadRelu: over half of a layer",
        "He et al. 2015 (arXiv 1502.01852), section 2.2",
    ),
)
