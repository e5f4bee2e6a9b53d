"""Tanh or sigmoid units on their flat parts."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import worst_layer
from rheostat.diagnose.wording import change, percent

EARLY = 0.5  # of the activations of a layer, after the first epoch
LATE = 0.85  # ever: sound networks come to 70% as they grow sure


def detect(run: Observations) -> Sequence[Symptom]:
    """More than half of the tanh or sigmoid activations of a layer are beyond 95% of their range after the first
    epoch, or more than 85% later.
    """
    for seen, least in ((run.until(1), EARLY), (run, LATE)):
        layer, share, epoch = worst_layer(seen, "saturated", least)
        if epoch:
            return [Symptom(f"{percent(share)} of the activations of {layer} are at their limit.", epoch)]
    return []


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
