"""Tanh or sigmoid units on their flat parts."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import worst_layer
from rheostat.diagnose.wording import change, percent

MANY = 0.5  # of the activations of a layer


def detect(run: Observations) -> Sequence[Symptom]:
    """More than half of the tanh or sigmoid activations of a layer are beyond 95% of their range."""
    layer, share, epoch = worst_layer(run, "saturated", MANY)
    return [Symptom(f"{percent(share)} of the activations of {layer} are at their limit.", epoch)] if epoch else []


def remedy(run: Observations) -> Action:
    if "init" in run.config:
        return change(run, "Start with standard weights: init at 1.", set={"init": 1.0})
    if run.config.get("activation") in ("tanh", "sigmoid"):
        return change(run, "Use rectified units, or standardise inputs and start smaller.", set={"activation": "relu"})
    return Action("Standardise the inputs and start with smaller weights; or use rectified units, or a norm layer.")


PATHOLOGY = Pathology(
    name="saturated_units",
    title="Saturated units",
    words="Tanh or sigmoid units sit on the flat ends of their curves, where the gradient is next to nothing.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("vanishing_gradient", "bad_initialisation", "input_scale"),
    leads_to=("vanishing_gradient", "not_learning", "class_collapse"),
    probe="lr_up",
    sources=(
        "Glorot and Bengio 2010, Understanding the difficulty of training deep feedforward networks, section 3",
        "SageMaker Debugger, SaturatedActivation: over half of a layer, but far further out",
    ),
)
