"""The learning rate is too low."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rheostat.diagnose.base import Action, Observations, Pathology, Symptom
from rheostat.diagnose.shapes import (
    best_epoch,
    last_fall,
    losses,
    measured,
    rises,
    total_fall,
    typical,
    untrained_loss,
)
from rheostat.diagnose.wording import change, multiplied, number, percent

STILL_FALLING = 0.02  # over the last quarter of the run
SMALL_FALL = 0.1  # in all
FITTED = 0.05  # of the loss at the start: below, a slow rate is no fault
SMALL_UPDATE = 2e-4  # of the weights' norm, in the median layer; 1e-3 is usual (cs231n)

GOOD_UPDATE = 0.02  # of the weights' norm, in the median layer of small networks at their best rates
FACTORS = (3.0, 10.0, 30.0, 100.0, 300.0)


def detect(run: Observations) -> Sequence[Symptom]:
    """The loss is lowest at the end, still above 5% of its start, fell by over 2% in the last quarter, and rose in
    fewer than a tenth of the epochs; or it fell by under 10% in all without a rise; or a median layer's updates are
    below 0.02% of its weights.
    """
    found = []
    name, curve = losses(run)
    epochs, _ = measured(curve)
    if len(epochs) >= 2 and rises(curve) <= 0.1:
        fallen, lately = total_fall(curve, untrained_loss(run)), last_fall(curve)
        at_end = best_epoch(curve) >= 0.97 * epochs[-1] and lately > STILL_FALLING
        if 0 < fallen < SMALL_FALL:
            text = f"After {len(curve)} epochs the {name} has fallen by only {percent(fallen)}, without a rise."
            found.append(Symptom(text))
        elif len(epochs) >= 4 and at_end and fallen < 1 - FITTED:
            text = f"The {name} fell without a bounce to the end, by {percent(lately)} in the last quarter."
            found.append(Symptom(text))
    if not math.isnan(ratio := _update(run)) and ratio < SMALL_UPDATE:
        found.append(Symptom(f"An update changes the weights of a median layer by only {percent(ratio)}."))
    return found


def _update(run: Observations) -> float:
    """The median over layers of the typical size of an update, as a share of the weights; NaN where not observed."""
    ratios = sorted(typical(run, "update_ratio").values())
    return ratios[len(ratios) // 2] if ratios else math.nan


def remedy(run: Observations) -> Action:
    by = _factor(run)
    text = f"Multiply the learning rate by {number(by)}{multiplied(run, 'lr', by)}."
    return change(run, text, times={"lr": by})


def _factor(run: Observations) -> float:
    """How far the rate is from a good one, from the size of the updates, else from how far the loss fell.

    On 21 controlled runs of four networks the best rate was one to four times higher than this comes to, or as much
    lower; of one of the networks, 17 times higher. They began at rates five to 1,600 times too low.
    """
    ratio = _update(run)
    if ratio > 0:
        return min(FACTORS, key=lambda factor: abs(math.log(factor * ratio / GOOD_UPDATE)))
    _, curve = losses(run)
    fallen = total_fall(curve, untrained_loss(run))
    return 100.0 if fallen < 0.05 else 30.0 if fallen < 0.2 else 10.0 if fallen < 0.5 else 3.0


PATHOLOGY = Pathology(
    name="lr_too_low",
    title="Learning rate too low",
    words="Both losses fall smoothly and slowly and are still falling at the end: each step is a small part of what "
    "the network could bear.",
    detect=detect,
    remedy=remedy,
    learnt=True,
    confused_with=("too_short", "decay_too_early", "vanishing_gradient", "clipped_too_hard", "batch_too_large"),
    leads_to=("not_learning", "class_collapse"),
    probe="lr_up",
    sources=(
        "Goodfellow, Bengio and Courville 2016, Deep Learning, section 11.4.1",
        "cs231n, Neural networks 3: the ratio of updates to weights is about 1e-3",
        "the thresholds: chosen in a pilot of 1,560 small runs, of which half had too low a rate",
    ),
)
