"""DeepDiagnosis: Wardat et al. 2022, *DeepDiagnosis: automatically diagnosing faults and recommending actionable
fixes in deep learning programs*, ICSE.

Section 3 (symptoms, and the decision tree from a symptom to a fix) and the authors' code (callback/callbacks.py), whose
thresholds these are. The first symptom in time ends their run. Where the ratio of updates to
weights of any layer then lies outside 1e-5 to 1e-1, the fix is the learning rate, which is ranked first; else what
the symptom says: numerical error, diverged; dead node, dead_units; saturated activation, saturated_units;
unchanged weights, frozen_layer; vanishing gradient, vanishing_gradient. A loss or an accuracy that stays the same
to the last digit says nothing by itself.

Stand-ins: they count activations at or below zero (70 % of a layer, after the last epoch) and inputs of tanh beyond
±5 (half of a layer); ours are units that never fire, and units beyond 0.95 of their range. Left out, for they need
weights, inputs or outputs themselves: poor weights, data that are not normalised, outputs out of range.
"""

from __future__ import annotations

import numpy as np

from benchmarks.pathologies.published.reading import accuracy
from rheostat.diagnose.base import Curve, Observations
from rheostat.diagnose.shapes import at_end_of_plan, breakdown

DEAD_SHARE, SATURATED_SHARE = 0.7, 0.5
VANISHED = 1e-7
USUAL_RATIO = 1e-3  # of updates to weights; the rate is at fault a hundred times above or below
LOSSES, ACCURACIES = 5, 20  # epochs in which they stay the same


def causes(run: Observations) -> list[str]:
    """The fix for the first symptom and what the symptom itself is called."""
    lost = breakdown(run)
    for epoch in range(1, run.epochs + 1):
        symptom = "diverged" if lost is not None and lost <= epoch else _symptom(run, epoch)
        if symptom is not None:
            return [*_of_rate(run, epoch), *([symptom] if symptom else [])]
    return ["diverged"] if lost is not None else []


def _symptom(run: Observations, epoch: int) -> str | None:
    """What is seen after an epoch; empty where it has no name of ours, None for nothing."""

    def any_layer(measure: str, holds: np.ufunc, bound: float) -> bool:
        return any(bool(holds(curve[epoch - 1], bound)) for curve in run.layers.get(measure, {}).values())

    if epoch == run.epochs and at_end_of_plan(run) and any_layer("dead", np.greater_equal, DEAD_SHARE):
        return "dead_units"
    if any_layer("saturated", np.greater, SATURATED_SHARE):
        return "saturated_units"
    if any_layer("gradient_norm", np.less, VANISHED):
        return "vanishing_gradient"
    if any_layer("update_ratio", np.equal, 0.0):
        return "frozen_layer"
    stuck = _constant(run.curve("train_loss")[:epoch], LOSSES)
    return "" if stuck or _constant(accuracy(run, "val")[:epoch], ACCURACIES) else None


def _constant(values: Curve, epochs: int) -> bool:
    latest = values[-epochs:]
    return len(values) >= epochs and bool((latest == latest[0]).all())


def _of_rate(run: Observations, epoch: int) -> list[str]:
    """What the latest ratios of updates to weights say, of any layer."""
    for curve in run.layers.get("update_ratio", {}).values():
        known = curve[:epoch][np.isfinite(curve[:epoch])]
        if len(known) and known[-1] > 100 * USUAL_RATIO:
            return ["lr_too_high"]
        if len(known) and known[-1] < USUAL_RATIO / 100:
            return ["lr_too_low"]
    return []
