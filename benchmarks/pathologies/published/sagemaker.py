"""Amazon SageMaker Debugger: its built-in rules with their default parameters.

*List of Debugger built-in rules*, Amazon SageMaker developer guide, one page a rule. Each is on or off for the whole
run; they are ranked here from the gravest. Their names and ours: ExplodingTensor, diverged; DeadRelu, dead_units;
SaturatedActivation, saturated_units; VanishingGradient, vanishing_gradient; UnchangedTensor, frozen_layer;
WeightUpdateRatio, lr_too_high above and lr_too_low below its band; LossNotDecreasing, lr_too_low; Overfit and
Overtraining, overfitting.

Stand-ins, both in their favour: SaturatedActivation asks for inputs of tanh beyond ±9.4999, where ours are units beyond
0.95 of their range; VanishingGradient compares the mean of gradients, of which the norm of a layer is an upper bound.
An epoch takes the place of the steps between which they save. Left out, for they need tensors that are not
observed: PoorWeightInitialization, TensorVariance, ClassImbalance, CheckInputImages, AllZero, NLPSequenceRatio.
"""

from __future__ import annotations

import numpy as np

from benchmarks.pathologies.published.reading import at_end, by_epoch, ranked
from rheostat.diagnose.base import Curve, Observations
from rheostat.diagnose.shapes import breakdown, measured

DEAD_SHARE, SATURATED_SHARE = 0.5, 0.5  # threshold_layer
VANISHED = 1e-7
LARGE_RATIO, SMALL_RATIO = 10.0, 1e-8
LEAST_FALL, STEPS = 0.001, 10  # of LossNotDecreasing: diff_percent, num_steps
GAP, GAP_PATIENCE = 0.1, 1  # of Overfit
DELTA, PATIENCE_VALIDATION = 0.01, 10  # of Overtraining


def causes(run: Observations) -> list[str]:
    """The rules that fire, the gravest first."""
    ratios = [ratio for row in by_epoch(run, "update_ratio") for ratio in row]
    losses, val_losses = run.curve("train_loss"), run.curve("val_loss")
    rules = {
        "diverged": [breakdown(run) is not None],
        "dead_units": [share > DEAD_SHARE for row in by_epoch(run, "dead") for share in row],
        "saturated_units": [share > SATURATED_SHARE for row in by_epoch(run, "saturated") for share in row],
        "vanishing_gradient": [norm < VANISHED for row in by_epoch(run, "gradient_norm") for norm in row],
        "frozen_layer": [ratio == 0 for ratio in at_end(run, "update_ratio")],
        "lr_too_high": [ratio > LARGE_RATIO for ratio in ratios],
        "lr_too_low": [*(ratio < SMALL_RATIO for ratio in ratios), _not_decreasing(losses, run)],
        "overfitting": [_overfit(losses, val_losses), _overtrained(val_losses)],
    }
    return ranked(cause for cause, fired in rules.items() if any(fired))


def _not_decreasing(losses: Curve, run: Observations) -> bool:
    """Whether the loss fell by less than LEAST_FALL between epochs STEPS updates apart, or more."""
    _, values = measured(losses)
    apart = max(int(np.ceil(STEPS / max(run.facts.get("steps_per_epoch", STEPS), 1))), 1)
    earlier, later = values[:-apart], values[apart:]
    return bool((later > (1 - LEAST_FALL) * earlier).any())


def _overfit(losses: Curve, val_losses: Curve) -> bool:
    above = (val_losses - losses) > GAP * losses
    return int(above.sum()) >= GAP_PATIENCE


def _overtrained(val_losses: Curve) -> bool:
    """Whether validation went PATIENCE_VALIDATION epochs without falling by DELTA."""
    best, waited = np.inf, 0
    for value in measured(val_losses)[1]:
        waited = 0 if value < best - DELTA else waited + 1
        best = min(best, value)
        if waited >= PATIENCE_VALIDATION:
            return True
    return False
