"""A layer that is never updated."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import measured

STILL = 1e-7  # of the weights' norm: beneath the precision of a weight
ALIVE = 1e-5


def detect(run: Observations) -> Sequence[Symptom]:
    """The updates of a layer never exceed 1e-7 of its weights, at two epochs at least, while another's exceed 1e-5."""
    largest = {}
    seen = 0
    for layer, curve in run.layers.get("update_ratio", {}).items():
        epochs, values = measured(curve)
        if len(values):
            largest[layer] = float(values.max())
            seen = max(seen, len(epochs))
    still = [layer for layer, size in largest.items() if size < STILL]
    if seen < 2 or not still or not max(largest.values()) > ALIVE:
        return []
    return [Symptom(f"{', '.join(still)} never changed.", 1)]


def remedy(run: Observations) -> Action:
    return Action("Let the optimiser train every layer: check requires_grad and the parameters it was given.")


PATHOLOGY = Pathology(
    name="frozen_layer",
    title="Frozen layer",
    words="A layer keeps its initial weights: the optimiser does not know it, or its gradient is switched off.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("vanishing_gradient", "too_small", "dead_units"),
    leads_to=("not_learning", "vanishing_gradient"),
    probe="larger",
    sources=("SageMaker Debugger, UnchangedTensor: equal within 1e-5 over three steps",),
)
